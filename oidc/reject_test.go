package oidc

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca"
)

// rejection is one token that must be refused.
type rejection struct {
	name   string
	token  string
	reason ca.Reason
}

// testRejections verifies each token and demands its reason, and that none of
// them made the verifier ask the provider anything.
func testRejections(t *testing.T, p *provider, v *Verifier, cases []rejection) {
	t.Helper()
	before := p.requests.Load()
	for _, tt := range cases {
		_, err := v.Verify(t.Context(), tt.token)
		if r := ca.AsRefusal(err); err == nil || r.Reason != tt.reason || r.Kind != ca.KindInvalid {
			t.Errorf("%s: got %v, want %s\ntoken %.300s", tt.name, err, tt.reason, tt.token)
		} else if strings.Contains(err.Error(), tt.token) && len(tt.token) > minTokenBytes {
			t.Errorf("%s: error contains the token: %v", tt.name, err)
		}
	}
	if got := p.requests.Load() - before; got != 0 {
		t.Errorf("%d refused tokens caused %d requests to the provider, want none", len(cases), got)
	}
}

func TestVerifyRefusesShapes(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	good := rs256().token(t, goodHeader(), p.goodClaims())
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatalf("the token that all cases are made from: %v", err)
	}
	part := strings.Split(good, ".")
	general := text(object{"payload": part[1], "signatures": []object{
		{"protected": part[0], "signature": part[2]}, {"protected": part[0], "signature": part[2]}}})
	unprotected := text(object{"payload": part[1], "signature": b64(rs256().sign(t, "."+part[1])),
		"header": object{"alg": "RS256", "kid": "rsa"}})
	testRejections(t, p, v, []rejection{
		{"empty", "", ca.ReasonTokenMalformed},
		{"null", "null", ca.ReasonTokenMalformed},
		{"white space", strings.Repeat(" ", 60), ca.ReasonTokenMalformed},
		{"two parts", part[0] + "." + part[1], ca.ReasonTokenMalformed},
		{"four parts", good + "." + part[2], ca.ReasonTokenMalformed},
		{"a megabyte of dots", strings.Repeat(".", 1<<20), ca.ReasonTokenTooLarge},
		{"ten thousand dots", strings.Repeat(".", 10_000), ca.ReasonTokenMalformed},
		{"64 KB and one byte", strings.Repeat("a", 64<<10+1), ca.ReasonTokenTooLarge},
		{"one byte over the limit", strings.Repeat("a", defaultMaxTokenBytes+1), ca.ReasonTokenTooLarge},
		{"JWE", b64([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)) + ".a2V5.aXY.Y2lwaGVy.dGFn", ca.ReasonTokenEncrypted},
		{"enc in the header", rs256().token(t, goodHeader().with("enc", "A256GCM"), p.goodClaims()), ca.ReasonTokenEncrypted},
		{"two tokens with a blank between", good + " " + good, ca.ReasonTokenMalformed},
		{"flattened JSON", text(object{"protected": part[0], "payload": part[1], "signature": part[2]}), ca.ReasonTokenMalformed},
		{"JSON, unprotected header", unprotected, ca.ReasonTokenMalformed},
		{"general JSON, two signatures", general, ca.ReasonTokenMalformed},
		{"newline at the end", good + "\n", ca.ReasonTokenMalformed},
		{"newline inside", good[:50] + "\n" + good[50:], ca.ReasonTokenMalformed},
		{"space in front", " " + good, ca.ReasonTokenMalformed},
		{"Bearer in front", "Bearer " + good, ca.ReasonTokenMalformed},
		{"padding", part[0] + "." + part[1] + "==." + part[2], ca.ReasonTokenMalformed},
		{"standard alphabet", part[0] + "." + part[1] + ".+/" + part[2][2:], ca.ReasonTokenMalformed},
		{"signature with unused bits", nonCanonical(t, good), ca.ReasonTokenMalformed},
		{"impossible base64 length", part[0] + "." + part[1] + "." + part[2][:len(part[2])-1], ca.ReasonTokenMalformed},
		{"NUL byte", good + "\x00", ca.ReasonTokenMalformed},
		{"not ASCII", good + "é", ca.ReasonTokenMalformed},
		{"header of 5 KB", rs256().token(t, goodHeader().with("x", strings.Repeat("x", 5000)), p.goodClaims()), ca.ReasonTokenMalformed},
	})
}

