package rfc6962_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

// stubLog fails as it is told, and otherwise is the log behind it.
type stubLog struct {
	rfc6962.Log
	ready, err error
	calls      atomic.Int64
	hold       chan struct{} // nil holds nobody
}

func (l *stubLog) Ready() error { return l.ready }

func (l *stubLog) Submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error) {
	l.calls.Add(1)
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return ctlog.SCT{}, context.Cause(ctx)
		}
	}
	if l.err != nil {
		return ctlog.SCT{}, l.err
	}
	return l.Log.Submit(ctx, s)
}

func (l *stubLog) Add(context.Context, embedded.Entry) (ctlog.SCT, error) {
	panic(http.ErrAbortHandler)
}

// What is wrong with the log is told by status, and by nothing else.
func TestFailuresOfTheLog(t *testing.T) {
	log := &stubLog{}
	w := newWorld(t, func(w *world, c *rfc6962.Config) {
		log.Log, c.Log, c.Timeout = w.log, log, 50*time.Millisecond
	})
	secret := errors.New("/var/lib/mayfly: no space left on device")
	for _, c := range []struct {
		name       string
		ready, err error
		status     int
		retryAfter string
	}{
		{"not ready", fmt.Errorf("%w: %w", ctlog.ErrUnavailable, secret), nil, 503, "5"},
		{"full", fmt.Errorf("%w: %w", ctlog.ErrOverloaded, secret), nil, 429, "1"},
		{"unavailable", nil, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, secret), 503, "5"},
		{"overloaded", nil, fmt.Errorf("%w: %w", ctlog.ErrOverloaded, secret), 429, "1"},
		{"rejected", nil, fmt.Errorf("%w: too long", ctlog.ErrRejected), 400, ""},
		{"unknown", nil, secret, 500, ""},
	} {
		log.ready, log.err = c.ready, c.err
		got := w.add(t, "add-pre-chain", w.issuing.chain(w.issuing.precertificate(t, nil)))
		if got.status != c.status || got.header.Get("Retry-After") != c.retryAfter {
			t.Errorf("%s: got %d, Retry-After %q, want %d and %q", c.name, got.status, got.header.Get("Retry-After"), c.status, c.retryAfter)
		}
		if strings.Contains(got.body, "space") {
			t.Errorf("%s: the answer tells what only the operator should know: %q", c.name, got.body)
		}
	}
	log.ready, log.err, log.hold = nil, nil, make(chan struct{})
	if got := w.add(t, "add-pre-chain", w.issuing.chain(w.issuing.precertificate(t, nil))); got.status != 503 {
		t.Errorf("a log that hangs: got %d %q, want 503", got.status, got.body)
	}
}

