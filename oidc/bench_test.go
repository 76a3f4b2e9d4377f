package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
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
