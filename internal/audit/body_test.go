package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// What follows says once more what the bodies are, for encoding/json, as the first
// version of the journal wrote them.

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

func oldIntent(i ca.Intent) intentBody {
	return intentBody{
		Request: requestOf(i.Request), Identity: identityOf(i.Request.Identity),
		Token: tokenOf(i.Request.Identity.Token), Key: keyOf(i.Request.Key), Decision: decisionOf(i.Decision),
		Certificate: certificateBody{
			Serial: hex.EncodeToString(i.Serial[:]), Chain: i.Chain,
			IssuerKeyHash: hex.EncodeToString(i.IssuerKeyHash[:]), TBSHash: hex.EncodeToString(i.TBSHash[:]),
			NotBefore: stamp(i.NotBefore), NotAfter: stamp(i.NotAfter),
		},
	}
}

func oldOutcome(o ca.Outcome) outcomeBody {
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

func oldRefused(r ca.Request, d ca.Decision, why *ca.Refusal) refusedBody {
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
	return b
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

// filler gives every field of a body a value from the input, whatever fields
// there are, so that one which the encoder forgets is found.
type filler struct{ in []byte }

func (f *filler) take(n int) []byte {
	n = min(n, len(f.in))
	head := f.in[:n]
	f.in = f.in[n:]
	return head
}

func (f *filler) number() (n uint64) {
	for _, b := range f.take(8) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (f *filler) length() int {
	n := 0
	for _, b := range f.take(1) {
		n = int(b) % 40
	}
	return n
}

// closed fills a value whose fields are not to be seen, and says whether it is one.
func (f *filler) closed(t testing.TB, v reflect.Value) bool {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		if n := int64(f.number()); n != 0 {
			v.Set(reflect.ValueOf(time.Unix(n%(1<<38), int64(f.length())).In(time.FixedZone("", 3600))))
		}
	case netip.Addr:
		if a, ok := netip.AddrFromSlice(f.take(16)); ok {
			v.Set(reflect.ValueOf(a.WithZone(string(f.take(f.length())))))
		}
	case ca.ProvenKey:
		if f.length()%2 == 1 {
			key, err := proven()
			if err != nil {
				t.Fatal(err)
			}
			v.Set(reflect.ValueOf(key))
		}
	case ca.SAN:
		if san, err := ca.EmailSAN("dev@example.com"); err == nil && f.length()%2 == 1 {
			v.Set(reflect.ValueOf(san))
		}
	default:
		return false
	}
	return true
}

func (f *filler) fill(t testing.TB, v reflect.Value) {
	t.Helper()
	if f.closed(t, v) {
		return
	}
	switch v.Kind() {
	case reflect.Interface: // an error
		if f.length()%2 == 1 {
			v.Set(reflect.ValueOf(errors.New(string(f.take(2000)))))
		}
	case reflect.Map: // claims, which are not recorded
	case reflect.Uint8:
		v.SetUint(f.number() & 0xff)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(f.length()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(t, v.Field(i))
		}
	case reflect.String:
		v.SetString(string(f.take(f.length())))
	case reflect.Bool:
		v.SetBool(f.length()%2 == 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(f.number()))
	case reflect.Uint64:
		v.SetUint(f.number())
	case reflect.Pointer:
		if f.length()%2 == 1 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(t, v.Elem())
		}
	case reflect.Slice:
		if n := f.length() % 5; n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1)) // empty is not nil
			for i := range v.Len() {
				f.fill(t, v.Index(i))
			}
		}
	default:
		t.Fatalf("the filler does not know %s", v.Type())
	}
}

// FuzzBodies holds the bodies that are written by hand to encoding/json, to the
// byte: records that were written before read the same, and hash the same.
func FuzzBodies(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{3, 'a', '"', 'z'}, 300))
	f.Add(bytes.Repeat([]byte{1, '<', 6, '\n', 0xff, 0xe2, 0x80, 0xa8, 0x7f}, 300))
	f.Fuzz(func(t *testing.T, in []byte) {
		var i ca.Intent
		var o ca.Outcome
		var why ca.Refusal
		var note string
		fill := &filler{in}
		for _, to := range []any{&i, &o, &why, &note} {
			fill.fill(t, reflect.ValueOf(to).Elem())
		}
		oracle := oldOutcome(o)
		oracle.Note = note
		for _, c := range []struct {
			what string
			body any
			got  []byte
		}{
			{"intent", oldIntent(i), marshalIntent(&i)},
			{"outcome", oracle, marshalOutcome(&o, resultOf(&o), note)},
			{"refusal", oldRefused(i.Request, i.Decision, &why), marshalRefused(&i.Request, &i.Decision, &why)},
		} {
			want, err := json.Marshal(c.body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.got, want) {
				t.Fatalf("%s %+v is encoded to\n     %s\nwant %s", c.what, c.body, c.got, want)
			}
		}
	})
}

// Every single character, alone and between others.
func TestTextIsThatOfEncodingJSON(t *testing.T) {
	for r := range rune(0x3000) {
		for _, s := range []string{string(r), "a" + string(r) + "b", string([]byte{byte(r)})} {
			want, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(nil, s); !bytes.Equal(got, want) {
				t.Fatalf("text(%q) = %s, want %s", s, got, want)
			}
		}
	}
}
