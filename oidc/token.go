package oidc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/ca"
)

// Bounds of a token's parts.
const (
	maxHeaderBytes = 4 << 10
	maxKeyIDBytes  = 256
)

var (
	headerLimits  = jsonLimits{depth: 4, members: 50}
	payloadLimits = jsonLimits{depth: 16, members: 500}
)

// canonical refuses encodings whose unused bits are set, so that one token has
// one text. It still skips line breaks, which the alphabet check has excluded.
var canonical = base64.RawURLEncoding.Strict()

// token is a JWS in compact serialisation, decoded strictly but not verified.
type token struct {
	// headerText is the header as it was sent, and signed what the signature is
	// over: "header.payload".
	headerText, signed string
	// said is the decoded header, a zero byte, which neither part can have in it,
	// and the decoded payload.
	said                       []byte
	header, payload, signature []byte

	alg, keyID string
	hasKeyID   bool
	// headerType is typ, empty if it is no string; headerTyped says that it is there.
	headerType  string
	headerTyped bool
	// foreignKeys counts header parameters that offer a key: jku, x5u, jwk,
	// x5c. They are never looked at.
	foreignKeys int

	claims map[string]any
	issuer string
}

// parseToken takes a token apart, at a cost bounded by its length, before any
// cryptography. What it returns is not to be believed.
//
// RFC 8725, Section 3.10 and 3.11, and RFC 7515, Section 7.1: only
// BASE64URL(header) || '.' || BASE64URL(payload) || '.' || BASE64URL(signature).
func parseToken(raw string, limit int) (*token, *ca.Refusal) {
	if len(raw) > limit {
		return nil, invalid(ca.ReasonTokenTooLarge, "token of %d bytes, limit %d", len(raw), limit)
	}
	if len(raw) < minTokenBytes {
		return nil, invalid(ca.ReasonTokenMalformed, "token of %d bytes", len(raw))
	}
	switch dots := strings.Count(raw, "."); dots {
	case 2:
	case 4: // RFC 7516, Section 9: a JWE has five parts
		if strings.ContainsFunc(raw, notInTokens) { // two tokens have as many, when a blank stands between them
			return nil, invalid(ca.ReasonTokenMalformed, "token has characters that no token has")
		}
		return nil, invalid(ca.ReasonTokenEncrypted, "token has five parts")
	default:
		return nil, invalid(ca.ReasonTokenMalformed, "token has %d parts", dots+1)
	}
	// The decoder refuses everything else that is not base64url.
	if strings.IndexByte(raw, '\n') >= 0 || strings.IndexByte(raw, '\r') >= 0 {
		return nil, invalid(ca.ReasonTokenMalformed, "line break in token")
	}
	t := &token{}
	if r := t.decode(raw); r != nil {
		return nil, r
	}
	// Strings of the token are parts of this one, and not copies.
	said := string(t.said)
	if r := t.readHeader(said[:len(t.header)]); r != nil {
		return nil, r
	}
	if r := t.readPayload(said[len(t.header)+1:]); r != nil {
		return nil, r
	}
	return t, nil
}

// notInTokens reports whether r is neither in the alphabet of base64url nor the
// dot between parts.
func notInTokens(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '-' && r != '_' && r != '.'
}

// decode decodes the three parts of a token.
func (t *token) decode(raw string) *ca.Refusal {
	first, last := strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.')
	t.headerText, t.signed = raw[:first], raw[:last]
	// One array for all three; none is ever appended to.
	room := make([]byte, canonical.DecodedLen(len(raw))+1)
	header, err := canonical.Decode(room, []byte(raw[:first]))
	if err != nil {
		return notCanonical("header")
	}
	room[header] = 0
	payload, err := canonical.Decode(room[header+1:], []byte(raw[first+1:last]))
	if err != nil {
		return notCanonical("payload")
	}
	end := header + 1 + payload
	signature, err := canonical.Decode(room[end:], []byte(raw[last+1:]))
	if err != nil {
		return notCanonical("signature")
	}
	t.said, t.header, t.payload = room[:end:end], room[:header:header], room[header+1:end:end]
	t.signature = room[end : end+signature : end+signature]
	return nil
}