// nonCanonical sets an unused bit at the end of the signature.
func nonCanonical(t *testing.T, token string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	bent := token[:len(token)-1] + alphabet[last+1:last+2]
	if _, err := base64.RawURLEncoding.DecodeString(bent[strings.LastIndexByte(bent, '.')+1:]); err != nil {
		t.Fatalf("the bent token is not even lenient base64: %v", err)
	}
	return bent
}

func TestVerifyRefusesHeaders(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	claims := text(p.goodClaims())
	raw := func(header string) string { return rs256().compact(t, header, claims) }
	with := func(name string, value any) string {
		return rs256().token(t, goodHeader().with(name, value), p.goodClaims())
	}
	cases := []rejection{
		{"alg twice", raw(`{"alg":"none","alg":"RS256","kid":"rsa"}`), ca.ReasonTokenMalformed},
		{"alg twice, one escaped", raw(`{"alg":"RS256","\u0061lg":"RS256","kid":"rsa"}`), ca.ReasonTokenMalformed},
		{"ALG only", raw(`{"ALG":"RS256","kid":"rsa"}`), ca.ReasonTokenMalformed},
		{"alg missing", with("alg", absent), ca.ReasonTokenMalformed},
		{"alg a number", with("alg", 256), ca.ReasonTokenMalformed},
		{"alg in lower case", with("alg", "rs256"), ca.ReasonAlgNotAllowed},
		{"RS512, advertised or not", with("alg", "RS512"), ca.ReasonAlgNotAllowed},
		{"unknown crit", with("crit", []string{"exp"}), ca.ReasonTokenMalformed},
		{"empty crit", with("crit", []string{}), ca.ReasonTokenMalformed},
		{"b64 false", raw(`{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":false}`), ca.ReasonTokenMalformed},
		{"b64 true without crit", with("b64", true), ca.ReasonTokenMalformed},
		{"zip", with("zip", "DEF"), ca.ReasonTokenMalformed},
		{"kid with a path", with("kid", "../../etc/passwd"), ca.ReasonTokenMalformed},
		{"kid with SQL", with("kid", "' OR 1=1; --"), ca.ReasonTokenMalformed},
		{"kid with a line break", with("kid", "rsa\n"), ca.ReasonTokenMalformed},
		{"kid of 10 KB", with("kid", strings.Repeat("k", 10<<10)), ca.ReasonTokenMalformed},
		{"kid of 257 bytes", with("kid", strings.Repeat("k", 257)), ca.ReasonTokenMalformed},
		{"kid a number", with("kid", 1), ca.ReasonTokenMalformed},
		{"kid null", with("kid", nil), ca.ReasonTokenMalformed},
		{"kid empty", with("kid", ""), ca.ReasonTokenMalformed},
		{"kid missing", with("kid", absent), ca.ReasonKeyUnknown},
		{"kid unknown", with("kid", "other"), ca.ReasonKeyUnknown},
		{"kid in other case", with("kid", "RSA"), ca.ReasonKeyUnknown},
		{"header not an object", raw(`["alg","RS256"]`), ca.ReasonTokenMalformed},
		{"header with data behind it", raw(`{"alg":"RS256","kid":"rsa"}{}`), ca.ReasonTokenMalformed},
		{"header with invalid UTF-8", raw("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"x\":\"\xff\"}"), ca.ReasonTokenMalformed},
		{"header empty", raw(``), ca.ReasonTokenMalformed},
		{"typ a number", with("typ", 1), ca.ReasonTokenType},
		{"typ null", with("typ", nil), ca.ReasonTokenType},
		{"nonce of Microsoft Graph", with("nonce", "AQABAAAAAAD"), ca.ReasonTokenType},
	}
	for _, typ := range []string{"logout+jwt", "at+jwt", "application/at+jwt", "dpop+jwt", "secevent+jwt",
		"client-authentication+jwt", "JOSE", "JOSE+JSON", "Jwt", "", "JWT\x01"} {
		cases = append(cases, rejection{"typ " + typ, with("typ", typ), ca.ReasonTokenType})
	}
	testRejections(t, p, v, cases)
}

