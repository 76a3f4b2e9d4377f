package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

// instant is a snapshot behind which everything has happened already: every
// issuance gets the same certificate, so that what is measured is the server.
// Tokens that do not verify do not here either.
func instant(tb testing.TB) (*Snapshot, *stack) {
	tb.Helper()
	clock := newTick()
	s := &stack{pki: newPKI(tb, clock.now()), key: newKey(tb), clock: clock}
	snapshot := fakeCA(tb, s.pki, clock.now, true, nil)
	id, _ := identityOf("alice", clock.now())
	key, err := ca.ProveSignature(s.spki(tb), s.sign(tb, id.Email), id)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := snapshot.Issue(tb.Context(), ca.Request{Identity: id, Key: key, Time: clock.now(), ID: "1"})
	if err != nil {
		tb.Fatal(err)
	}
	verify := snapshot.Verify
	snapshot.Verify = func(ctx context.Context, token string) (ca.Identity, error) {
		if len(token) == len(longToken) {
			return id, nil
		}
		return verify(ctx, token)
	}
	snapshot.Issue = func(context.Context, ca.Request) (ca.Certificate, error) { return cert, nil }
	return snapshot, s
}

// longToken is as long as the token of a person with a few groups.
var longToken = strings.Repeat("t", 1100)

// unlimited is a configuration in which nobody is refused for asking often, with
// log and metrics as in production.
func unlimited(snapshot *Snapshot) Config {
	often := Rate{Count: 1e9, Per: time.Second}
	return Config{
		Snapshot:   func() *Snapshot { return snapshot },
		Limits:     Limits{PerIdentity: often, PerAddress: often, InFlight: 1024},
		Logger:     slog.New(slog.NewJSONHandler(io.Discard, nil)),
		Registerer: prometheus.NewRegistry(),
	}
}

