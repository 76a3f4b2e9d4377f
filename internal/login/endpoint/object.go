package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxDepth is how deep objects and arrays may nest.
	MaxDepth = 16
	// MaxMembers is how many members all objects together may have.
	MaxMembers = 2000
)

// Object decodes one JSON object and nothing after it. It refuses what the
// service refuses too, so that nobody learns only there that a token is of no
// use: duplicate members, invalid UTF-8, half surrogate pairs, NUL. Values are
// string, bool, json.Number, []any, map[string]any and nil.
func Object(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("JSON is not UTF-8")
	}
	d := decoder{dec: json.NewDecoder(bytes.NewReader(data))}
	d.dec.UseNumber()
	v, err := d.value(1)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	if _, err := d.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the JSON object")
	}
	return m, nil
}

type decoder struct {
	dec     *json.Decoder
	members int
}

// value reads tokens, because Decode takes the last of duplicate members.
func (d *decoder) value(depth int) (any, error) {
	tok, err := d.dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if s, ok := tok.(string); ok {
		return s, checkText(s)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth > MaxDepth {
		return nil, fmt.Errorf("JSON is nested deeper than %d", MaxDepth)
	}
	if delim == '{' {
		return d.object(depth)
	}
	list := []any{}
	for d.dec.More() {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if _, err := d.dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	return list, nil
}

func (d *decoder) object(depth int) (map[string]any, error) {
	m := make(map[string]any)
	for d.dec.More() {
		tok, err := d.dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, ok := tok.(string)
		if !ok {
			return nil, errors.New("a JSON member has no name")
		}
		if err := checkText(name); err != nil {
			return nil, err
		}
		if _, dup := m[name]; dup {
			return nil, fmt.Errorf("JSON member %.64q stands there twice", name)
		}
		if d.members++; d.members > MaxMembers {
			return nil, fmt.Errorf("JSON has more than %d members", MaxMembers)
		}
		if m[name], err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	if _, err := d.dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	return m, nil
}

// notJSON hides the decoder's words, which quote the input.
func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("JSON ends too early")
	}
	return errors.New("not JSON")
}

// checkText refuses a replacement character as well: it is what the decoder
// makes of half a surrogate pair.
func checkText(s string) error {
	if strings.ContainsAny(s, "\x00\uFFFD") {
		return errors.New("JSON holds characters that no identity may hold")
	}
	return nil
}

// Text returns a member that is a string, or "".
func Text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

// Texts returns the strings of a member that is a string or a list of them. It
// reports false when the member is anything else.
func Texts(m map[string]any, name string) ([]string, bool) {
	switch v := m[name].(type) {
	case string:
		return []string{v}, true
	case []any:
		list := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// Offers reports whether a list of strings holds a value.
func Offers(m map[string]any, name, value string) bool {
	list, ok := Texts(m, name)
	return ok && slices.Contains(list, value)
}

// Plain makes foreign text fit for a terminal: on one line, of at most limit
// bytes, without control sequences.
func Plain(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
