package audit

import (
	"encoding/hex"
	"encoding/json"
	"time"
)

// name appends the name of a member, after a comma if it is not the first. No
// value ends in the brace that begins an object: texts end in a quotation mark.
func name(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

func member(b []byte, key, value string) []byte { return text(name(b, key), value) }

// optional leaves out a member that says nothing.
func optional(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return member(b, key, value)
}

// digest appends a member in hex.
func digest(b []byte, key string, value []byte) []byte {
	b = hex.AppendEncode(append(name(b, key), '"'), value)
	return append(b, '"')
}

// moment appends a time as stamp writes it.
func moment(b []byte, key string, t time.Time) []byte {
	b = append(name(b, key), '"')
	if !t.IsZero() {
		b = t.UTC().AppendFormat(b, timeLayout)
	}
	return append(b, '"')
}

func texts(b []byte, values []string) []byte {
	if values == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = text(b, v)
	}
	return append(b, ']')
}

// text appends a string. Only what needs no thought is written here; what has to
// be escaped, or is not ASCII, is left to encoding/json.
func text(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return append(b, quoted(s)...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("audit: a string cannot be encoded: " + err.Error()) //nolint:forbidigo // encoding/json takes any string
	}
	return b
}