// bodies are the same request in both versions of the API.
func (s *stack) bodies(tb testing.TB) map[string]string {
	tb.Helper()
	v1, err := json.Marshal(map[string]any{
		"publicKey":          map[string]any{"content": base64.StdEncoding.EncodeToString(s.spki(tb)), "algorithm": "ecdsa"},
		"signedEmailAddress": base64.StdEncoding.EncodeToString(s.sign(tb, "alice@corp.example")),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return map[string]string{"/api/v1/signingCert": string(v1), "/api/v2/signingCert": s.body(tb)}
}

// bareWriter is a response writer that costs nothing.
type bareWriter struct {
	header http.Header
	code   int
}

func (w *bareWriter) Header() http.Header              { return w.header }
func (w *bareWriter) WriteHeader(code int)             { w.code = code }
func (w *bareWriter) Write(b []byte) (int, error)      { return len(b), nil }
func (w *bareWriter) SetReadDeadline(time.Time) error  { return nil }
func (w *bareWriter) SetWriteDeadline(time.Time) error { return nil }

// asker returns a function that sends the same request again and again, in
// process, and insists on the status.
func asker(b *testing.B, h http.Handler, path, token, body string, code int) func() {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.RemoteAddr, req.Host = "192.0.2.1:1234", "ca.example"
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "User-Agent": {"cosign"}}
	req.ContentLength = int64(len(body))
	content, w := strings.NewReader(body), &bareWriter{header: make(http.Header)}
	req.Body = io.NopCloser(content)
	return func() {
		content.Reset(body)
		clear(w.header)
		h.ServeHTTP(w, req)
		if w.code != code {
			b.Fatalf("%s: got status %d, want %d", path, w.code, code)
		}
	}
}

// BenchmarkRequest is the server's part of an issuance in process: all of it but
// token, proof and certificate. The proof is checked, and its share taken off:
//
//	own-us, own-allocs   what is left
func BenchmarkRequest(b *testing.B) {
	snapshot, s := instant(b)
	server, err := New(unlimited(snapshot))
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	id, _ := identityOf("alice", s.clock.now())
	pub, proof := []byte(s.request(b).GetPublicKeyRequest().GetPublicKey().GetContent()), s.sign(b, id.Email)
	prove := func() {
		if _, err := ca.ProveSignature(pub, proof, id); err != nil {
			b.Fatal(err)
		}
	}
	for path, body := range s.bodies(b) {
		version, _, _ := strings.Cut(strings.TrimPrefix(path, "/api/"), "/")
		b.Run(version, func(b *testing.B) {
			code := map[string]int{"v1": http.StatusCreated, "v2": http.StatusOK}[version]
			ask := asker(b, server.Handler(), path, longToken, body, code)
			own := testing.AllocsPerRun(20, ask) - testing.AllocsPerRun(20, prove)
			b.ReportAllocs()
			b.ResetTimer()
			// In turns, so that both see the same machine.
			var all, proved time.Duration
			for range b.N {
				start := processCPU(b)
				for range requestRounds {
					ask()
				}
				middle := processCPU(b)
				for range requestRounds {
					prove()
				}
				all, proved = all+middle-start, proved+processCPU(b)-middle
			}
			b.ReportMetric(float64((all-proved).Nanoseconds())/1e3/float64(b.N*requestRounds), "own-us")
			b.ReportMetric(own, "own-allocs")
		})
	}
}

// requestRounds are enough for the clock of CPU time.
const requestRounds = 200

// BenchmarkRefusal is what a request costs that gets nowhere, in process, with a
// body of ordinary length unless the body is what is wrong. What the token check
// costs to refuse it is not in here.
func BenchmarkRefusal(b *testing.B) {
	snapshot, s := instant(b)
	body := s.body(b)
	limited := unlimited(snapshot)
	limited.Limits.PerAddress = Rate{Count: 1, Per: time.Hour}
	for _, tc := range []struct {
		name, path, token, body string
		code                    int
		config                  Config
	}{
		{"token", "/api/v2/signingCert", "verify:token_malformed", body, 400, unlimited(snapshot)},
		{"token v1", "/api/v1/signingCert", "verify:token_malformed", s.bodies(b)["/api/v1/signingCert"], 400, unlimited(snapshot)},
		{"no token", "/api/v2/signingCert", "", body, 400, unlimited(snapshot)},
		{"address", "/api/v2/signingCert", longToken, body, 429, limited},
		{"oversized", "/api/v2/signingCert", longToken, strings.Repeat("x", 8<<20), 413, unlimited(snapshot)},
		{"malformed", "/api/v2/signingCert", longToken, body[:len(body)-1], 400, unlimited(snapshot)},
		{"path", "/api/v3/signingCert", longToken, body, 404, unlimited(snapshot)},
	} {
		b.Run(strings.ReplaceAll(tc.name, " ", "-"), func(b *testing.B) {
			server, err := New(tc.config)
			if err != nil {
				b.Fatal(err)
			}
			defer server.Close()
			if tc.name == "address" {
				asker(b, server.Handler(), tc.path, tc.token, tc.body, http.StatusOK)()
			}
			ask := asker(b, server.Handler(), tc.path, tc.token, tc.body, tc.code)
			for range anonymousBurst { // until lines are left out, as in a flood
				ask()
			}
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}

// processCPU is the CPU time that the process has used so far.
func processCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDecode reads the bodies of both versions the short way and by the
// libraries.
func BenchmarkDecode(b *testing.B) {
	_, s := instant(b)
	bodies := s.bodies(b)
	for _, tc := range []struct {
		name, path string
		decode     func([]byte) (input, error)
	}{
		{"v1", "/api/v1/signingCert", decodeV1}, {"v1-any", "/api/v1/signingCert", decodeAnyV1},
		{"v2", "/api/v2/signingCert", decodeV2}, {"v2-any", "/api/v2/signingCert", decodeAnyV2},
	} {
		b.Run(tc.name, func(b *testing.B) {
			body := []byte(bodies[tc.path])
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tc.decode(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
