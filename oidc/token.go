package oidc

import (
	"encoding/base64"
	"errors"
	"fmt"
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

// inTokens are the bytes of base64url: RFC 4648, Section 5.
var inTokens = func() (set [256]bool) {
	for c := range set {
		b := byte(c)
		set[c] = isAlphanumeric(b) || b == '-' || b == '_'
	}
	return set
}()

// token is a JWS in compact serialisation, decoded strictly but not verified.
type token struct {
	// detached is "header..", with neither payload nor signature.
	detached string
	// signed is what the signature is over: "header.payload".
	signed                     []byte
	header, payload, signature []byte // decoded

	alg, keyID string
	hasKeyID   bool
	// headerType is typ, whatever its type; headerTyped says that it is there.
	headerType  any
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
	dots := 0
	for _, c := range []byte(raw) {
		switch {
		case c == '.':
			dots++
		case !inTokens[c]:
			return nil, invalid(ca.ReasonTokenMalformed, "byte %#02x in token", c)
		}
	}
	switch dots {
	case 2:
	case 4: // RFC 7516, Section 9: a JWE has five parts
		return nil, invalid(ca.ReasonTokenEncrypted, "token has five parts")
	default:
		return nil, invalid(ca.ReasonTokenMalformed, "token has %d parts", dots+1)
	}
	t := &token{}
	if r := t.decode(raw); r != nil {
		return nil, r
	}
	if r := t.readHeader(); r != nil {
		return nil, r
	}
	if r := t.readPayload(); r != nil {
		return nil, r
	}
	return t, nil
}

// decode decodes the three parts of a token.
func (t *token) decode(raw string) *ca.Refusal {
	first, last := strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.')
	t.detached = raw[:first] + ".."
	text := []byte(raw)
	t.signed = text[:last:last]
	// One array for all three; none is ever appended to.
	room := make([]byte, 0, canonical.DecodedLen(len(text)))
	for _, part := range []struct {
		name    string
		encoded []byte
		decoded *[]byte
	}{
		{"header", text[:first], &t.header}, {"payload", text[first+1 : last], &t.payload}, {"signature", text[last+1:], &t.signature},
	} {
		all, err := canonical.AppendDecode(room, part.encoded)
		if err != nil {
			return invalid(ca.ReasonTokenMalformed, "%s is not canonical base64url", part.name)
		}
		*part.decoded = all[len(room):len(all):len(all)]
		room = all
	}
	return nil
}

func (t *token) readHeader() *ca.Refusal {
	if len(t.header) > maxHeaderBytes {
		return invalid(ca.ReasonTokenMalformed, "header of %d bytes", len(t.header))
	}
	h, err := decodeObject(t.header, headerLimits)
	if err != nil {
		return invalid(ca.ReasonTokenMalformed, "header: %w", err)
	}
	if _, ok := h["enc"]; ok {
		return invalid(ca.ReasonTokenEncrypted, "header has enc")
	}
	// RFC 7515, Section 4.1.11: a recipient that does not understand a listed
	// extension must refuse. We understand none; b64 (RFC 7797) "MUST NOT" be
	// used with JWTs, and zip belongs to encryption.
	for _, name := range []string{"crit", "b64", "zip"} {
		if _, ok := h[name]; ok {
			return invalid(ca.ReasonTokenMalformed, "header has %s", name)
		}
	}
	// Entra ID signs its own services' tokens, those for Microsoft Graph, over a
	// hash of this nonce: nobody else can verify them.
	if _, ok := h["nonce"]; ok {
		return invalid(ca.ReasonTokenType, "header has nonce: the token is for another service's eyes")
	}
	var ok bool
	if t.alg, ok = h["alg"].(string); !ok {
		return invalid(ca.ReasonTokenMalformed, "header has no alg")
	}
	if kid, present := h["kid"]; present {
		if t.keyID, ok = kid.(string); !ok {
			return invalid(ca.ReasonTokenMalformed, "kid is not a string")
		}
		if err := checkKeyID(t.keyID); err != nil {
			return invalid(ca.ReasonTokenMalformed, "kid: %w", err)
		}
		t.hasKeyID = true
	}
	for _, name := range []string{"jku", "x5u", "jwk", "x5c"} {
		if _, ok := h[name]; ok {
			t.foreignKeys++
		}
	}
	t.headerType, t.headerTyped = h["typ"]
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

func (t *token) readPayload() *ca.Refusal {
	claims, err := decodeObject(t.payload, payloadLimits)
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