func notCanonical(part string) *ca.Refusal {
	return invalid(ca.ReasonTokenMalformed, "%s is not canonical base64url", part)
}

// readHeader reads the header without making a map of it: most have three
// members, and strangers send them for nothing.
func (t *token) readHeader(text string) *ca.Refusal {
	if len(text) > maxHeaderBytes {
		return invalid(ca.ReasonTokenMalformed, "header of %d bytes", len(text))
	}
	d, err := newDecoder(text, headerLimits)
	if err != nil {
		return invalid(ca.ReasonTokenMalformed, "header: %w", err)
	}
	refusal, err := t.readParameters(&d)
	switch {
	case err != nil:
		return invalid(ca.ReasonTokenMalformed, "header: %w", err)
	case refusal == nil && t.alg == "":
		return invalid(ca.ReasonTokenMalformed, "header has no alg")
	}
	return refusal
}

// readParameters reads the header to its end; the error is about how it is
// written, and the refusal about what it says.
func (t *token) readParameters(d *decoder) (refusal *ca.Refusal, err error) {
	var room [8]string
	names := room[:0]
	for more, err := d.open('}'); more || err != nil; more, err = d.next('}') {
		if err != nil {
			return nil, err
		}
		name, err := d.name()
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, name) {
			return nil, d.duplicate(name)
		}
		names = append(names, name)
		value, isString, err := d.stringOnly(2)
		if err != nil {
			return nil, err
		}
		if refusal == nil {
			refusal = t.readParameter(name, value, isString)
		}
	}
	return refusal, d.end()
}

// readParameter reads a header parameter; value is empty if it is no string.
func (t *token) readParameter(name, value string, isString bool) *ca.Refusal {
	switch name {
	case "alg":
		t.alg = value
	case "kid":
		if !isString {
			return invalid(ca.ReasonTokenMalformed, "kid is not a string")
		}
		if err := checkKeyID(value); err != nil {
			return invalid(ca.ReasonTokenMalformed, "kid: %w", err)
		}
		t.keyID, t.hasKeyID = value, true
	case "typ":
		t.headerType, t.headerTyped = value, true
	case "jku", "x5u", "jwk", "x5c":
		t.foreignKeys++
	case "enc":
		return invalid(ca.ReasonTokenEncrypted, "header has enc")
	case "crit", "b64", "zip":
		// RFC 7515, Section 4.1.11: a recipient that does not understand a listed
		// extension must refuse. We understand none; b64 (RFC 7797) "MUST NOT" be
		// used with JWTs, and zip belongs to encryption.
		return invalid(ca.ReasonTokenMalformed, "header has %s", name)
	case "nonce":
		// Entra ID signs its own services' tokens, those for Microsoft Graph, over
		// a hash of this nonce: nobody else can verify them.
		return invalid(ca.ReasonTokenType, "header has nonce: the token is for another service's eyes")
	}
	return nil
}

// checkKeyID takes a kid for what it is, a name. It is only ever a map key
// here, but logs and audit records of others will show it.
func checkKeyID(kid string) error {
	if kid == "" || len(kid) > maxKeyIDBytes {
		return fmt.Errorf("%d bytes, want 1 to %d", len(kid), maxKeyIDBytes)
	}
	for _, c := range []byte(kid) {
		if c <= ' ' || c > '~' || strings.IndexByte("\"'`\\;<>", c) >= 0 {
			return fmt.Errorf("contains %q", c)
		}
	}
	if strings.Contains(kid, "../") {
		return errors.New("looks like a path")
	}
	return nil
}

func (t *token) readPayload(text string) *ca.Refusal {
	claims, err := decodeObject(text, payloadLimits)
	switch {
	case errors.Is(err, errChars):
		return invalid(ca.ReasonClaimChars, "payload: %w", err)
	case err != nil:
		return invalid(ca.ReasonTokenMalformed, "payload: %w", err)
	}
	t.claims = claims
	t.issuer, _ = claims["iss"].(string)
	if t.issuer == "" {
		return invalid(ca.ReasonTokenMalformed, "iss is missing, empty or not a string")
	}
	return nil
}

// invalid refuses a token that can never succeed.
func invalid(reason ca.Reason, format string, args ...any) *ca.Refusal {
	return ca.Refuse(ca.KindInvalid, reason, format, args...)
}
