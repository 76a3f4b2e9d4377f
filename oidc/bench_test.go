package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// BenchmarkVerify stands beside the bare signature check that it cannot do
// without; the difference is what strictness costs.
func BenchmarkVerify(b *testing.B) {
	p := newProvider(b)
	v, _ := newVerifier(b, Config{Issuers: []Issuer{p.issuer()}})
	for _, bm := range []struct {
		name   string
		signer signer
		kid    string
		claims object
	}{
		{"RS256", rs256(), "rsa", p.goodClaims()},
		{"ES256", signer{"ES256", p256Key()}, "ec", p.goodClaims()},
		{"RS256-199groups", rs256(), "rsa", p.goodClaims().with("groups", groups(199))},
	} {
		token := bm.signer.token(b, object{"alg": bm.signer.alg, "kid": bm.kid}, bm.claims)
		b.Run(bm.name+"/verify", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bm.name+"/signature", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !bareSignature(bm.signer.key.Public(), token) {
					b.Fatal("signature does not verify")
				}
			}
		})
	}
}

func bareSignature(pub crypto.PublicKey, token string) bool {
	dot := strings.LastIndexByte(token, '.')
	sig, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	digest := sha256.Sum256([]byte(token[:dot]))
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return err == nil && rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil
	case *ecdsa.PublicKey:
		return err == nil && ecdsaVerify(k, digest[:], sig)
	}
	return false
}

func ecdsaVerify(k *ecdsa.PublicKey, digest, sig []byte) bool {
	half := len(sig) / 2
	return ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
}

// staticIssuers returns issuers that need no network, the first of them first.
func staticIssuers(n int) []Issuer {
	keys := jwkSet(publicJWK(rsaKey1().Public()).with("kid", "rsa"), publicJWK(p256Key().Public()).with("kid", "ec"))
	all := make([]Issuer, n)
	for i := range all {
		all[i] = Issuer{
			Name: fmt.Sprintf("issuer-%d", i), URL: fmt.Sprintf("https://idp-%d.example", i), Audiences: []string{"mayfly"}, StaticJWKS: keys,
			Algorithms: []string{"RS256", "ES256"},
		}
	}
	return all
}

func claimsOf(issuer Issuer) object {
	return object{"iss": issuer.URL, "aud": "mayfly", "sub": "alice", "iat": noon.Add(-time.Minute).Unix(), "exp": noon.Add(5 * time.Minute).Unix()}
}

// BenchmarkVerifyIssuers: what a token costs does not depend on how many issuers
// there are, whether it is of the first, of the last or of none.
func BenchmarkVerifyIssuers(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		all := staticIssuers(n)
		v := must(New(Config{Issuers: all, Clock: (&clock{}).now}))
		stranger := all[0]
		stranger.URL = "https://elsewhere.example"
		for name, is := range map[string]Issuer{"first": all[0], "last": all[n-1], "unknown": stranger} {
			token := signer{"ES256", p256Key()}.token(b, object{"alg": "ES256", "kid": "ec"}, claimsOf(is))
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := v.Verify(b.Context(), token); (err != nil) != (name == "unknown") {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRefuse is what strangers can make us do: only one who knows an issuer
// and a key of it makes us check a signature.
func BenchmarkRefuse(b *testing.B) {
	is := staticIssuers(1)[0]
	v := must(New(Config{Issuers: []Issuer{is}, Clock: (&clock{}).now}))
	claims := claimsOf(is)
	good := rs256().token(b, goodHeader(), claims)
	for _, bm := range []struct {
		name, token string
		reason      ca.Reason
	}{
		{"junk", strings.Repeat("junk", 200), ca.ReasonTokenMalformed},
		{"junk-in-three-parts", strings.Repeat("A", 40) + "." + strings.Repeat("A", 400) + "." + strings.Repeat("A", 342), ca.ReasonTokenMalformed},
		{"cut-short", good[:len(good)-1], ca.ReasonTokenMalformed},
		{"too-large", strings.Repeat("A", defaultMaxTokenBytes+1), ca.ReasonTokenTooLarge},
		{"unknown-issuer", rs256().token(b, goodHeader(), claims.with("iss", "https://idp.example")), ca.ReasonIssuerUnknown},
		{"expired", rs256().token(b, goodHeader(), claims.with("exp", noon.Add(-time.Hour).Unix())), ca.ReasonExpired},
		{"unknown-key", rs256().token(b, goodHeader().with("kid", "other"), claims), ca.ReasonKeyUnknown},
		{"bad-signature", signer{"RS256", rsaKey2()}.token(b, goodHeader(), claims), ca.ReasonBadSignature},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), bm.token); ca.AsRefusal(err).Reason != bm.reason {
					b.Fatal(err)
				}
			}
		})
	}
}
