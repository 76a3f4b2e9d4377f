package server

import (
	"bytes"
	"encoding/base64"
)

// plainV2 and plainV1 read the bodies that clients send: the members that the API
// has, each at most once, of printable ASCII whose only escape is the newline of
// PEM, and base64 of the standard alphabet with padding; in version 1, whose
// clients are written in Go, null too. For all else ok is false, and the libraries
// decide what it means: a refusal comes from them alone.
func plainV2(body []byte) (in input, ok bool) {
	p := plain{rest: body}
	ok = p.object(func(name []byte) bool {
		switch string(name) {
		case "credentials":
			return p.first('c') && p.object(func(name []byte) bool {
				return string(name) == "oidcIdentityToken" && p.first('t') && p.text(&in.token)
			})
		case "publicKeyRequest":
			return p.first('k') && p.object(func(name []byte) bool { return p.keyRequest(name, &in) })
		case "certificateSigningRequest":
			return p.first('k') && p.base64(&in.csr) // excludes the key
		}
		return false
	})
	return in, ok && p.ended()
}

func (p *plain) keyRequest(name []byte, in *input) bool {
	switch string(name) {
	case "publicKey":
		return p.first('p') && p.object(func(name []byte) bool {
			switch string(name) {
			case "content":
				return p.first('o') && p.bytes(&in.publicKey)
			case "algorithm":
				return p.first('a') && p.ignored()
			}
			return false
		})
	case "proofOfPossession":
		return p.first('s') && p.base64(&in.proof)
	}
	return false
}

func plainV1(body []byte) (in input, ok bool) {
	p := plain{rest: body}
	ok = p.object(func(name []byte) bool {
		switch string(name) {
		case "publicKey":
			return p.first('p') && (p.null() || p.object(func(name []byte) bool {
				switch string(name) {
				case "content":
					return p.first('o') && (p.null() || p.base64(&in.publicKey))
				case "algorithm":
					return p.first('a') && (p.null() || p.ignored())
				}
				return false
			}))
		case "signedEmailAddress":
			return p.first('s') && (p.null() || p.base64(&in.proof))
		case "certificateSigningRequest":
			return p.first('k') && (p.null() || p.base64(&in.csr))
		}
		return false
	})
	return in, ok && p.ended()
}

// plain is what is left to read. Its methods read one thing after white space and
// report whether it was there; after a false nothing more may be read.
type plain struct {
	rest []byte
	// seen has a bit for each member that was there, by a letter of its own.
	seen uint32
}

// first reports whether a member was not there before.
func (p *plain) first(member byte) bool {
	bit := uint32(1) << (member - 'a')
	again := p.seen&bit != 0
	p.seen |= bit
	return !again
}

// object calls member for the name of each member, to read the value.
func (p *plain) object(member func(name []byte) bool) bool {
	if !p.take('{') {
		return false
	}
	if p.take('}') {
		return true
	}
	for {
		name, escapes, ok := p.quoted()
		if !ok || escapes > 0 || !p.take(':') || !member(name) {
			return false
		}
		if p.take('}') {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

// skip passes over white space (RFC 8259, Section 2).
func (p *plain) skip() { p.rest = bytes.TrimLeft(p.rest, " \t\n\r") }

func (p *plain) take(b byte) bool {
	p.skip()
	if len(p.rest) == 0 || p.rest[0] != b {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *plain) ended() bool {
	p.skip()
	return len(p.rest) == 0
}

func (p *plain) null() bool {
	p.skip()
	rest, ok := bytes.CutPrefix(p.rest, []byte("null"))
	p.rest = rest
	return ok
}

// quoted returns the inside of a string as it stands, and how many newlines are
// escaped there.
func (p *plain) quoted() (inside []byte, escapes int, ok bool) {
	if !p.take('"') {
		return nil, 0, false
	}
	for i := 0; i < len(p.rest); i++ {
		switch b := p.rest[i]; {
		case b == '"':
			inside, p.rest = p.rest[:i], p.rest[i+1:]
			return inside, escapes, true
		case b == '\\' && i+1 < len(p.rest) && p.rest[i+1] == 'n':
			escapes++
			i++
		case b == '\\' || b < ' ' || b > '~':
			return nil, 0, false
		}
	}
	return nil, 0, false
}

func (p *plain) ignored() bool {
	_, _, ok := p.quoted()
	return ok
}

func (p *plain) text(dst *string) bool {
	inside, escapes, ok := p.quoted()
	if ok && escapes == 0 {
		*dst = string(inside)
	}
	return ok && escapes == 0
}

func (p *plain) bytes(dst *[]byte) bool {
	inside, escapes, ok := p.quoted()
	if !ok {
		return false
	}
	out := make([]byte, 0, len(inside)-escapes)
	for {
		line, after, more := bytes.Cut(inside, []byte(`\n`))
		out = append(out, line...)
		if !more {
			*dst = out
			return true
		}
		out, inside = append(out, '\n'), after
	}
}

func (p *plain) base64(dst *[]byte) bool {
	inside, escapes, ok := p.quoted()
	if !ok || escapes > 0 {
		return false
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(inside)))
	n, err := base64.StdEncoding.Decode(out, inside)
	*dst = out[:n]
	return err == nil
}
