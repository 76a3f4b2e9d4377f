package audit

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// maxCause bounds the text of an error: causes quote input.
const maxCause = 1024

// The bodies list what is recorded, field by field. Nothing is ever recorded by
// encoding a type of another package: a field added there must not appear here
// unnoticed, least of all a claim or a token.

type requestBody struct {
	ID           string `json:"id"`
	API          string `json:"api"`
	Source       string `json:"source,omitempty"`
	Time         string `json:"time"`
	ConfigDigest string `json:"config_digest"`
}

type identityBody struct {
	IssuerName    string `json:"issuer_name"`
	Issuer        string `json:"issuer"`
	Subject       string `json:"subject"`
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified"`
}

type tokenBody struct {
	Digest          string   `json:"digest"`
	Algorithm       string   `json:"alg"`
	KeyID           string   `json:"kid"`
	KeyThumbprint   string   `json:"key_thumbprint"`
	ID              string   `json:"jti,omitempty"`
	Audience        []string `json:"aud"`
	AuthorizedParty string   `json:"azp,omitempty"`
	IssuedAt        string   `json:"iat"`
	NotBefore       string   `json:"nbf,omitempty"`
	Expires         string   `json:"exp"`
	StaleKeys       bool     `json:"stale_keys"`
}

type keyBody struct {
	Kind  string `json:"kind"`
	SPKI  string `json:"spki_sha256"`
	Proof string `json:"proof"`
}

type decisionBody struct {
	Rule         string          `json:"rule"`
	PolicyDigest string          `json:"policy_digest"`
	SANKind      string          `json:"san_kind"`
	SAN          string          `json:"san"`
	Profile      string          `json:"profile,omitempty"`
	Authority    string          `json:"authority,omitempty"`
	Extensions   []extensionBody `json:"extensions,omitempty"`
}

// extensionBody is 1.3.6.1.4.1.57264.1.Number.
type extensionBody struct {
	Number int    `json:"number"`
	Value  string `json:"value"`
}

type certificateBody struct {
	Serial        string `json:"serial"`
	Chain         string `json:"chain"`
	IssuerKeyHash string `json:"issuer_key_sha256"`
	TBSHash       string `json:"tbs_sha256"`
	NotBefore     string `json:"not_before"`
	NotAfter      string `json:"not_after"`
}

type intentBody struct {
	Request     requestBody     `json:"request"`
	Identity    identityBody    `json:"identity"`
	Token       tokenBody       `json:"token"`
	Key         keyBody         `json:"key"`
	Decision    decisionBody    `json:"decision"`
	Certificate certificateBody `json:"certificate"`
}

type sctBody struct {
	Log       string `json:"log"`
	LogID     string `json:"log_id"`
	Timestamp string `json:"timestamp"`
	Index     int64  `json:"index"` // -1 when the log did not say
}

type outcomeBody struct {
	Intent          uint64       `json:"intent"`
	Serial          string       `json:"serial"`
	Result          string       `json:"result"`
	CertificateHash string       `json:"certificate_sha256,omitempty"`
	Logged          bool         `json:"logged"`
	SCT             *sctBody     `json:"sct,omitempty"`
	Refusal         *refusalBody `json:"refusal,omitempty"`
	Note            string       `json:"note,omitempty"`
}

type refusalBody struct {
	Reason string `json:"reason"`
	Kind   string `json:"kind"`
	Cause  string `json:"cause,omitempty"`
}

type refusedBody struct {
	Refusal  refusalBody   `json:"refusal"`
	Request  requestBody   `json:"request"`
	Identity identityBody  `json:"identity"`
	Token    tokenBody     `json:"token"`
	Key      *keyBody      `json:"key,omitempty"`
	Decision *decisionBody `json:"decision,omitempty"`
}

