package audit

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// maxCause bounds the text of an error: causes quote input.
const maxCause = 1024

// The bodies are written field by field. Nothing is ever recorded by encoding a
// type of another package: a field added there must not appear here unnoticed,
// least of all a claim or a token.
//
// Each certificate has two of them, so they are written without reflection, but to
// the byte as encoding/json would write them: FuzzBodies compares.

func marshalIntent(i *ca.Intent) []byte {
	b := appendFacts(append(make([]byte, 0, 2<<10), '{'), &i.Request)
	b = appendKey(name(b, "key"), i.Request.Key)
	b = appendDecision(name(b, "decision"), &i.Decision)
	b = append(name(b, "certificate"), '{')
	b = digest(b, "serial", i.Serial[:])
	b = member(b, "chain", i.Chain)
	b = digest(b, "issuer_key_sha256", i.IssuerKeyHash[:])
	b = digest(b, "tbs_sha256", i.TBSHash[:])
	b = moment(b, "not_before", i.NotBefore)
	b = moment(b, "not_after", i.NotAfter)
	return append(b, "}}"...)
}

// marshalOutcome takes the result apart from the outcome, because nobody knows the
// result of an intent that a crash left open.
func marshalOutcome(o *ca.Outcome, result, note string) []byte {
	b := append(make([]byte, 0, 512), '{')
	b = strconv.AppendUint(name(b, "intent"), o.Intent, 10)
	b = digest(b, "serial", o.Serial[:])
	b = member(b, "result", result)
	if o.CertificateHash != ([32]byte{}) {
		b = digest(b, "certificate_sha256", o.CertificateHash[:])
	}
	s := &o.SCT
	logged := s.Log != "" || s.LogID != ([32]byte{}) || len(s.TLS) > 0
	b = strconv.AppendBool(name(b, "logged"), logged)
	if logged {
		b = append(name(b, "sct"), '{')
		b = member(b, "log", s.Log)
		b = digest(b, "log_id", s.LogID[:])
		b = moment(b, "timestamp", s.Timestamp)
		b = strconv.AppendInt(name(b, "index"), s.Index, 10) // -1 when the log did not say
		b = append(b, '}')
	}
	if o.Err != nil {
		b = appendRefusal(name(b, "refusal"), o.Err)
	}
	return append(optional(b, "note", note), '}')
}

// resultOf is the result that an outcome tells.
func resultOf(o *ca.Outcome) string {
	if o.Err != nil {
		return resultNotIssued
	}
	return resultIssued
}

func marshalRefused(r *ca.Request, d *ca.Decision, why *ca.Refusal) []byte {
	b := append(make([]byte, 0, 2<<10), '{')
	b = appendRefusal(name(b, "refusal"), why)
	b = appendFacts(b, r)
	if !r.Key.IsZero() {
		b = appendKey(name(b, "key"), r.Key)
	}
	if d.Rule != "" {
		b = appendDecision(name(b, "decision"), d)
	}
	return append(b, '}')
}

// appendFacts appends the members request, identity and token.
func appendFacts(b []byte, r *ca.Request) []byte {
	b = append(name(b, "request"), '{')
	b = member(b, "id", r.ID)
	b = member(b, "api", r.API)
	if r.Source.IsValid() {
		b = member(b, "source", r.Source.String())
	}
	b = moment(b, "time", r.Time)
	b = digest(b, "config_digest", r.ConfigDigest[:])
	b = append(b, '}')

	i := &r.Identity
	b = append(name(b, "identity"), '{')
	b = member(b, "issuer_name", i.IssuerName)
	b = member(b, "issuer", i.Issuer)
	b = member(b, "subject", i.Subject)
	b = optional(b, "email", i.Email)
	b = strconv.AppendBool(name(b, "email_verified"), i.EmailVerified)
	b = append(b, '}')

	t := &i.Token
	b = append(name(b, "token"), '{')
	b = digest(b, "digest", t.Digest[:])
	b = member(b, "alg", t.Algorithm)
	b = member(b, "kid", t.KeyID)
	b = member(b, "key_thumbprint", t.KeyThumbprint)
	b = optional(b, "jti", t.ID)
	b = texts(name(b, "aud"), t.Audience)
	b = optional(b, "azp", t.AuthorizedParty)
	b = moment(b, "iat", t.IssuedAt)
	if !t.NotBefore.IsZero() {
		b = moment(b, "nbf", t.NotBefore)
	}
	b = moment(b, "exp", t.Expires)
	b = strconv.AppendBool(name(b, "stale_keys"), t.StaleKeys)
	return append(b, '}')
}

func appendKey(b []byte, k ca.ProvenKey) []byte {
	hash := k.SPKIHash()
	b = member(append(b, '{'), "kind", string(k.Kind()))
	b = digest(b, "spki_sha256", hash[:])
	return append(member(b, "proof", k.Proof()), '}')
}

func appendDecision(b []byte, d *ca.Decision) []byte {
	b = member(append(b, '{'), "rule", d.Rule)
	b = digest(b, "policy_digest", d.PolicyDigest[:])
	b = member(b, "san_kind", string(d.SAN.Kind()))
	b = member(b, "san", d.SAN.String())
	b = optional(b, "profile", d.Profile)
	b = optional(b, "authority", d.Authority)
	if len(d.Extensions) > 0 {
		b = append(name(b, "extensions"), '[')
		for i, e := range d.Extensions { // 1.3.6.1.4.1.57264.1.Number
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(name(append(b, '{'), "number"), int64(e.Number), 10)
			b = append(member(b, "value", e.Value), '}')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendRefusal(b []byte, r *ca.Refusal) []byte {
	b = member(append(b, '{'), "reason", string(r.Reason))
	b = member(b, "kind", kindName(r.Kind))
	if r.Err != nil {
		b = optional(b, "cause", shorten(r.Err.Error()))
	}
	return append(b, '}')
}

func kindName(k ca.Kind) string {
	switch k {
	case ca.KindInvalid:
		return "invalid"
	case ca.KindDenied:
		return "denied"
	case ca.KindExhausted:
		return "exhausted"
	case ca.KindUnavailable:
		return "unavailable"
	default:
		return "internal"
	}
}

// stamp writes a time as the records do; the zero time is empty.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// shorten cuts long text, at the boundary of a character.
func shorten(s string) string {
	if len(s) <= maxCause {
		return s
	}
	return strings.ToValidUTF8(s[:maxCause], "") + "…"
}

// encode writes JSON as encoding/json does: control characters, newlines, <, >
// and & escaped, invalid UTF-8 replaced. Nothing from a token can end a line or
// a string.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("audit: encoding a record: %w", err)
	}
	return b, nil
}
