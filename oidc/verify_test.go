package oidc

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	header := goodHeader()
	claims := p.goodClaims().with("jti", "id-1").with("azp", "mayfly").with("nbf", noon.Add(-65*time.Second).Unix()).
		with("run", json.Number("9007199254740993")).with("groups", []string{"a", "b"}).with("nothing", nil)
	id, err := v.Verify(t.Context(), rs256().token(t, header, claims))
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	want := ca.Identity{
		IssuerName: "test", Issuer: p.srv.URL, Subject: "alice",
		Email: "alice@example.com", EmailVerified: true,
		Claims: id.Claims,
		Token: ca.TokenFacts{
			Digest: sha256.Sum256([]byte(text(header) + "\x00" + text(claims))),
			KeyID:  "rsa", KeyThumbprint: v.issuers[0].keys.Load().byID["rsa"][0].thumbprint, Algorithm: "RS256",
			Audience: []string{"mayfly"}, AuthorizedParty: "mayfly", ID: "id-1",
			IssuedAt:    time.Unix(noon.Add(-time.Minute).Unix(), 0),
			NotBefore:   time.Unix(noon.Add(-65*time.Second).Unix(), 0),
			Expires:     time.Unix(noon.Add(5*time.Minute).Unix(), 0),
			UsableUntil: time.Unix(noon.Add(5*time.Minute+30*time.Second).Unix(), 0),
		},
	}
	if !reflect.DeepEqual(id, want) {
		t.Errorf("identity:\n got %+v\nwant %+v", id, want)
	}
	for name, want := range map[string]any{
		"run": json.Number("9007199254740993"), "groups": []any{"a", "b"}, "nothing": nil, "email_verified": true,
	} {
		if got, ok := id.Claims[name]; !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("claim %s is %#v, want %#v", name, got, want)
		}
	}
}

// RFC 7638, Section 3.1 gives this key and this thumbprint.
func TestThumbprintIsThatOfRFC7638(t *testing.T) {
	const jwk = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	k, id, err := parseKey([]byte(jwk))
	if err != nil {
		t.Fatalf("parseKey: %v", err)
	}
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; k.thumbprint != want || id != "2011-04-29" {
		t.Errorf("kid %q, thumbprint %q, want %q", id, k.thumbprint, want)
	}
}

func TestVerifyAcceptsOddTokens(t *testing.T) {
	p := newProvider(t)
	is := p.issuer()
	is.ExtraAudiences, is.AuthorizedParties = []string{"account"}, []string{"mayfly", "cosign"}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	unix := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	header, claims := goodHeader(), p.goodClaims()
	cases := map[string]string{
		"aud an array":             rs256().token(t, header, claims.with("aud", []string{"mayfly"})),
		"aud twice the same":       rs256().token(t, header, claims.with("aud", []string{"mayfly", "mayfly"})),
		"extra audience and azp":   rs256().token(t, header, claims.with("aud", []string{"account", "mayfly"}).with("azp", "cosign")),
		"no typ":                   rs256().token(t, header.with("typ", absent), claims),
		"typ jwt":                  rs256().token(t, header.with("typ", "jwt"), claims),
		"payload typ ID and scope": rs256().token(t, header, claims.with("typ", "ID").with("scope", "openid")),
		"token_use id":             rs256().token(t, header, claims.with("token_use", "id")),
		"x5t and own header":       rs256().token(t, header.with("x5t", "abc").with("own", "n"), claims),
		"x5u of nobody, ignored":   rs256().token(t, header.with("x5u", "https://evil.example/"), claims),
		"JWK without use and alg":  signer{"RS256", rsaKey2()}.token(t, header.with("kid", "plain"), claims),
		"PS256, JWK without alg":   signer{"PS256", rsaKey2()}.token(t, header.with("kid", "plain").with("alg", "PS256"), claims),
		"ES256":                    signer{"ES256", p256Key()}.token(t, header.with("kid", "ec").with("alg", "ES256"), claims),
		"EdDSA":                    signer{"EdDSA", ed25519Key()}.token(t, header.with("kid", "ed").with("alg", "EdDSA"), claims),
		"nbf before iat":           rs256().token(t, header, claims.with("nbf", unix(-65*time.Second))),
		"nbf now":                  rs256().token(t, header, claims.with("nbf", unix(0))),
		"nbf 30 s ahead":           rs256().token(t, header, claims.with("nbf", unix(30*time.Second))),
		"iat 30 s ahead":           rs256().token(t, header, claims.with("iat", unix(30*time.Second))),
		"exp in a second":          rs256().token(t, header, claims.with("exp", unix(time.Second))),
		"exp 29 s ago":             rs256().token(t, header, claims.with("exp", unix(-29*time.Second))),
		"fractions of seconds":     rs256().token(t, header, claims.with("exp", float64(unix(time.Minute))+0.5).with("iat", float64(unix(-time.Minute))+0.25)),
		"issuer's clock 20 s fast": rs256().token(t, header, claims.with("iat", unix(20*time.Second)).with("nbf", unix(20*time.Second))),
		"a day of validity":        rs256().token(t, header, claims.with("iat", unix(-time.Hour)).with("exp", unix(23*time.Hour))),
		"no e-mail":                rs256().token(t, header, claims.with("email", absent).with("email_verified", absent)),
		"e-mail null":              rs256().token(t, header, claims.with("email", nil)),
		"claims unlike but near":   rs256().token(t, header, claims.with("EMAIL_VERIFIED", false).with("Email", "root@example.com")),
		"claims of strange names":  rs256().token(t, header, claims.with("https://x/y", 1).with("kubernetes.io", object{"pod": nil}).with("", "")),
		"groups overage":           rs256().token(t, header, claims.with("_claim_names", object{"groups": "s"}).with("_claim_sources", object{"s": object{"endpoint": p.srv.URL + "/groups"}})),
		"surrogate pair":           rs256().compact(t, text(header), strings.Replace(text(claims), `"alice"`, `"\ud83d\ude00"`, 1)),
		"white space in the JSON":  rs256().compact(t, " "+text(header)+"\n", "\r\n\t"+text(claims)+" "),
		"depth 16":                 rs256().compact(t, text(header), strings.TrimSuffix(text(claims), "}")+`,"a":`+strings.Repeat("[", 15)+strings.Repeat("]", 15)+"}"),
		"199 groups":               rs256().token(t, header, claims.with("groups", groups(199))),
	}
	for _, sub := range []string{"auth0|x", "repo:o/r:ref:refs/heads/main", "spiffe://td/ns/a/sa/b", "José", "a b",
		strings.Repeat("s", 1024)} {
		cases["sub "+sub] = rs256().token(t, header, claims.with("sub", sub))
	}
	before := p.requests.Load()
	for name, token := range cases {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v\ntoken %.200s", name, err, token)
		}
	}
	if got := p.requests.Load() - before; got != 0 {
		t.Errorf("verifying caused %d requests, want none", got)
	}
}

