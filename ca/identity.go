package ca

import (
	"log/slog"
	"time"
)

// Identity holds the verified facts of one token, and decides nothing. Whoever
// builds one vouches that the signature, issuer, audience and times were checked.
type Identity struct {
	// IssuerName is the name of the issuer's entry in the configuration. It is
	// what metrics and audit records show.
	IssuerName string
	// Issuer is the issuer URL as configured, byte for byte. It is what goes
	// into the certificate.
	Issuer string
	// Subject is the sub claim: non-empty, free of control characters, at most
	// 1024 bytes.
	Subject string
	// Email is the email claim exactly as the token has it; empty when absent.
	Email string
	// EmailVerified reports that the issuer vouches for Email.
	EmailVerified bool
	// Claims are all claims of the token, decoded once: strings, bools,
	// json.Number, []any, map[string]any and nil. Read only.
	Claims map[string]any
	// Token describes the token that carried the identity, never its text.
	Token TokenFacts
}

// TokenFacts are what is kept of a token for policy and audit.
type TokenFacts struct {
	// Digest is SHA-256 over the decoded header, a zero byte and the decoded
	// payload. It does not change when the encoding of the token does.
	Digest [32]byte
	// KeyID is the kid of the token's header; KeyThumbprint is the RFC 7638
	// SHA-256 thumbprint of the key that verified it, in base64url.
	KeyID, KeyThumbprint string
	Algorithm            string
	// Audience lists every member of aud; AuthorizedParty is azp.
	Audience        []string
	AuthorizedParty string
	// ID is jti; empty when absent.
	ID string
	// IssuedAt, NotBefore and Expires are iat, nbf and exp; NotBefore is zero
	// when absent. Expires already excludes any clock skew allowance.
	IssuedAt, NotBefore, Expires time.Time
	// UsableUntil is Expires plus the clock skew that the issuer's entry
	// grants. Issue refuses when the clock stands at or past it.
	UsableUntil time.Time
	// StaleKeys reports that the issuer's keys were past their refresh time.
	StaleKeys bool
}

// LogValue keeps claims out of logs: a token may carry whatever an identity
// provider chose to put there.
func (id Identity) LogValue() slog.Value {
	return slog.GroupValue(slog.String("issuer", id.IssuerName), slog.String("subject", id.Subject))
}
