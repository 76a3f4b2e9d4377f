package oidc

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// readAsMap is what the standard library reads, its numbers kept as text.
func readAsMap(t *testing.T, data []byte) map[string]any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatalf("accepted what encoding/json refuses: %v\n%q", err, data)
	}
	if dec.More() || !json.Valid(data) {
		t.Fatalf("accepted data behind the object\n%q", data)
	}
	return m
}

// FuzzDecodeObject: whatever the strict decoder accepts, encoding/json reads
// as the same map, and it holds nothing that the strict decoder promises to
// refuse.
func FuzzDecodeObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,-2.5e+3,true,false,null,"x\n\u00e9\ud83d\ude00"]}}`,
		`{"a":1,"\u0061":2}`, `{"sub":"a","ſub":"b"}`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`, `{"a":"\u0000"}`, `{"a":01}`,
		` {"a" : [ ] } `, `{"a":1}{}`, `[]`, `{"":""}`, `{"a":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeObject(string(data), payloadLimits)
		if err != nil {
			if got != nil {
				t.Fatalf("value %v beside error %v", got, err)
			}
			return
		}
		if want := readAsMap(t, data); !reflect.DeepEqual(got, want) {
			t.Fatalf("decoded differently\n got %#v\nwant %#v\nfrom %q", got, want, data)
		}
		members := 0
		walk(t, got, 1, &members)
		if members > payloadLimits.members {
			t.Fatalf("accepted %d members", members)
		}
		// Writing the value and reading it again must change nothing.
		again, err := decodeObject(string(must(json.Marshal(got))), payloadLimits)
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("second reading: %v, %v; first %v", again, err, got)
		}
	})
}

// walk checks the promises about strings, depth and members.
func walk(t *testing.T, v any, depth int, members *int) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		if depth > payloadLimits.depth {
			t.Fatalf("accepted depth %d", depth)
		}
		for name, e := range v {
			*members++
			walk(t, name, depth, members)
			walk(t, e, depth+1, members)
		}
	case []any:
		if depth > payloadLimits.depth {
			t.Fatalf("accepted depth %d", depth)
		}
		for _, e := range v {
			walk(t, e, depth+1, members)
		}
	case string:
		if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			t.Fatalf("accepted string %q", v)
		}
	}
}

// FuzzParseToken: an accepted token has exactly one text, and the fields taken
// from it are those that encoding/json reads.
func FuzzParseToken(f *testing.F) {
	encode := func(header, payload, sig string) string {
		return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64([]byte(sig))
	}
	f.Add(encode(`{"alg":"RS256","kid":"k","typ":"JWT"}`, `{"iss":"https://idp.example","sub":"a"}`, "signature"))
	f.Add(encode(`{"alg":"none"}`, `{"iss":"https://idp.example","typ":"ID","scope":"x"}`, ""))
	f.Add(encode(`{"alg":"ES256","crit":["b64"],"b64":false}`, `{"iss":"x"}`, "sig"))
	f.Add(encode(`{"alg":"A","enc":"B"}`, ``, "") + "..")
	f.Add(strings.Repeat(".", 50))
	f.Fuzz(func(t *testing.T, raw string) {
		tok, r := parseToken(raw, defaultMaxTokenBytes)
		if (tok == nil) == (r == nil) {
			t.Fatalf("token %v and refusal %v", tok, r)
		}
		if r != nil {
			return
		}
		part := strings.Split(raw, ".")
		if len(part) != 3 || b64(tok.header) != part[0] || b64(tok.payload) != part[1] || b64(tok.signature) != part[2] {
			t.Fatalf("another text has the same meaning: %q", raw)
		}
		header := readAsMap(t, tok.header)
		kid, hasKeyID := header["kid"]
		if header["alg"] != tok.alg || hasKeyID != tok.hasKeyID || hasKeyID && kid != tok.keyID {
			t.Fatalf("header %s read as alg %q, kid %q", tok.header, tok.alg, tok.keyID)
		}
		if claims := readAsMap(t, tok.payload); !reflect.DeepEqual(claims, tok.claims) || claims["iss"] != tok.issuer {
			t.Fatalf("payload %s read as %v", tok.payload, tok.claims)
		}
	})
}

// FuzzVerifyClaims signs whatever it is given. What is accepted must say about
// the identity what encoding/json reads from the payload.
func FuzzVerifyClaims(f *testing.F) {
	p := newProvider(f)
	v, _ := newVerifier(f, Config{Issuers: []Issuer{p.issuer()}})
	is := p.issuer()
	is.Accept, is.AuthorizedParties = AccessToken, []string{"mayfly"}
	access, _ := newVerifier(f, Config{Issuers: []Issuer{is}})
	// The provider's port changes, the corpus does not.
	const host = "https://idp.example"
	good := text(p.goodClaims().with("iss", host))
	more := func(s string) string { return strings.TrimSuffix(good, "}") + "," + s + "}" }
	for _, s := range []string{good, more(`"SUB":"root"`), more(`"ſub":"root"`), more(`"azp":"mayfly","jti":"1","nbf":1`),
		more(`"azp":"mayfly","scp":"sign"`), more(`"azp":"mayfly","typ":"Bearer"`), more(`"azp":"mayfly","typ":"ID","scope":"x"`),
		more(`"EMAIL_VERIFIED":false`), more(`"sub":"x"`), more(`"_claim_names":{}`), more(`"a":"\ud83d\ude00"`)} {
		f.Add([]byte(s))
	}
	s := signer{"EdDSA", ed25519Key()}
	header := text(object{"alg": "EdDSA", "kid": "ed"})
	f.Fuzz(func(t *testing.T, payload []byte) {
		payload = bytes.ReplaceAll(payload, []byte(host), []byte(p.srv.URL))
		token := s.compact(t, header, string(payload))
		id, err := v.Verify(t.Context(), token)
		other, accessErr := access.Verify(t.Context(), token)
		switch {
		case err == nil && accessErr == nil:
			t.Fatalf("an ID token and an access token at once: %s", payload)
		case accessErr == nil:
			id = other
		case err != nil:
			return
		}
		claims := readAsMap(t, payload)
		email, _ := claims["email"].(string)
		verified, _ := claims["email_verified"].(bool)
		if !reflect.DeepEqual(claims, id.Claims) || claims["iss"] != id.Issuer || claims["sub"] != id.Subject ||
			email != id.Email || (verified && email != "") != id.EmailVerified {
			t.Fatalf("identity %+v\nfrom %s", id, payload)
		}
		if id.Subject == "" || !id.Token.UsableUntil.After(noon) || len(id.Token.Audience) == 0 {
			t.Fatalf("identity is incomplete: %+v\nfrom %s", id, payload)
		}
	})
}

// FuzzParseCached: what is read from disk is what was written there, and has no
// keys that a provider's answer could not have brought.
func FuzzParseCached(f *testing.F) {
	good := cached{Version: cacheVersion, Issuer: "https://idp.example", Source: "https://idp.example/keys", FetchedAt: noon, Keys: standardKeys()}
	good.Checksum = good.checksum()
	f.Add(must(json.Marshal(good)))
	f.Add([]byte(`{"version":1,"issuer":"","source":"","fetchedAt":"0001-01-01T00:00:00Z","keys":null,"checksum":""}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseCached(data)
		if err != nil {
			return
		}
		again, err := parseCached(must(json.Marshal(c)))
		if err != nil || !again.FetchedAt.Equal(c.FetchedAt) || !bytes.Equal(again.Keys, c.Keys) || again.Issuer != c.Issuer || again.Source != c.Source {
			t.Fatalf("read %+v, written and read again %+v, %v", c, again, err)
		}
		if set, err := parseKeySet(c.Keys); err == nil {
			checkKeys(t, set)
		}
	})
}