// groups makes a token as large as Entra ID's with its full number of groups.
func groups(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%08x-1111-2222-3333-%012x", i, i))
	}
	return list
}

func TestEmailVerified(t *testing.T) {
	p := newProvider(t)
	strict, lenient := p.issuer(), p.issuer()
	lenient.EmailVerifiedString = true
	vs, _ := newVerifier(t, Config{Issuers: []Issuer{strict}})
	vl, _ := newVerifier(t, Config{Issuers: []Issuer{lenient}})
	for _, tt := range []struct {
		value           any
		strict, lenient bool
	}{
		{true, true, true}, {false, false, false}, {"true", false, true}, {"false", false, false},
		{"True", false, false}, {"maybe", false, false}, {1, false, false}, {0, false, false},
		{nil, false, false}, {absent, false, false}, {[]bool{true}, false, false},
	} {
		token := rs256().token(t, goodHeader(), p.goodClaims().with("email_verified", tt.value))
		for v, want := range map[*Verifier]bool{vs: tt.strict, vl: tt.lenient} {
			id, err := v.Verify(t.Context(), token)
			if err != nil || id.EmailVerified != want || id.Email != "alice@example.com" {
				t.Errorf("email_verified %v, strings allowed %v: got %v, %v; want %v",
					tt.value, v == vl, id.EmailVerified, err, want)
			}
		}
	}
	id, err := vs.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims().with("email", absent)))
	if err != nil || id.EmailVerified || id.Email != "" {
		t.Errorf("email_verified without email: got %+v, %v; want not verified", id, err)
	}
}

func TestTokenWithoutKeyID(t *testing.T) {
	p := newProvider(t)
	is := p.issuer()
	is.AllowNoKeyID = true
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	token := rs256().token(t, goodHeader().with("kid", absent), p.goodClaims())
	_, err := v.Verify(t.Context(), token)
	wantRefusal(t, "no kid, several keys", err, ca.KindInvalid, ca.ReasonKeyUnknown)

	p.setKeys(jwkSet(publicJWK(rsaKey1().Public()), publicJWK(rsaKey2().Public()).with("use", "enc")))
	refreshAll(t, v)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("no kid, one usable key: %v", err)
	}
	_, err = v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims()))
	wantRefusal(t, "kid, and a key without one", err, ca.KindInvalid, ca.ReasonKeyUnknown)
}

