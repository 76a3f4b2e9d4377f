package stack

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/ca"
)

// BenchmarkIssuance is the whole of an issuance in process: REST v2 through the
// real handler, token check, proof, policy, journal and log in the box with
// their fsyncs, both CA signatures. Beside the usual figures it reports
//
//	issued/s, p50-ms, p99-ms   as a client would see them
//	cpu/crypto                 CPU time of the process per certificate, divided by
//	                           that of the public-key operations which the design
//	                           prescribes, both measured in this run
//
// The ratio is the one to compare across machines: 1 would be a service that
// does nothing but arithmetic.
func BenchmarkIssuance(b *testing.B) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { benchmarkIssuance(b, clients) })
	}
}

func benchmarkIssuance(b *testing.B, clients int) {
	s := newSite(b)
	s.initLog()
	handler := s.run("").server.Handler()
	data, token := body(b, newKey(b), "alice@corp.example"), s.token(nil)
	ask := func() time.Duration {
		req := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert", bytes.NewReader(data))
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		start := time.Now()
		handler.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			b.Errorf("status %d: %s", w.Code, w.Body)
		}
		return time.Since(start)
	}
	ask()
	crypto := cryptoCPU(b)
	b.ReportAllocs()
	b.ResetTimer()
	cpu, start := processCPU(b), time.Now()
	took := spread(b.N, clients, ask)
	wall := time.Since(start)
	cpu = processCPU(b) - cpu
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/wall.Seconds(), "issued/s")
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(float64(cpu)/float64(b.N)/float64(crypto), "cpu/crypto")
}

// spread calls do n times from some goroutines and returns how long each took.
func spread(n, goroutines int, do func() time.Duration) []time.Duration {
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := g; i < n; i += goroutines {
				took[i] = do()
			}
		})
	}
	wg.Wait()
	return took
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cryptoCPU is the CPU time of the public-key operations of one certificate: the
// token's RS256 signature; the client's proof, two CA signatures and the SCT
// verified; two CA signatures and the SCT made, all with P-256.
func cryptoCPU(b *testing.B) time.Duration {
	b.Helper()
	const rounds = 300
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	key, digest := newKey(b), sha256.Sum256([]byte("to be signed"))
	rsaSignature, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	start := processCPU(b)
	for range rounds {
		if err := rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, digest[:], rsaSignature); err != nil {
			b.Fatal(err)
		}
		var signature []byte
		for range 3 {
			if signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
		for range 4 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("signature does not verify")
			}
		}
	}
	return (processCPU(b) - start) / rounds
}

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