// A repetition gets the SCT of the first for five minutes, whatever chain it comes
// with, and not after a failure.
func TestRepetitionsGetTheSameSCT(t *testing.T) {
	now := time.Now()
	log := &stubLog{}
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(w *world, c *rfc6962.Config) {
		log.Log, c.Log, c.Clock, c.Registerer = w.log, log, func() time.Time { return now }, registry
	})
	precertificate := w.issuing.precertificate(t, nil)
	log.err = ctlog.ErrUnavailable
	if got := w.add(t, "add-pre-chain", w.issuing.chain(precertificate)); got.status != 503 {
		t.Fatalf("got %d %q, want 503", got.status, got.body)
	}
	log.err = nil
	first := w.add(t, "add-pre-chain", w.issuing.chain(precertificate))
	first.index(t)
	now = now.Add(5*time.Minute - time.Second)
	for name, chain := range map[string][][]byte{
		"the same": w.issuing.chain(precertificate), "without the root": w.issuing.chain(precertificate)[:2], "alone": {precertificate},
	} {
		if got := w.add(t, "add-pre-chain", chain); got.body != first.body {
			t.Errorf("%s: got %d %s, want the first answer %s", name, got.status, got.body, first.body)
		}
	}
	now = now.Add(time.Second)
	if got := w.add(t, "add-pre-chain", w.issuing.chain(precertificate)); got.index(t) == first.index(t) {
		t.Error("after five minutes: got the first SCT, which clients would soon refuse")
	}
	const want = `
# HELP mayfly_rfc6962_paths_verified_total Paths above submitted certificates that had to be verified. A steady increase means that submitters send ever new chains, which costs time.
# TYPE mayfly_rfc6962_paths_verified_total counter
mayfly_rfc6962_paths_verified_total{log="test"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "mayfly_rfc6962_paths_verified_total"); err != nil {
		t.Error(err)
	}
}

// Two that come at once become one entry, and who goes away leaves it to be found.
func TestRepetitionsAtOnceBecomeOneEntry(t *testing.T) {
	log := &stubLog{hold: make(chan struct{})}
	w := newWorld(t, func(w *world, c *rfc6962.Config) { log.Log, c.Log = w.log, log })
	body := encode(t, w.issuing.chain(w.issuing.precertificate(t, nil)))
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.URL+"/ct/v1/add-pre-chain", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := w.client.Do(req); err == nil {
			resp.Body.Close()
			t.Error("the first got an answer from a log that was held")
		}
	}()
	for log.calls.Load() == 0 {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	<-left
	var all sync.WaitGroup
	answers := make([]answer, 8)
	for i := range answers {
		all.Go(func() {
			answers[i] = w.do(t, w.client, http.MethodPost, "/ct/v1/add-pre-chain", bytes.NewReader(body))
		})
	}
	close(log.hold)
	all.Wait()
	for i, a := range answers {
		if a.status != 200 || a.body != answers[0].body {
			t.Errorf("answer %d: got %d %s, want %s", i, a.status, a.body, answers[0].body)
		}
	}
	if n := log.calls.Load(); n != 1 {
		t.Errorf("the log was asked %d times, want once", n)
	}
}

// A submission that panics is nobody else's: who repeats it is not held by it.
func TestPanicLeavesNothingBehind(t *testing.T) {
	log := &stubLog{}
	w := newWorld(t, func(w *world, c *rfc6962.Config) { log.Log, c.Log = w.log, log })
	body := encode(t, w.issuing.chain(w.issuing.leaf(t, nil)))
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.server.URL+"/ct/v1/add-chain", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.client.Do(req)
		if err == nil {
			resp.Body.Close()
			t.Fatalf("got %d, want a connection that breaks off", resp.StatusCode)
		}
	}
	if got := w.do(t, w.client, http.MethodGet, "/ct/v1/get-roots", nil); got.status != 200 {
		t.Errorf("afterwards: got %d, want 200", got.status)
	}
}

// Paths of every proper kind lead into the log.
func TestPathsThatAreTaken(t *testing.T) {
	w := newWorld(t, nil)
	other := newRoot(t, "other root", elliptic.P384())
	crossed := other.below(t, "issuing", w.issuing.key, nil)
	between := other.below(t, "between", newKey(t, elliptic.P384()), func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	deep := between.below(t, "issuing", w.issuing.key, nil)
	for _, c := range []struct {
		name   string
		listed [][]*x509.Certificate
		chain  func([]byte) [][]byte
	}{
		{"the list", [][]*x509.Certificate{w.issuing.above}, w.issuing.chain},
		{"without the root", [][]*x509.Certificate{w.issuing.above}, func(b []byte) [][]byte { return w.issuing.chain(b)[:2] }},
		{"alone", [][]*x509.Certificate{w.issuing.above}, func(b []byte) [][]byte { return [][]byte{b} }},
		{"the issuing certificate alone in the list", [][]*x509.Certificate{w.issuing.above[:1]}, w.issuing.chain},
		{"cross-signed, with both listed", [][]*x509.Certificate{w.issuing.above, crossed.above}, crossed.chain},
		{"cross-signed, to a root that is known", [][]*x509.Certificate{w.issuing.above, deep.above}, crossed.chain},
		{"cross-signed, through one that is known", [][]*x509.Certificate{crossed.above, deep.above}, deep.chain},
		{"cross-signed, without the root", [][]*x509.Certificate{w.issuing.above, deep.above}, func(b []byte) [][]byte { return crossed.chain(b)[:2] }},
	} {
		w.handler.SetIssuers(issuers(t, c.listed...))
		for route, leaf := range map[string][]byte{"add-chain": w.issuing.leaf(t, nil), "add-pre-chain": w.issuing.precertificate(t, nil)} {
			if got := w.add(t, route, c.chain(leaf)); got.status != 200 {
				t.Errorf("%s, %s: got %d %q, want 200", c.name, route, got.status, got.body)
			}
		}
	}
	// One whose root nobody here knows.
	w.handler.SetIssuers(issuers(t, w.issuing.above))
	if got := w.add(t, "add-chain", crossed.chain(w.issuing.leaf(t, nil))); got.status != 400 || !strings.Contains(got.body, "no path") {
		t.Errorf("cross-signed by a stranger: got %d %q, want 400", got.status, got.body)
	}
	// One that is not for code signing, whatever it signs.
	servers := w.root.below(t, "servers", newKey(t, elliptic.P256()), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	w.handler.SetIssuers(issuers(t, servers.above))
	if got := w.add(t, "add-chain", servers.chain(servers.leaf(t, nil))); got.status != 400 || !strings.Contains(got.body, "key usage") {
		t.Errorf("an issuer of server certificates: got %d %q, want 400", got.status, got.body)
	}
	// What is no longer listed is no longer taken.
	w.handler.SetIssuers(issuers(t, between.above))
	if got := w.add(t, "add-chain", w.issuing.chain(w.issuing.leaf(t, nil))); got.status != 400 || !strings.Contains(got.body, "none of the issuing") {
		t.Errorf("unlisted: got %d %q, want 400", got.status, got.body)
	}
}

// A path is remembered, and its end with it.
func TestRememberedPathsExpire(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(_ *world, c *rfc6962.Config) { c.Clock = func() time.Time { return now } })
	long := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(1000 * time.Hour) }
	if got := w.add(t, "add-chain", w.issuing.chain(w.issuing.leaf(t, long))); got.status != 200 {
		t.Fatalf("got %d %q, want 200", got.status, got.body)
	}
	now = w.issuing.cert.NotAfter.Add(time.Second)
	chain := w.issuing.chain(w.issuing.leaf(t, long))
	client := w.clientWith(t, w.clients.tlsCertificate(t, "replica", x509.ExtKeyUsageClientAuth, now.Add(time.Hour)))
	got := w.do(t, client, http.MethodPost, "/ct/v1/add-chain", bytes.NewReader(encode(t, chain)))
	if got.status != 400 || !strings.Contains(got.body, "valid from") {
		t.Errorf("under an expired issuing certificate: got %d %q, want 400", got.status, got.body)
	}
}

func TestNewIssuersRefusesWhatCannotIssue(t *testing.T) {
	root := newRoot(t, "root", elliptic.P256())
	issuing := root.below(t, "issuing", newKey(t, elliptic.P256()), nil)
	signing := root.below(t, "signing", newKey(t, elliptic.P256()), func(c *x509.Certificate) {
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}}
	})
	leaf, err := x509.ParseCertificate(issuing.leaf(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, lists := range map[string][][]*x509.Certificate{
		"no list":                              nil,
		"an empty list":                        {nil},
		"a certificate of nobody":              {{leaf}},
		"a chain with a gap":                   {{issuing.cert, newRoot(t, "other", elliptic.P256()).cert}},
		"a chain upside down":                  {{root.cert, issuing.cert}},
		"a precertificate signing certificate": {signing.above},
	} {
		if _, err := rfc6962.NewIssuers(lists); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