func TestVerifyRefusesSignatures(t *testing.T) {
	p, other := newProvider(t), newProvider(t)
	second := other.issuer()
	second.Name = "other"
	other.setKeys(jwkSet(publicJWK(rsaKey2().Public()).with("kid", "rsa").with("use", "sig")))
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer(), second}})
	claims := p.goodClaims()
	good := rs256().token(t, goodHeader(), claims)
	part := strings.Split(good, ".")
	sig := must(base64.RawURLEncoding.DecodeString(part[2]))
	stranger := signer{"RS256", rsaKey2()}
	es := goodHeader().with("alg", "ES256").with("kid", "ec")
	esInput := b64([]byte(text(es))) + "." + part[1]
	esDigest := sha256.Sum256([]byte(esInput))
	der := must(ecdsa.SignASN1(rand.Reader, p256Key(), esDigest[:]))
	changed := must(base64.RawURLEncoding.DecodeString(part[1]))
	changed = bytes.Replace(changed, []byte("alice"), []byte("alicf"), 1)
	cases := []rejection{
		{"signed by a stranger", stranger.token(t, goodHeader(), claims), ca.ReasonBadSignature},
		{"empty signature", part[0] + "." + part[1] + ".", ca.ReasonBadSignature},
		{"truncated signature", part[0] + "." + part[1] + "." + b64(sig[:len(sig)-1]), ca.ReasonBadSignature},
		{"signature and a byte", part[0] + "." + part[1] + "." + b64(append(bytes.Clone(sig), 0)), ca.ReasonBadSignature},
		{"payload changed", part[0] + "." + b64(changed) + "." + part[2], ca.ReasonBadSignature},
		{"ECDSA r=s=0", esInput + "." + b64(make([]byte, 64)), ca.ReasonBadSignature},
		{"ECDSA signature in DER", esInput + "." + b64(der), ca.ReasonBadSignature},
		{"embedded jwk", stranger.token(t, goodHeader().with("jwk", publicJWK(rsaKey2().Public())), claims), ca.ReasonBadSignature},
		{"embedded jwk, kid unknown", stranger.token(t, goodHeader().with("kid", "mine").with("jwk", publicJWK(rsaKey2().Public())), claims), ca.ReasonKeyUnknown},
		{"jku of a stranger", stranger.token(t, goodHeader().with("jku", other.srv.URL+"/keys"), claims), ca.ReasonBadSignature},
		{"x5u of a stranger", stranger.token(t, goodHeader().with("x5u", other.srv.URL+"/cert"), claims), ca.ReasonBadSignature},
		{"key of another issuer under the same kid", stranger.token(t, goodHeader(), claims), ca.ReasonBadSignature},
		{"ES256 with an RSA key's kid", signer{"ES256", p256Key()}.token(t, goodHeader().with("alg", "ES256"), claims), ca.ReasonKeyAlgMismatch},
		{"RS256 with an EC key's kid", rs256().token(t, goodHeader().with("kid", "ec"), claims), ca.ReasonKeyAlgMismatch},
		{"EdDSA with an RSA key's kid", signer{"EdDSA", ed25519Key()}.token(t, goodHeader().with("alg", "EdDSA"), claims), ca.ReasonKeyAlgMismatch},
		{"PS256 with a key for RS256", signer{"PS256", rsaKey1()}.token(t, goodHeader().with("alg", "PS256"), claims), ca.ReasonKeyAlgMismatch},
		{"encryption key", stranger.token(t, goodHeader().with("kid", "enc"), claims), ca.ReasonKeyUse},
		{"encryption key with alg", stranger.token(t, goodHeader().with("kid", "enc-alg"), claims), ca.ReasonKeyUse},
	}
	for _, alg := range []string{"none", "None", "nOnE", "NONE"} {
		header := b64([]byte(text(goodHeader().with("alg", alg))))
		cases = append(cases, rejection{alg + " without signature", header + "." + part[1] + ".", ca.ReasonAlgNotAllowed},
			rejection{alg + " with one", header + "." + part[1] + "." + part[2], ca.ReasonAlgNotAllowed})
	}
	spki := must(x509.MarshalPKIXPublicKey(rsaKey1().Public()))
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		"DER": spki, "JWK": []byte(text(publicJWK(rsaKey1().Public()))),
	} {
		input := b64([]byte(text(goodHeader().with("alg", "HS256")))) + "." + part[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		cases = append(cases, rejection{"HS256 with the public key as " + name, input + "." + b64(mac.Sum(nil)), ca.ReasonAlgNotAllowed})
	}
	before := other.requests.Load()
	testRejections(t, p, v, cases)
	if got := other.requests.Load() - before; got != 0 {
		t.Errorf("refused tokens caused %d requests to the host they name, want none", got)
	}
}