func TestOneKeyIDForTwoKeys(t *testing.T) {
	p := newProvider(t)
	p.setKeys(jwkSet(publicJWK(rsaKey1().Public()).with("kid", "same"), publicJWK(rsaKey2().Public()).with("kid", "same"),
		publicJWK(p256Key().Public()).with("kid", "same")))
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	for name, s := range map[string]signer{"first": rs256(), "second": {"RS256", rsaKey2()}, "third": {"ES256", p256Key()}} {
		token := s.token(t, goodHeader().with("kid", "same").with("alg", s.alg), p.goodClaims())
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("%s key: %v", name, err)
		}
	}
}

func TestOnlyRS256ByDefault(t *testing.T) {
	p := newProvider(t)
	is := p.issuer()
	is.Algorithms = nil
	p.setDiscovery(p.discovery.with("id_token_signing_alg_values_supported", []string{"RS256", "ES256", "none"}))
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims())); err != nil {
		t.Errorf("RS256: %v", err)
	}
	_, err := v.Verify(t.Context(), signer{"ES256", p256Key()}.token(t, goodHeader().with("kid", "ec").with("alg", "ES256"), p.goodClaims()))
	wantRefusal(t, "ES256, which discovery offers", err, ca.KindInvalid, ca.ReasonAlgNotAllowed)
}

func TestTokenIsUsableUntilItSays(t *testing.T) {
	p := newProvider(t)
	v, c := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	token := rs256().token(t, goodHeader(), p.goodClaims())
	id, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	c.advance(id.Token.UsableUntil.Sub(c.now()) - 1)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("a nanosecond before %v: %v", id.Token.UsableUntil, err)
	}
	c.advance(1)
	_, err = v.Verify(t.Context(), token)
	wantRefusal(t, "at UsableUntil", err, ca.KindInvalid, ca.ReasonExpired)
}

func TestVerifyWhileKeysRotate(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	kept := signer{"ES256", p256Key()}.token(t, goodHeader().with("kid", "ec").with("alg", "ES256"), p.goodClaims())
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := v.Verify(t.Context(), kept); err != nil {
					t.Errorf("key that every set has: %v", err)
					return
				}
				v.Ready()
			}
		})
	}
	for i := range 20 {
		keys := standardKeys()
		if i%2 == 0 {
			keys = jwkSet(publicJWK(p256Key().Public()).with("kid", "ec"))
		}
		p.setKeys(keys)
		refreshAll(t, v)
	}
	close(done)
	wg.Wait()
	if got := v.issuers[0].keys.Load().generation; got != 21 {
		t.Errorf("generation is %d after 21 fetches", got)
	}
}

func TestVerifyHonoursContext(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Verify(ctx, rs256().token(t, goodHeader(), p.goodClaims()))
	wantRefusal(t, "cancelled context", err, ca.KindUnavailable, ca.ReasonDeadline)
}

func TestKeySetDropsUnfitKeysOnly(t *testing.T) {
	good := publicJWK(rsaKey1().Public()).with("kid", "good")
	rsaBase, ecBase, edBase := publicJWK(rsaKey1().Public()), publicJWK(p256Key().Public()), publicJWK(ed25519Key().Public())
	small := object{"kty": "RSA", "e": "AQAB", "n": b64(new(big.Int).SetBit(big.NewInt(1), 2046, 1).Bytes())}
	huge := object{"kty": "RSA", "e": "AQAB", "n": b64(new(big.Int).SetBit(big.NewInt(1), 8192, 1).Bytes())}
	evenModulus := object{"kty": "RSA", "e": "AQAB", "n": b64(new(big.Int).SetBit(big.NewInt(0), 2047, 1).Bytes())}
	offCurve := ecBase.with("x", ecBase["y"])
	cases := map[string]any{
		"use enc": rsaBase.with("use", "enc"), "use null": rsaBase.with("use", nil),
		"key_ops encrypt": rsaBase.with("key_ops", []string{"encrypt"}), "key_ops a string": rsaBase.with("key_ops", "verify"),
		"RSA 2047": small, "RSA 8193": huge, "even modulus": evenModulus,
		"e 0": rsaBase.with("e", "AA"), "e 1": rsaBase.with("e", "AQ"), "e 3": rsaBase.with("e", "Aw"),
		"e 65536": rsaBase.with("e", "AQAA"), "e 2^32+1": rsaBase.with("e", "AQAAAAE"), "e missing": rsaBase.with("e", absent),
		"n not base64": rsaBase.with("n", "!!"), "n padded": rsaBase.with("n", rsaBase["n"].(string)+"=="), "n a number": rsaBase.with("n", 5),
		"symmetric": object{"kty": "oct", "k": "c2VjcmV0"}, "private d": rsaBase.with("d", "AQAB"), "symmetric k": rsaBase.with("k", "AQAB"),
		"off the curve": offCurve, "P-256K": ecBase.with("crv", "secp256k1"), "x short": ecBase.with("x", "AQAB"), "no y": ecBase.with("y", absent),
		"infinity": ecBase.with("x", b64(make([]byte, 32))).with("y", b64(make([]byte, 32))),
		"X25519":   edBase.with("crv", "X25519"), "Ed25519 short": edBase.with("x", "AQAB"),
		"kty missing": rsaBase.with("kty", absent), "kty new": rsaBase.with("kty", "AKP"), "kid a number": rsaBase.with("kid", 1),
		"kid too long": rsaBase.with("kid", strings.Repeat("k", 257)), "alg a number": rsaBase.with("alg", 1),
		"alg HS256": rsaBase.with("alg", "HS256"), "alg none": rsaBase.with("alg", "none"), "alg ES384 on P-256": ecBase.with("alg", "ES384"),
		"a string": "key", "null": nil, "an array": []string{},
	}
	for name, jwk := range cases {
		if o, ok := jwk.(object); ok && name != "kid a number" && name != "kid too long" {
			jwk = o.with("kid", "bad")
		}
		set, err := parseKeySet(must(json.Marshal(object{"keys": []any{jwk, good}})))
		if err != nil || len(set.keys) != 1 || set.keys[0].id != "good" || len(set.dropped) != 1 {
			t.Errorf("%s: got %+v, %v; want it dropped and its neighbour kept", name, set, err)
			continue
		}
		if leaked := strings.Contains(name, "private") || strings.Contains(name, "symmetric"); set.leaked != leaked {
			t.Errorf("%s: secret published is %v, want %v", name, set.leaked, leaked)
		}
	}
}

