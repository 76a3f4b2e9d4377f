package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// errChars marks JSON whose structure is sound but whose strings hold what no
// identity may hold: invalid UTF-8, half a surrogate pair, a NUL.
var errChars = errors.New("forbidden characters")

// jsonLimits bound a decoding, so that its cost is known before it starts.
type jsonLimits struct {
	// depth is how deep objects and arrays may nest.
	depth int
	// members is how many members all objects together may have. Array elements
	// are bounded by the size of the input: a user in 200 groups is no attack.
	members int
}

// decodeObject decodes one JSON object (RFC 8259) and nothing after it.
//
// encoding/json cannot be used for tokens: it takes the last of duplicate
// members, replaces invalid UTF-8 silently so that two subjects become one, and
// fills structs by case folding, so that "ſub" overrides "sub". RFC 7519,
// Section 4: "The Claim Names within a JWT Claims Set MUST be unique; JWT
// parsers MUST either reject JWTs with duplicate Claim Names or use a JSON
// parser that returns only the lexically last duplicate member name". We reject,
// at every depth.
//
// Values are string, bool, json.Number, []any, map[string]any and nil.
func decodeObject(text string, limits jsonLimits) (map[string]any, error) {
	d, err := newDecoder(text, limits)
	if err != nil {
		return nil, err
	}
	v, err := d.object(1)
	if err != nil {
		return nil, err
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return v, nil
}

// decoder is a recursive descent parser over valid UTF-8.
type decoder struct {
	// text is a string so that what has no escapes in it is a part of text, and
	// not a copy. The whole lives as long as a part of it does.
	text    string
	pos     int
	members int
	// counted is up to where commas have made room in an array.
	counted int
	limits  jsonLimits
}

// newDecoder returns a decoder that stands at the brace of an object.
func newDecoder(text string, limits jsonLimits) (decoder, error) {
	d := decoder{text: text, limits: limits}
	if !utf8.ValidString(text) {
		return d, fmt.Errorf("%w: invalid UTF-8", errChars)
	}
	d.space()
	if d.peek() != '{' {
		return d, errors.New("not a JSON object")
	}
	return d, nil
}

// end demands that nothing follows.
func (d *decoder) end() error {
	d.space()
	if d.pos != len(d.text) {
		return d.errorf("data after the object")
	}
	return nil
}

func (d *decoder) errorf(format string, args ...any) error {
	return fmt.Errorf("JSON offset %d: %w", d.pos, fmt.Errorf(format, args...))
}

// peek returns the next byte, or zero at the end; no token of JSON is a zero.
func (d *decoder) peek() byte {
	if d.pos < len(d.text) {
		return d.text[d.pos]
	}
	return 0
}

func (d *decoder) space() {
	for d.pos < len(d.text) {
		switch d.text[d.pos] {
		case ' ', '\t', '\r', '\n':
			d.pos++
		default:
			return
		}
	}
}

func (d *decoder) value(depth int) (any, error) {
	switch c := d.peek(); {
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.array(depth)
	case c == '"':
		return d.string()
	case c == '-' || isDigit(c):
		return d.number()
	}
	for _, lit := range literals {
		if strings.HasPrefix(d.text[d.pos:], lit.text) {
			d.pos += len(lit.text)
			return lit.value, nil
		}
	}
	return nil, d.errorf("not a value")
}

var literals = []struct {
	text  string
	value any
}{{"true", true}, {"false", false}, {"null", nil}}

// stringOnly returns a string; another value it reads and does not return.
func (d *decoder) stringOnly(depth int) (text string, isString bool, err error) {
	if d.peek() == '"' {
		text, err = d.string()
		return text, true, err
	}
	_, err = d.value(depth)
	return "", false, err
}

// The outermost object is made with room for about as many members as tokens
// have, because a map that grows is copied each time. So is an array, and those
// of people's groups are long.
const (
	bytesPerMember = 32
	maxRoom        = 24
	maxArrayRoom   = 256
)

func (d *decoder) object(depth int) (map[string]any, error) {
	if depth > d.limits.depth {
		return nil, d.errorf("nested deeper than %d", d.limits.depth)
	}
	room := 0
	if depth == 1 {
		room = min(len(d.text)/bytesPerMember, maxRoom)
	}
	m := make(map[string]any, room)
	for more, err := d.open('}'); more || err != nil; more, err = d.next('}') {
		if err != nil {
			return nil, err
		}
		name, err := d.name()
		if err != nil {
			return nil, err
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		before := len(m)
		if m[name] = v; len(m) == before {
			return nil, d.duplicate(name)
		}
	}
	return m, nil
}

// name reads the name of a member and the colon, up to its value.
func (d *decoder) name() (string, error) {
	if d.members++; d.members > d.limits.members {
		return "", d.errorf("more than %d members", d.limits.members)
	}
	d.space()
	if d.peek() != '"' {
		return "", d.errorf("not a member name")
	}
	name, err := d.string()
	if err != nil {
		return "", err
	}
	d.space()
	if d.peek() != ':' {
		return "", d.errorf("no colon after a member name")
	}
	d.pos++
	d.space()
	return name, nil
}

func (d *decoder) duplicate(name string) error {
	return d.errorf("duplicate member %.64q", name)
}

func (d *decoder) array(depth int) ([]any, error) {
	if depth > d.limits.depth {
		return nil, d.errorf("nested deeper than %d", d.limits.depth)
	}
	a := []any{}
	for more, err := d.open(']'); more || err != nil; more, err = d.next(']') {
		if err != nil {
			return nil, err
		}
		d.space()
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if len(a) == cap(a) {
			a = slices.Grow(a, 1+d.commas())
		}
		a = append(a, v)
	}
	return a, nil
}

// commas counts the commas in what is left of an array, if none of its elements
// has a bracket in it, up to a limit; it is a hint. None counts twice: one comma,
// perhaps in a string, would make room in each array around it.
func (d *decoder) commas() int {
	end := d.pos + strings.IndexByte(d.text[d.pos:], ']')
	start := max(d.pos, d.counted)
	if start >= end {
		return 0
	}
	d.counted = end
	return min(strings.Count(d.text[start:end], ","), maxArrayRoom)
}

// open consumes a bracket and reports that something is inside, or consumes end,
// too.
func (d *decoder) open(end byte) (more bool, err error) {
	d.pos++
	d.space()
	if d.peek() == end {
		d.pos++
		return false, nil
	}
	return true, nil
}

// next consumes a comma and reports that more follows, or consumes end.
func (d *decoder) next(end byte) (more bool, err error) {
	d.space()
	switch d.peek() {
	case ',':
		d.pos++
		return true, nil
	case end:
		d.pos++
		return false, nil
	}
	return false, d.errorf("neither a comma nor %q", end)
}

func (d *decoder) string() (string, error) {
	d.pos++ // "
	start := d.pos
	for i := start; i < len(d.text); i++ {
		switch c := d.text[i]; {
		case c == '"':
			d.pos = i + 1
			return d.text[start:i], nil
		case c == '\\' || c < 0x20:
			d.pos = i
			return d.escaped(start)
		}
	}
	return "", d.errorf("unterminated string")
}

// escaped reads the rest of a string that began at start and has an escape, or
// what must not be in a string, at pos.
func (d *decoder) escaped(start int) (string, error) {
	var buf []byte
	for d.pos < len(d.text) {
		switch c := d.text[d.pos]; {
		case c == '"':
			buf = append(buf, d.text[start:d.pos]...)
			d.pos++
			return string(buf), nil
		case c == '\\':
			buf = append(buf, d.text[start:d.pos]...)
			var err error
			if buf, err = d.escape(buf); err != nil {
				return "", err
			}
			start = d.pos
		case c < 0x20:
			return "", d.errorf("unescaped control character")
		default:
			d.pos++
		}
	}
	return "", d.errorf("unterminated string")
}

// escape appends what the escape sequence at pos stands for.
func (d *decoder) escape(buf []byte) ([]byte, error) {
	d.pos++ // backslash
	c := d.peek()
	d.pos++
	switch c {
	case '"', '\\', '/':
		return append(buf, c), nil
	case 'b':
		return append(buf, '\b'), nil
	case 'f':
		return append(buf, '\f'), nil
	case 'n':
		return append(buf, '\n'), nil
	case 'r':
		return append(buf, '\r'), nil
	case 't':
		return append(buf, '\t'), nil
	case 'u':
	default:
		return nil, d.errorf("unknown escape")
	}
	r, err := d.hex4()
	if err != nil {
		return nil, err
	}
	if utf16.IsSurrogate(r) {
		// RFC 8259, Section 8.2: "when all the strings represented in a JSON
		// text are composed entirely of Unicode characters (however escaped),
		// then that JSON text is interoperable". Half a pair is not one.
		if !strings.HasPrefix(d.text[min(d.pos, len(d.text)):], `\u`) {
			return nil, d.errorf("%w: lone surrogate", errChars)
		}
		d.pos += 2
		low, err := d.hex4()
		if err != nil {
			return nil, err
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return nil, d.errorf("%w: lone surrogate", errChars)
		}
	}
	if r == 0 {
		// A NUL ends a C string: what Go sees as "admin\x00@evil" others see
		// as "admin". No claim has a use for it.
		return nil, d.errorf("%w: NUL", errChars)
	}
	return utf8.AppendRune(buf, r), nil
}

func (d *decoder) hex4() (rune, error) {
	if len(d.text)-d.pos < 4 {
		return 0, d.errorf("short \\u escape")
	}
	var r rune
	for range 4 {
		c := d.text[d.pos]
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, d.errorf("bad \\u escape")
		}
		r = r<<4 | rune(c)
		d.pos++
	}
	return r, nil
}

// number keeps the digits: a 64-bit run number loses its last ones as a float.
//
//	number = [ "-" ] int [ frac ] [ exp ]    (RFC 8259, Section 6)
func (d *decoder) number() (json.Number, error) {
	start := d.pos
	if d.peek() == '-' {
		d.pos++
	}
	if d.peek() == '0' {
		d.pos++
	} else if !d.digits() {
		return "", d.errorf("bad number")
	}
	if d.peek() == '.' {
		d.pos++
		if !d.digits() {
			return "", d.errorf("bad fraction")
		}
	}
	if c := d.peek(); c == 'e' || c == 'E' {
		d.pos++
		if c := d.peek(); c == '+' || c == '-' {
			d.pos++
		}
		if !d.digits() {
			return "", d.errorf("bad exponent")
		}
	}
	return json.Number(d.text[start:d.pos]), nil
}

// digits consumes digits and reports that there was at least one.
func (d *decoder) digits() bool {
	start := d.pos
	for isDigit(d.peek()) {
		d.pos++
	}
	return d.pos > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