func TestVerifyRefusesUnknownIssuers(t *testing.T) {
	p, attacker := newProvider(t), newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	before := attacker.requests.Load()
	var cases []rejection
	for name, iss := range map[string]string{
		"attacker": attacker.srv.URL, "slash": p.srv.URL + "/", "upper case": strings.ToUpper(p.srv.URL),
		"http": strings.Replace(p.srv.URL, "https", "http", 1), "path": p.srv.URL + "/realms/x",
		"default port": "https://127.0.0.1:443", "user": strings.Replace(p.srv.URL, "//", "//x@", 1),
		"fragment": p.srv.URL + "#", "query": p.srv.URL + "?", "space": p.srv.URL + " ",
		"percent": strings.Replace(p.srv.URL, "127", "%3127", 1), "template": "https://login.example/{tenantid}/v2.0",
		"file": "file:///etc/passwd", "client assertion": "mayfly", "metadata": "http://169.254.169.254/",
	} {
		claims := p.goodClaims().with("iss", iss)
		if name == "client assertion" {
			claims = claims.with("sub", iss)
		}
		cases = append(cases, rejection{name, rs256().token(t, goodHeader(), claims), ca.ReasonIssuerUnknown})
	}
	testRejections(t, p, v, cases)
	if got := attacker.requests.Load() - before; got != 0 {
		t.Errorf("tokens of an unknown issuer caused %d requests to it, want none", got)
	}
}