// FuzzParseKeySet: no set yields a key that is too weak, too large or secret,
// and a good neighbour survives whatever a key says.
func FuzzParseKeySet(f *testing.F) {
	good := text(publicJWK(p256Key().Public()).with("kid", "good"))
	f.Add([]byte(`{"keys":[]}`))
	f.Add(standardKeys())
	f.Add([]byte(good))
	f.Add([]byte(`{"kty":"oct","k":"AQ"}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}],"keys":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseKeySet(data)
		if (set == nil) == (err == nil) {
			t.Fatalf("set %v and error %v", set, err)
		}
		if set != nil {
			checkKeys(t, set)
		}
		if !json.Valid(data) {
			return
		}
		set, err = parseKeySet([]byte(`{"keys":[` + string(data) + `,` + good + `]}`))
		if err != nil || len(set.byID["good"]) == 0 {
			t.Fatalf("%q spoilt its neighbour: %v", data, err)
		}
		checkKeys(t, set)
	})
}

func checkKeys(t *testing.T, set *keySet) {
	t.Helper()
	if len(set.keys) == 0 || len(set.keys) > maxKeys {
		t.Fatalf("%d keys", len(set.keys))
	}
	for _, k := range set.keys {
		switch pub := k.public.(type) {
		case *rsa.PublicKey:
			if bits := pub.N.BitLen(); bits < 2048 || bits > 8192 || pub.E < 17 || pub.E%2 == 0 {
				t.Fatalf("RSA key of %d bits, exponent %d", bits, pub.E)
			}
		case *ecdsa.PublicKey:
			if _, err := pub.ECDH(); err != nil {
				t.Fatalf("EC key: %v", err)
			}
		case ed25519.PublicKey:
		default:
			t.Fatalf("key is a %T", pub)
		}
		if k.thumbprint == "" || k.alg != "" && algorithms[k.alg].kind != k.kind {
			t.Fatalf("key %+v", k)
		}
	}
}
