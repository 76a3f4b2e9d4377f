package stack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/ca"
)

// BenchmarkIdentity is the token layer and policy with cached keys: a token of a
// person with groups, decided by the rules of an enterprise. It reports
//
//	rest/signature   CPU time of all of it but the signature check, divided by
//	                 that of the signature check by the standard library alone,
//	                 of the same token, both measured in this run
//
// for the two signatures that providers use: RSA with 2048 bits, the cheapest
// to check, and ECDSA with P-256.
func BenchmarkIdentity(b *testing.B) {
	b.Run("RS256", func(b *testing.B) { benchmarkIdentity(b, newSite(b), "RS256") })
	b.Run("ES256", func(b *testing.B) { benchmarkIdentity(b, newSiteOf(b, jose.ES256, newKey(b)), "ES256") })
}

func benchmarkIdentity(b *testing.B, s *site, alg string) {
	s.initLog()
	s.write("alice.json", []byte("{}"))
	stack, err := Open(b.Context(), s.ruled("127.0.0.1:1", "    algorithms: ["+alg+"]\n"+twoRules), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { s.must(stack.Close()) }()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { stack.current.Load().verifier.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	s.awaitKeys(stack)
	token := s.token(func(c map[string]any) {
		c["groups"], c["acr"], c["azp"] = []string{"/staff", "/code-signers", "/eng/release"}, "mfa", "sigstore"
	})
	whole := func() {
		id, err := stack.current.Load().verifier.Verify(ctx, token)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := stack.current.Load().policy.Decide(ctx, ca.Request{Identity: id, Time: time.Now()}); err != nil {
			b.Fatal(err)
		}
	}
	signature := s.bareSignature(token)
	whole()
	signature()
	b.ReportAllocs()
	b.ResetTimer()
	// In turns, so that both see the same machine.
	var all, bare time.Duration
	for range b.N {
		start := processCPU(b)
		for range identityRounds {
			whole()
		}
		middle := processCPU(b)
		for range identityRounds {
			signature()
		}
		all, bare = all+middle-start, bare+processCPU(b)-middle
	}
	b.ReportMetric(float64(all-bare)/float64(bare), "rest/signature")
	b.ReportMetric(float64(all.Microseconds())/float64(b.N*identityRounds), "cpu-us")
}

// identityRounds are enough for the clock of CPU time.
const identityRounds = 200

// bareSignature checks a token's signature with the standard library alone.
func (s *site) bareSignature(token string) func() {
	s.t.Helper()
	signed, encoded, _ := strings.Cut(token[strings.Index(token, ".")+1:], ".")
	signed = token[:strings.Index(token, ".")+1] + signed
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	s.must(err)
	return func() {
		digest, good := sha256.Sum256([]byte(signed)), false
		switch pub := s.public.(type) {
		case *rsa.PublicKey:
			good = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], raw) == nil
		case *ecdsa.PublicKey:
			good = ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
		}
		if !good {
			s.t.Fatal("the signature does not verify")
		}
	}
}
