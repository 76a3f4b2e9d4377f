package rfc6962_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

// What it is worth to remember verified paths, under a root and an intermediate
// with P-384 keys. Each submission is new; without TLS, but with the log's disk.
// "verified" is a list that was told anew, so that it remembers nothing.
func BenchmarkAddPreChainUnderP384Root(b *testing.B) {
	w := newWorld(b, func(w *world, c *rfc6962.Config) {
		c.PerClient = rfc6962.Rate{Count: 1 << 40, Per: time.Minute}
		w.root = newRoot(b, "root", elliptic.P384())
		between := w.root.below(b, "between", newKey(b, elliptic.P384()), nil)
		w.issuing = between.below(b, "issuing", newKey(b, elliptic.P256()), nil)
		c.Issuers = issuers(b, w.issuing.above)
	})
	client := w.clients.tlsCertificate(b, "replica", x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour))
	state := verifiedState(client.Leaf, w.clients.cert)
	for _, c := range []struct {
		name    string
		forgets bool
	}{{"remembered", false}, {"verified", true}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				body := encode(b, w.issuing.chain(w.issuing.precertificate(b, nil)))
				if c.forgets {
					w.handler.SetIssuers(issuers(b, w.issuing.above))
				}
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/ct/v1/add-pre-chain", bytes.NewReader(body))
				r.TLS = state
				answer := httptest.NewRecorder()
				b.StartTimer()
				w.handler.ServeHTTP(answer, r)
				if answer.Code != http.StatusOK {
					b.Fatal(answer.Code, answer.Body)
				}
			}
		})
	}
}

// Replicas over TLS, 64 submissions at once, each SCT verified: what one process
// gives that has the log, its clients and their CA on the same cores.
func BenchmarkRemotes(b *testing.B) {
	w := newWorld(b, func(_ *world, c *rfc6962.Config) { c.PerClient = rfc6962.Rate{Count: 1 << 40, Per: time.Minute} })
	cert, key := w.clientFiles(b, "replica")
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{
		Name: "test", URL: w.server.URL, PublicKey: w.keyPEM(), RootCAs: w.clientRoots(), ClientCertFile: cert, ClientKeyFile: key,
	})
	if err != nil {
		b.Fatal(err)
	}
	submissions := make([]ctlog.Submission, b.N)
	for i := range submissions {
		if submissions[i], err = ctlog.NewSubmission(w.issuing.precertificate(b, nil), w.issuing.chain(nil)[1:]); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int64
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := r.Submit(b.Context(), submissions[next.Add(1)-1]); err != nil {
				b.Error(err)
			}
		}
	})
}
