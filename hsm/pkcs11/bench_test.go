package pkcs11_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	random "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// wantShare is the least that the signer may leave of the token's own rate, in
// issuances: one takes two signatures, so 0.5 would be all of it.
const wantShare = 0.45

// BenchmarkIssuances compares, in one run, what a token signs with the calls of
// PKCS#11 alone and what it signs through the signer, in issuances of two
// signatures. The token takes 2 ms for each and none of this machine's CPU, as a
// device does; SoftHSM as it is stands beside it, where the token competes with
// verification for the CPU.
func BenchmarkIssuances(b *testing.B) {
	for _, token := range []struct {
		name  string
		delay time.Duration
		want  float64
	}{
		{"token=2ms", 2 * time.Millisecond, wantShare},
		{"token=softhsm", 0, 0},
	} {
		for _, pool := range []int{1, 4, 8, 16} {
			own := 0.0
			b.Run(fmt.Sprintf("%s/pool=%d", token.name, pool), func(b *testing.B) {
				place := newBench(b, "one")
				m := place.module("one")
				m.Delay("Sign", token.delay)
				m.Replay(token.delay > 0)
				if own == 0 {
					own = m.SignatureRate(b, pool)
				}
				cfg := place.config(m, "one")
				cfg.MaxSessions = pool + 1 // one keeps the login
				key := place.open(place.token(cfg))
				b.ResetTimer()
				rate := issuances(b, key, b.N)
				b.StopTimer()
				b.ReportMetric(own, "token-signatures/s")
				b.ReportMetric(rate, "issuances/s")
				b.ReportMetric(rate/own, "issuances/signature")
				// What is over at once says nothing.
				if rate/own < token.want && b.N > 100*pool {
					b.Errorf("%.0f issuances/s of a token that makes %.0f signatures/s: %.2f, want %.2f", rate, own, rate/own, token.want)
				}
			})
		}
	}
}

// issuances makes n pairs of signatures for as many requests at once as a busy
// authority has, and returns how many pairs it made in a second.
func issuances(b *testing.B, key *pkcs11.Key, n int) float64 {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	start := time.Now()
	for range min(n, signers) {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				for range 2 {
					digest := digests[random.IntN(len(digests))]
					ctx, cancel := context.WithTimeout(context.Background(), requestFor)
					_, err := key.Sign(ctx, digest[:], crypto.SHA256)
					cancel()
					if err != nil {
						b.Errorf("Sign = %v", err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}

// digests are few, so that the module can replay their signatures.
var digests = func() (d [64][sha256.Size]byte) {
	for i := range d {
		d[i] = sha256.Sum256([]byte{byte(i)})
		d[i][0] = byte(i)
	}
	return d
}()