func marshalIntent(i ca.Intent) ([]byte, error) {
	return encode(intentBody{
		Request: requestOf(i.Request), Identity: identityOf(i.Request.Identity),
		Token: tokenOf(i.Request.Identity.Token), Key: keyOf(i.Request.Key), Decision: decisionOf(i.Decision),
		Certificate: certificateBody{
			Serial: hex.EncodeToString(i.Serial[:]), Chain: i.Chain,
			IssuerKeyHash: hex.EncodeToString(i.IssuerKeyHash[:]), TBSHash: hex.EncodeToString(i.TBSHash[:]),
			NotBefore: stamp(i.NotBefore), NotAfter: stamp(i.NotAfter),
		},
	})
}

func outcomeOf(o ca.Outcome) outcomeBody {
	b := outcomeBody{Intent: o.Intent, Serial: hex.EncodeToString(o.Serial[:]), Result: resultIssued}
	if o.CertificateHash != ([32]byte{}) {
		b.CertificateHash = hex.EncodeToString(o.CertificateHash[:])
	}
	if s := o.SCT; s.Log != "" || s.LogID != ([32]byte{}) || len(s.TLS) > 0 {
		b.Logged = true
		b.SCT = &sctBody{Log: s.Log, LogID: hex.EncodeToString(s.LogID[:]), Timestamp: stamp(s.Timestamp), Index: s.Index}
	}
	if o.Err != nil {
		b.Result = resultNotIssued
		b.Refusal = new(refusalOf(o.Err))
	}
	return b
}

func marshalRefused(r ca.Request, d ca.Decision, why *ca.Refusal) ([]byte, error) {
	b := refusedBody{
		Refusal: refusalOf(why), Request: requestOf(r),
		Identity: identityOf(r.Identity), Token: tokenOf(r.Identity.Token),
	}
	if !r.Key.IsZero() {
		b.Key = new(keyOf(r.Key))
	}
	if d.Rule != "" {
		b.Decision = new(decisionOf(d))
	}
	return encode(b)
}

func requestOf(r ca.Request) requestBody {
	b := requestBody{ID: r.ID, API: r.API, Time: stamp(r.Time), ConfigDigest: hex.EncodeToString(r.ConfigDigest[:])}
	if r.Source.IsValid() {
		b.Source = r.Source.String()
	}
	return b
}

func identityOf(id ca.Identity) identityBody {
	return identityBody{
		IssuerName: id.IssuerName, Issuer: id.Issuer, Subject: id.Subject,
		Email: id.Email, EmailVerified: id.EmailVerified,
	}
}

func tokenOf(t ca.TokenFacts) tokenBody {
	return tokenBody{
		Digest: hex.EncodeToString(t.Digest[:]), Algorithm: t.Algorithm, KeyID: t.KeyID,
		KeyThumbprint: t.KeyThumbprint, ID: t.ID, Audience: t.Audience, AuthorizedParty: t.AuthorizedParty,
		IssuedAt: stamp(t.IssuedAt), NotBefore: stamp(t.NotBefore), Expires: stamp(t.Expires), StaleKeys: t.StaleKeys,
	}
}

func keyOf(k ca.ProvenKey) keyBody {
	hash := k.SPKIHash()
	return keyBody{Kind: string(k.Kind()), SPKI: hex.EncodeToString(hash[:]), Proof: k.Proof()}
}

func decisionOf(d ca.Decision) decisionBody {
	b := decisionBody{
		Rule: d.Rule, PolicyDigest: hex.EncodeToString(d.PolicyDigest[:]),
		SANKind: string(d.SAN.Kind()), SAN: d.SAN.String(), Profile: d.Profile, Authority: d.Authority,
	}
	for _, e := range d.Extensions {
		b.Extensions = append(b.Extensions, extensionBody(e))
	}
	return b
}

func refusalOf(r *ca.Refusal) refusalBody {
	b := refusalBody{Reason: string(r.Reason), Kind: kindName(r.Kind)}
	if r.Err != nil {
		b.Cause = shorten(r.Err.Error())
	}
	return b
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