func TestKeySetAcceptsOddKeys(t *testing.T) {
	base := publicJWK(rsaKey1().Public())
	n := rsaKey1().N.Bytes()
	for name, jwk := range map[string]object{
		"leading zero in n":   base.with("n", b64(append([]byte{0}, n...))),
		"leading zero in e":   base.with("e", "AAEAAQ"),
		"e 17":                base.with("e", "EQ"),
		"e 2^31-1":            base.with("e", "f____w"),
		"malformed x5c":       base.with("x5c", []string{"!!"}).with("x5t", "x"),
		"key_ops with verify": base.with("key_ops", []string{"verify"}),
		"unknown members":     base.with("owner", "https://x").with("nbf", 5),
		"issuer of Entra ID":  base.with("issuer", "https://login.example/{tenantid}/v2.0"),
		"kid in base64":       base.with("kid", "a+b/c=="),
	} {
		if set, err := parseKeySet(jwkSet(jwk)); err != nil || len(set.keys) != 1 {
			t.Errorf("%s: got %+v, %v; want one key", name, set, err)
		}
	}
	set, err := parseKeySet(jwkSet(base.with("e", "EQ")))
	if err != nil || set.keys[0].public.(*rsa.PublicKey).E != 17 {
		t.Errorf("exponent of %v, %v; want 17", set, err)
	}
}

func TestKeySetRefusesUnusableSets(t *testing.T) {
	key := text(publicJWK(p256Key().Public()))
	many := "[" + strings.TrimSuffix(strings.Repeat(key+",", maxKeys+1), ",") + "]"
	for name, body := range map[string]string{
		"empty body": "", "null": "null", "array": "[" + key + "]", "no keys": "{}", "empty keys": `{"keys":[]}`,
		"keys null": `{"keys":null}`, "keys an object": `{"keys":{}}`, "keys in other case": `{"KEYS":[` + key + `]}`,
		"only bad keys": `{"keys":[{"kty":"oct","k":"AQ"}]}`, "keys twice": `{"keys":[` + key + `],"keys":[]}`,
		"101 keys": `{"keys":` + many + `}`, "truncated": `{"keys":[` + key, "trailing": `{"keys":[` + key + `]}{}`,
		"HTML": "<html>",
	} {
		if set, err := parseKeySet([]byte(body)); err == nil {
			t.Errorf("%s: got %d keys, want an error", name, len(set.keys))
		}
	}
	if set, err := parseKeySet([]byte(`{"x":{"keys":[]},"keys":[` + key + `],"y":[1]}`)); err != nil || len(set.keys) != 1 {
		t.Errorf("set with other members: got %+v, %v; want one key", set, err)
	}
}

func TestKeySetBoundsKeysOfOneID(t *testing.T) {
	var keys []object
	for i := range maxSameID + 2 {
		n := new(big.Int).Add(rsaKey1().N, big.NewInt(int64(2*i)))
		keys = append(keys, publicJWK(&rsa.PublicKey{N: n, E: 65537}).with("kid", "same"))
	}
	keys = append(keys, keys[0])
	set, err := parseKeySet(jwkSet(keys...))
	if err != nil || len(set.keys) != maxSameID || len(set.dropped) != 3 {
		t.Errorf("got %+v, %v; want %d keys and 3 dropped", set, err, maxSameID)
	}
}