func TestVerifyRefusesPayloads(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}, MaxTokenBytes: hardMaxTokenBytes})
	claims := p.goodClaims()
	// more returns a good payload with text added before its closing brace.
	more := func(s string) string {
		return rs256().compact(t, text(goodHeader()), strings.TrimSuffix(text(claims), "}")+","+s+"}")
	}
	raw := func(payload string) string { return rs256().compact(t, text(goodHeader()), payload) }
	var members []string
	for i := range 600 {
		members = append(members, fmt.Sprintf(`"m%d":0`, i))
	}
	cases := []rejection{
		{"array", raw(`[` + text(claims) + `]`), ca.ReasonTokenMalformed},
		{"string", raw(`"` + strings.Repeat("x", 50) + `"`), ca.ReasonTokenMalformed},
		{"empty", raw(``), ca.ReasonTokenMalformed},
		{"trailing object", raw(text(claims) + "{}"), ca.ReasonTokenMalformed},
		{"trailing brace", raw(text(claims) + "}"), ca.ReasonTokenMalformed},
		{"byte order mark", raw("\ufeff" + text(claims)), ca.ReasonTokenMalformed},
		{"single quotes", raw(`{'iss':'x'}`), ca.ReasonTokenMalformed},
		{"trailing comma", more(`"a":1,`), ca.ReasonTokenMalformed},
		{"comment", more(`"a":1/**/`), ca.ReasonTokenMalformed},
		{"leading zero", more(`"a":01`), ca.ReasonTokenMalformed},
		{"NaN", more(`"a":NaN`), ca.ReasonTokenMalformed},
		{"depth 17", more(`"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16)), ca.ReasonTokenMalformed},
		{"depth 10000", more(`"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)), ca.ReasonTokenMalformed},
		{"600 members", more(strings.Join(members, ",")), ca.ReasonTokenMalformed},
		{"600 members inside", more(`"a":{` + strings.Join(members, ",") + `}`), ca.ReasonTokenMalformed},
		{"duplicate inside an array", more(`"a":[{"b":1,"b":1}]`), ca.ReasonTokenMalformed},
		{"duplicate by escape", more(`"\u0073ub":"root"`), ca.ReasonTokenMalformed},
		{"control character unescaped", more("\"a\":\"\x01\""), ca.ReasonTokenMalformed},
		{"invalid UTF-8 in a value", more("\"a\":\"\xff\""), ca.ReasonClaimChars},
		{"invalid UTF-8 in a name", more("\"\xc0\xaf\":1"), ca.ReasonClaimChars},
		{"lone high surrogate", more(`"a":"\ud800"`), ca.ReasonClaimChars},
		{"lone low surrogate", more(`"a":"\udc00x"`), ca.ReasonClaimChars},
		{"two high surrogates", more(`"a":"\ud800\ud800"`), ca.ReasonClaimChars},
		{"NUL in any claim", more(`"a":["\u0000"]`), ca.ReasonClaimChars},
	}
	for _, name := range []string{"iss", "aud", "exp", "sub", "iat", "email_verified"} {
		cases = append(cases, rejection{name + " twice", more(`"` + name + `":` + string(must(json.Marshal(claims[name])))), ca.ReasonTokenMalformed})
	}
	// encoding/json, and so go-oidc, takes these for the claims they look like.
	for _, s := range []string{`"SUB":"root"`, `"ſub":"root"`, `"ISS":"x"`, `"Aud":"other"`, `"EXP":4102444800`,
		`"Iat":1`, `"Nonce":5`} {
		cases = append(cases, rejection{s, more(s), ca.ReasonTokenMalformed})
	}
	testRejections(t, p, v, cases)
}

func TestVerifyRefusesClaims(t *testing.T) {
	p := newProvider(t)
	is := p.issuer()
	is.Audiences, is.ExtraAudiences = []string{"mayfly", "sigstore"}, []string{"account"}
	is.MaxTokenAge = time.Hour
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	unix := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	number := func(s string) json.Number { return json.Number(s) }
	cases := []struct {
		claim  string
		value  any
		reason ca.Reason
	}{
		{"iss", absent, ca.ReasonTokenMalformed},
		{"iss", 1, ca.ReasonTokenMalformed},
		{"iss", []string{p.srv.URL}, ca.ReasonTokenMalformed},
		{"iss", nil, ca.ReasonTokenMalformed},
		{"iss", "", ca.ReasonTokenMalformed},

		{"typ", "Refresh", ca.ReasonTokenType},
		{"typ", "Offline", ca.ReasonTokenType},
		{"typ", "Logout", ca.ReasonTokenType},
		{"typ", "Serialized-ID", ca.ReasonTokenType},
		{"typ", "Bearer", ca.ReasonTokenType},
		{"typ", "id", ca.ReasonTokenType},
		{"typ", nil, ca.ReasonTokenType},
		{"typ", 1, ca.ReasonTokenType},
		{"events", object{"http://schemas.openid.net/event/backchannel-logout": object{}}, ca.ReasonTokenType},
		{"token_use", "access", ca.ReasonTokenType},
		{"scope", "openid", ca.ReasonTokenType},
		{"scp", []string{"user.read"}, ca.ReasonTokenType},

		{"aud", absent, ca.ReasonAudience},
		{"aud", nil, ca.ReasonAudience},
		{"aud", []string{}, ca.ReasonAudience},
		{"aud", "", ca.ReasonAudience},
		{"aud", 5, ca.ReasonAudience},
		{"aud", object{"mayfly": true}, ca.ReasonAudience},
		{"aud", []any{"mayfly", 5}, ca.ReasonAudience},
		{"aud", []any{[]string{"mayfly"}}, ca.ReasonAudience},
		{"aud", []string{"mayfly", ""}, ca.ReasonAudience},
		{"aud", "other", ca.ReasonAudience},
		{"aud", "Mayfly", ca.ReasonAudience},
		{"aud", "mayfly ", ca.ReasonAudience},
		{"aud", "account", ca.ReasonAudience},
		{"aud", []string{"mayfly", "evil"}, ca.ReasonAudienceExtra},
		{"aud", []string{"mayfly", "account"}, ca.ReasonAuthorizedParty},
		{"aud", []string{"mayfly", "sigstore"}, ca.ReasonAuthorizedParty},
		{"azp", "someone", ca.ReasonAuthorizedParty},
		{"azp", "account", ca.ReasonAuthorizedParty},
		{"azp", "", ca.ReasonAuthorizedParty},
		{"azp", nil, ca.ReasonAuthorizedParty},
		{"azp", []string{"mayfly"}, ca.ReasonAuthorizedParty},

		{"exp", absent, ca.ReasonExpMalformed},
		{"exp", nil, ca.ReasonExpMalformed},
		{"exp", "1900000000", ca.ReasonExpMalformed},
		{"exp", number("1e300"), ca.ReasonExpMalformed},
		{"exp", number("1e999"), ca.ReasonExpMalformed},
		{"exp", number("9223372036854775807"), ca.ReasonExpMalformed},
		{"exp", number("99999999999999999999"), ca.ReasonExpMalformed},
		{"exp", -1, ca.ReasonExpMalformed},
		{"exp", true, ca.ReasonExpMalformed},
		{"exp", unix(-31 * time.Second), ca.ReasonExpired},
		{"exp", unix(-30 * time.Second), ca.ReasonExpired},
		{"exp", 0, ca.ReasonExpired},
		{"exp", unix(24 * time.Hour), ca.ReasonLifetime},
		{"exp", unix(10 * 365 * 24 * time.Hour), ca.ReasonLifetime},

		{"iat", absent, ca.ReasonIssuedAt},
		{"iat", nil, ca.ReasonIssuedAt},
		{"iat", "1", ca.ReasonIssuedAt},
		{"iat", number("1e300"), ca.ReasonIssuedAt},
		{"iat", unix(31 * time.Second), ca.ReasonIssuedAt},
		{"iat", unix(365 * 24 * time.Hour), ca.ReasonIssuedAt},
		{"iat", unix(-time.Hour - time.Second), ca.ReasonIssuedAt},
		{"nbf", unix(31 * time.Second), ca.ReasonNotBefore},
		{"nbf", unix(4 * time.Minute), ca.ReasonNotBefore},
		{"nbf", "0", ca.ReasonNotBefore},
		{"nbf", nil, ca.ReasonNotBefore},

		{"sub", absent, ca.ReasonSubject},
		{"sub", nil, ca.ReasonSubject},
		{"sub", "", ca.ReasonSubject},
		{"sub", "   ", ca.ReasonSubject},
		{"sub", 1, ca.ReasonSubject},
		{"sub", strings.Repeat("s", 1025), ca.ReasonSubject},
		{"sub", strings.Repeat("s", 5000), ca.ReasonSubject},
		{"sub", "alice\x00", ca.ReasonClaimChars},
		{"sub", "alice\n", ca.ReasonClaimChars},
		{"sub", "alice\u007f", ca.ReasonClaimChars},
		{"sub", "alice\u0085", ca.ReasonClaimChars},
		{"sub", "alice\u2028", ca.ReasonClaimChars},
		{"sub", "alice\u202egnp", ca.ReasonClaimChars},
		{"sub", "alice\ufffd", ca.ReasonClaimChars},
		{"email", "alice@example.com\r\nbcc", ca.ReasonClaimChars},
		{"email", "alice\x00@example.com", ca.ReasonClaimChars},
		{"email", []string{"alice@example.com"}, ca.ReasonTokenMalformed},
		{"email", 1, ca.ReasonTokenMalformed},
		{"preferred_username", "a\tb", ca.ReasonClaimChars},

		{"act", object{"sub": "bob"}, ca.ReasonDelegated},
		{"may_act", object{"sub": "bob"}, ca.ReasonDelegated},
		{"impersonator_id", "bob", ca.ReasonDelegated},
		{"act", nil, ca.ReasonDelegated},
		{"cnf", object{"jkt": "x"}, ca.ReasonPopRequired},
		{"cnf", object{"x5t#S256": "x"}, ca.ReasonPopRequired},

		{"_claim_names", object{"groups": "missing"}, ca.ReasonTokenMalformed},
	}
	var table []rejection
	for _, tt := range cases {
		table = append(table, rejection{
			fmt.Sprintf("%s=%.60q", tt.claim, fmt.Sprint(tt.value)),
			rs256().token(t, goodHeader(), p.goodClaims().with(tt.claim, tt.value)), tt.reason,
		})
	}
	old := p.goodClaims().with("iat", unix(-10*time.Second)).with("exp", unix(-10*time.Second))
	table = append(table, rejection{"exp equals iat", rs256().token(t, goodHeader(), old), ca.ReasonLifetime})
	testRejections(t, p, v, table)
}

func TestRejectedTokensAreCounted(t *testing.T) {
	p := newProvider(t)
	reg := prometheus.NewRegistry()
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}, Registerer: reg})
	for _, token := range []string{
		rs256().token(t, goodHeader().with("jku", "https://evil.example/"), p.goodClaims().with("aud", "x")),
		rs256().token(t, goodHeader(), p.goodClaims().with("iss", "https://evil.example/")),
		rs256().token(t, goodHeader(), p.goodClaims().with("iss", "https://evil2.example/")),
		rs256().token(t, goodHeader(), p.goodClaims()),
	} {
		_, _ = v.Verify(t.Context(), token)
	}
	want := `
# HELP mayfly_oidc_rejected_tokens_total Tokens that were refused. An increase means misconfigured clients, an attack or, for idp_keys_*, an issuer that cannot be reached.
# TYPE mayfly_oidc_rejected_tokens_total counter
mayfly_oidc_rejected_tokens_total{issuer="test",reason="aud"} 1
mayfly_oidc_rejected_tokens_total{issuer="unknown",reason="issuer_unknown"} 2
# HELP mayfly_oidc_verified_tokens_total Tokens that were verified. An increase is normal use.
# TYPE mayfly_oidc_verified_tokens_total counter
mayfly_oidc_verified_tokens_total{issuer="test"} 1
# HELP mayfly_oidc_foreign_key_headers_total Tokens of this issuer's name that brought a key or the address of one (jku, x5u, jwk, x5c), which is ignored. An increase may be an attack.
# TYPE mayfly_oidc_foreign_key_headers_total counter
mayfly_oidc_foreign_key_headers_total{issuer="test"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "mayfly_oidc_rejected_tokens_total",
		"mayfly_oidc_verified_tokens_total", "mayfly_oidc_foreign_key_headers_total"); err != nil {
		t.Error(err)
	}
}
