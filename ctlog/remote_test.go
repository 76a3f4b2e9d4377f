package ctlog_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// answer is the JSON that add-pre-chain gives for an SCT.
func answer(t testing.TB, sct ctlog.SCT) string {
	t.Helper()
	raw, err := json.Marshal(ct.AddChainResponse{
		SCTVersion: ct.V1,
		ID:         sct.LogID[:],
		Timestamp:  uint64(sct.Timestamp.UnixMilli()),
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions),
		Signature:  sct.Signature,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func newRemote(t testing.TB, url string, l *fakeLog) *ctlog.Remote {
	t.Helper()
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "remote", URL: url, PublicKey: l.spki})
	if err != nil {
		t.Fatalf("NewRemote(%s): %v", url, err)
	}
	return r
}

func TestRemoteSendsTheChainAndVerifiesTheSCT(t *testing.T) {
	l, s := newFakeLog(t), testca.New(t).Precertificate(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request ct.AddChainRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Errorf("request: %v", err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/2026/ct/v1/add-pre-chain" ||
			len(request.Chain) != 3 || string(request.Chain[0]) != string(s.Precertificate) {
			t.Errorf("got %s %s with %d certificates", r.Method, r.URL.Path, len(request.Chain))
		}
		_, _ = io.WriteString(w, answer(t, l.sign(t, s, time.Now(), leafIndex7)))
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{
		Name: "remote", URL: server.URL + "/2026/", PublicKey: l.spki, RootCAs: roots,
	})
	if err != nil {
		t.Fatal(err)
	}
	sct, err := r.Submit(t.Context(), s)
	if err != nil {
		t.Fatalf("Submit: %v", err)
	}
	if sct.Log != "remote" || sct.Index != 7 || sct.LogID != r.ID() {
		t.Fatalf("got %+v", sct)
	}
	// Without the root the server could be anyone.
	if _, err := newRemote(t, server.URL, l).Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Fatalf("unknown TLS certificate: got %v, want ErrUnavailable", err)
	}
}

func TestNewRemoteRefuses(t *testing.T) {
	key := newFakeLog(t).spki
	for name, c := range map[string]ctlog.RemoteConfig{
		"no name":          {URL: "https://log.example", PublicKey: key},
		"no key":           {Name: "a", URL: "https://log.example"},
		"no URL":           {Name: "a", PublicKey: key},
		"plain http":       {Name: "a", URL: "http://log.example", PublicKey: key},
		"a password":       {Name: "a", URL: "https://u:p@log.example", PublicKey: key},
		"a query":          {Name: "a", URL: "https://log.example?x=1", PublicKey: key},
		"another scheme":   {Name: "a", URL: "file:///etc", PublicKey: key},
		"negative timeout": {Name: "a", URL: "https://log.example", PublicKey: key, Timeout: -1},
	} {
		if _, err := ctlog.NewRemote(c); err == nil {
			t.Errorf("%s: NewRemote(%+v) succeeded", name, c)
		}
	}
	for _, url := range []string{"http://127.0.0.1:1", "http://[::1]:1", "http://localhost", "https://log.example/x/"} {
		if _, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: url, PublicKey: key}); err != nil {
			t.Errorf("NewRemote(%s): %v", url, err)
		}
	}
}

// network answers in place of the network, in the bubble's time.
type network func(r *http.Request) (*http.Response, error)

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

func respond(status int, body string, header ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// drip is a body of which one byte comes each 100 ms, without end.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(100 * time.Millisecond):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}
func (drip) Close() error { return nil }

func TestRemoteFaults(t *testing.T) {
	l, other := newFakeLog(t), newFakeLog(t)
	ca := testca.New(t)
	s, foreign := ca.Precertificate(t), ca.Precertificate(t)
	always := func(response func() *http.Response) func(*http.Request, int32) (*http.Response, error) {
		return func(*http.Request, int32) (*http.Response, error) { return response(), nil }
	}
	good := func() *http.Response { return respond(200, answer(t, l.sign(t, s, time.Now(), nil))) }
	signed := func(by *fakeLog, of ctlog.Submission, in time.Duration) func(*http.Request, int32) (*http.Response, error) {
		return always(func() *http.Response { return respond(200, answer(t, by.sign(t, of, time.Now().Add(in), nil))) })
	}
	for _, c := range []struct {
		name     string
		fault    func(r *http.Request, attempt int32) (*http.Response, error)
		want     error // nil: an SCT
		attempts int32
		within   time.Duration
	}{
		{"400", always(func() *http.Response { return respond(400, "unknown root") }), ctlog.ErrRejected, 1, 0},
		{"413", always(func() *http.Response { return respond(413, "") }), ctlog.ErrRejected, 1, 0},
		{"404", always(func() *http.Response { return respond(404, "") }), ctlog.ErrUnavailable, 1, 0},
		{"redirect", always(func() *http.Response { return respond(307, "", "Location", "https://evil.example/") }),
			ctlog.ErrUnavailable, 1, 0},
		{"500", always(func() *http.Response { return respond(500, "") }), ctlog.ErrUnavailable, 2, 200 * time.Millisecond},
		{"503, then well", func(_ *http.Request, n int32) (*http.Response, error) {
			if n == 1 {
				return respond(503, ""), nil
			}
			return good(), nil
		}, nil, 2, 200 * time.Millisecond},
		{"429 that fits", func(_ *http.Request, n int32) (*http.Response, error) {
			if n == 1 {
				return respond(429, "", "Retry-After", "1"), nil
			}
			return good(), nil
		}, nil, 2, time.Second},
		{"429 that does not fit", always(func() *http.Response { return respond(429, "", "Retry-After", "60") }),
			ctlog.ErrOverloaded, 1, 0},
		{"429 with a date", always(func() *http.Response {
			return respond(429, "", "Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		}), ctlog.ErrOverloaded, 1, 0},
		{"429 with an absurd number", always(func() *http.Response {
			return respond(429, "", "Retry-After", "99999999999999999999")
		}), ctlog.ErrOverloaded, 2, 200 * time.Millisecond},
		{"reset, then well", func(_ *http.Request, n int32) (*http.Response, error) {
			if n == 1 {
				return nil, errors.New("connection reset")
			}
			return good(), nil
		}, nil, 2, 200 * time.Millisecond},
		{"hanging", func(r *http.Request, _ int32) (*http.Response, error) { return hang(r) },
			ctlog.ErrUnavailable, 2, 2500 * time.Millisecond},
		{"slow drip", func(r *http.Request, _ int32) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: drip{r.Context()}}, nil
		}, ctlog.ErrUnavailable, 2, 2500 * time.Millisecond},
		{"oversized body", always(func() *http.Response {
			return respond(200, answer(t, l.sign(t, s, time.Now(), nil))+strings.Repeat(" ", 64<<10))
		}), ctlog.ErrBadSCT, 1, 0},
		{"oversized error", always(func() *http.Response { return respond(500, strings.Repeat("x", 1<<20)) }),
			ctlog.ErrUnavailable, 2, 200 * time.Millisecond},
		{"not JSON", always(func() *http.Response { return respond(200, "<html>") }), ctlog.ErrBadSCT, 1, 0},
		{"two objects", always(func() *http.Response {
			return respond(200, answer(t, l.sign(t, s, time.Now(), nil))+"{}")
		}), ctlog.ErrBadSCT, 1, 0},
		{"version 2", always(func() *http.Response {
			return respond(200, strings.Replace(answer(t, l.sign(t, s, time.Now(), nil)), `"sct_version":0`, `"sct_version":1`, 1))
		}), ctlog.ErrBadSCT, 1, 0},
		{"another log", signed(other, s, 0), ctlog.ErrBadSCT, 1, 0},
		{"a foreign leaf", signed(l, foreign, 0), ctlog.ErrBadSCT, 1, 0},
		{"the future", signed(l, s, 2*time.Minute), ctlog.ErrBadSCT, 1, 0},
		{"the past", signed(l, s, -time.Hour), ctlog.ErrBadSCT, 1, 0},
		{"an old SCT of the same submission", signed(l, s, -9*time.Minute), nil, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts int32
				r := newRemote(t, "https://log.example", l)
				r.SetTransport(network(func(req *http.Request) (*http.Response, error) {
					attempts++
					return c.fault(req, attempts)
				}))
				start := time.Now()
				_, err := r.Submit(t.Context(), s)
				took := time.Since(start)
				if !errors.Is(err, c.want) {
					t.Errorf("got error %v, want %v", err, c.want)
				}
				if attempts != c.attempts {
					t.Errorf("got %d attempts, want %d (error %v)", attempts, c.attempts, err)
				}
				if took > c.within {
					t.Errorf("took %s, want at most %s", took, c.within)
				}
			})
		})
	}
}

func TestRemoteStopsWithItsCaller(t *testing.T) {
	l, s := newFakeLog(t), testca.New(t).Precertificate(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t, "https://log.example", l)
		r.SetTransport(network(hang))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := r.Submit(ctx, s)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 300*time.Millisecond {
			t.Fatalf("got %v after %s, want the deadline after 300ms", err, took)
		}
	})
}

// One client's failures must not slow another's calls: the client of
// certificate-transparency-go shares a back-off that only grows.
func TestRemoteHasNoSharedBackOff(t *testing.T) {
	l, s := newFakeLog(t), testca.New(t).Precertificate(t)
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t, "https://log.example", l)
		calls := 0
		r.SetTransport(network(func(*http.Request) (*http.Response, error) {
			if calls++; calls%2 == 1 {
				return respond(503, ""), nil
			}
			return respond(200, answer(t, l.sign(t, s, time.Now(), nil))), nil
		}))
		for i := range 20 {
			start := time.Now()
			if _, err := r.Submit(t.Context(), s); err != nil {
				t.Fatalf("submission %d: %v", i, err)
			}
			if took := time.Since(start); took > 200*time.Millisecond {
				t.Fatalf("submission %d took %s, want at most 200ms", i, took)
			}
		}
	})
}

// Faults of a real network: a port that nobody listens on, and a connection that
// is cut in the middle of the answer.
func TestRemoteNetworkFaults(t *testing.T) {
	l, s := newFakeLog(t), testca.New(t).Precertificate(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := newRemote(t, "http://"+address, l).Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) ||
		!strings.Contains(fmt.Sprint(err), "refused") {
		t.Errorf("refused: got %v, want ErrUnavailable with its cause", err)
	}
	var hits atomic.Int32
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "{")
		panic(http.ErrAbortHandler)
	}))
	defer cut.Close()
	if _, err := newRemote(t, cut.URL, l).Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) || hits.Load() != 2 {
		t.Errorf("cut: got %v after %d attempts, want ErrUnavailable after 2", err, hits.Load())
	}
}
