package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

func TestRequestIDIsTakenOverOnlyIfSane(t *testing.T) {
	s := start(t, options{})
	for given, taken := range map[string]bool{
		"":                             false,
		"a1-B2_c.3":                    true,
		strings.Repeat("x", 64):        true,
		strings.Repeat("x", 65):        false,
		"two words":                    false,
		`"},"level":"ERROR"`:           false,
		"caf\u00e9":                    false,
		"00000000-0000-0000-0000-0001": true,
	} {
		req, err := http.NewRequest(http.MethodGet, "https://"+s.address+"/nothing", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-Id", given)
		resp, body := s.do(t, s.client(t, false), req)
		got := resp.Header.Get("X-Request-Id")
		if (got == given) != taken || got == "" {
			t.Errorf("X-Request-Id %q: got %q, want it taken over: %v", given, got, taken)
		}
		if !strings.Contains(string(body), `"requestId":"`+got+`"`) || !strings.Contains(s.log.String(), `"id":"`+got+`"`) {
			t.Errorf("X-Request-Id %q: %q is not in the body %s and in the log", given, got, body)
		}
	}
}

func TestSourceBelievesTrustedProxiesOnly(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, tc := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"direct", "192.0.2.1:1234", nil, "192.0.2.1"},
		{"direct and lying", "192.0.2.1:1234", []string{"198.51.100.7"}, "192.0.2.1"},
		{"through a proxy", "10.0.0.1:1234", []string{"198.51.100.7"}, "198.51.100.7"},
		{"lying through a proxy", "10.0.0.1:1234", []string{"1.1.1.1, 198.51.100.7"}, "198.51.100.7"},
		{"lying in a field of its own", "10.0.0.1:1234", []string{"1.1.1.1", "198.51.100.7"}, "198.51.100.7"},
		{"claiming to be a proxy", "10.0.0.1:1234", []string{"1.1.1.1, 10.0.0.9, 198.51.100.7"}, "198.51.100.7"},
		{"through two proxies", "10.0.0.1:1234", []string{"198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"from a proxy", "10.0.0.1:1234", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"proxy says nothing", "10.0.0.1:1234", nil, "10.0.0.1"},
		{"proxy says nonsense", "10.0.0.1:1234", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"nonsense further left", "10.0.0.1:1234", []string{"junk, 198.51.100.7"}, "198.51.100.7"},
		{"with ports", "10.0.0.1:1234", []string{"198.51.100.7:99"}, "198.51.100.7"},
		{"IPv6", "[2001:db8::1]:1234", []string{"[2a00::7]:99"}, "2a00::7"},
		{"mapped proxy", "[::ffff:10.0.0.1]:1234", []string{"198.51.100.7"}, "198.51.100.7"},
		{"mapped client", "10.0.0.1:1234", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"zone", "[fe80::1%eth0]:1234", nil, "fe80::1"},
		{"no address", "@", []string{"198.51.100.7"}, "invalid IP"},
		{"endless", "10.0.0.1:1234", []string{strings.Repeat("10.0.0.2,", 1000) + "10.0.0.2"}, "10.0.0.2"},
	} {
		s := &Server{cfg: Config{TrustedProxies: proxies}}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = tc.peer
		r.Header["X-Forwarded-For"] = tc.forwarded
		if got := s.source(r).String(); got != tc.want {
			t.Errorf("%s: peer %s forwarding for %.80q: got %s, want %s", tc.name, tc.peer, tc.forwarded, got, tc.want)
		}
	}
}

func TestRequestReachesIssueComplete(t *testing.T) {
	got := make(chan ca.Request, 1)
	s := start(t, options{config: func(c *Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		snapshot := *c.Snapshot()
		issue := snapshot.Issue
		snapshot.Issue = func(ctx context.Context, r ca.Request) (ca.Certificate, error) {
			got <- r
			return issue(ctx, r)
		}
		c.Snapshot = func() *Snapshot { return &snapshot }
	}})
	check := func(api string) {
		t.Helper()
		r := <-got
		if r.API != api || r.ID != "id-1" || r.Source != netip.MustParseAddr("192.0.2.9") || !r.Time.Equal(s.clock.now()) ||
			r.ConfigDigest == [32]byte{} || r.Key.IsZero() || r.Identity.Subject != "subject of alice" {
			t.Errorf("request to Issue through %s: got %+v", api, r)
		}
	}
	for path, api := range map[string]string{"/api/v1/signingCert": "rest-v1", "/api/v2/signingCert": "rest-v2"} {
		body := s.body(t)
		if api == "rest-v1" {
			v := s.placeholders(t)
			body = fill(t, `{"publicKey":{"content":"$KEY_DER_B64"},"signedEmailAddress":"$PROOF"}`, v, true)
		}
		req, err := http.NewRequest(http.MethodPost, "https://"+s.address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer alice"}, "X-Request-Id": {"id-1"}, "X-Forwarded-For": {"192.0.2.9"}}
		if resp, body := s.do(t, s.client(t, true), req); resp.StatusCode >= 300 {
			t.Fatalf("%s: got %d %s", path, resp.StatusCode, body)
		}
		check(api)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer alice", "x-request-id", "id-1", "x-forwarded-for", "192.0.2.9")
	if _, err := fulciov2.NewCAClient(s.dial(t)).CreateSigningCertificate(ctx, s.request(t)); err != nil {
		t.Fatal(err)
	}
	check("grpc")
}

func TestPanicsAreRecovered(t *testing.T) {
	s := start(t, options{config: func(c *Config) {
		c.Mounts = []Mount{
			{Prefix: "/before", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(secret) })},
			{Prefix: "/within", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte("half"))
				w.(http.Flusher).Flush()
				panic(secret)
			})},
			{Prefix: "/abort", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })},
		}
	}})
	for _, bearer := range []string{"panic-in-verify", "panic-in-issue"} {
		for _, path := range []string{"/api/v1/signingCert", "/api/v2/signingCert"} {
			if got := s.refusedREST(t, path, bearer); got.http != 500 || got.reason != "internal" || strings.Contains(got.raw, "svc-mayfly") {
				t.Errorf("%s with %s: got %+v, want 500 and nothing of the panic", path, bearer, got)
			}
		}
		if got := s.refusedGRPC(t, bearer); got.code != int(codes.Internal) || got.reason != "internal" || strings.Contains(got.raw, "svc-mayfly") {
			t.Errorf("gRPC with %s: got %+v, want Internal and nothing of the panic", bearer, got)
		}
	}
	if resp, body := s.get(t, "/before"); resp.StatusCode != 500 || strings.Contains(string(body), "svc-mayfly") {
		t.Errorf("panic in a mount: got %d %s, want 500", resp.StatusCode, body)
	}
	for _, path := range []string{"/within", "/abort"} {
		resp, err := s.client(t, true).Get("https://" + s.address + path)
		if err == nil {
			_, err = resp.Body.Read(make([]byte, 200))
			for err == nil {
				_, err = resp.Body.Read(make([]byte, 200))
			}
			_ = resp.Body.Close()
		}
		if err == nil || err.Error() == "EOF" {
			t.Errorf("%s: got a whole answer (%v), want it broken off", path, err)
		}
	}
	if got := testutil.ToFloat64(s.metrics.panics); got != 8 {
		t.Errorf("panics counted: got %v, want 8", got)
	}
	// The slots of the requests that panicked are free again.
	if got := len(s.inFlight); got != 0 {
		t.Errorf("issuances in flight afterwards: got %d, want 0", got)
	}
}

func TestDeadlineEndsRequests(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: func(c *Config) { c.Deadline = time.Second }})
	if got := s.refusedREST(t, "/api/v2/signingCert", "block"); got.http != 503 || got.reason != "deadline_exceeded" || got.retryAfter == "" {
		t.Errorf("REST: got %+v, want 503 and deadline_exceeded", got)
	}
	if got := s.refusedGRPC(t, "block"); got.code != int(codes.Unavailable) || got.reason != "deadline_exceeded" || got.retry == "" {
		t.Errorf("gRPC: got %+v, want Unavailable and deadline_exceeded", got)
	}
}

// When a gRPC client leaves, the library lets the HTTP handler go before the
// method ends. The call must not be logged, or counted as over, before that.
func TestCallLastsAsLongAsItsMethod(t *testing.T) {
	s := start(t, options{config: func(c *Config) { c.Deadline = time.Minute }})
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer linger", "x-request-id", "left"))
	done := make(chan error, 1)
	conn, request := s.dial(t), s.request(t)
	go func() {
		_, err := fulciov2.NewCAClient(conn).CreateSigningCertificate(ctx, request)
		done <- err
	}()
	<-s.entered
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("call given up: got %v, want Canceled", err)
	}
	<-s.left // the server has noticed
	for range 5 {
		s.get(t, "/healthz") // and has had time to do whatever it does then
	}
	if strings.Contains(s.log.String(), `"id":"left"`) {
		t.Errorf("log: the call's line is there before its method has ended")
	}
	close(s.release)
	if err := s.wait(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if !strings.Contains(s.log.String(), `"id":"left"`) {
		t.Errorf("log: the call has no line after Serve has returned")
	}
}

func TestEachRequestHasOneLogLine(t *testing.T) {
	s := start(t, options{})
	s.refusedREST(t, "/api/v2/signingCert", "verify:policy")
	s.post(t, "/api/v2/signingCert", "alice", s.body(t))
	s.refusedGRPCNamed(t, "issue:log_unavailable", "grpc-1")
	s.get(t, "/healthz")
	s.get(t, "/nothing")
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]map[string]any)
	for line := range strings.Lines(s.log.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if m["msg"] != "request" {
			continue
		}
		id := fmt.Sprint(m["id"])
		if lines[id] != nil {
			t.Errorf("request %s: two lines", id)
		}
		lines[id] = m
	}
	if len(lines) != 5 {
		t.Errorf("lines about requests: got %d, want 5:\n%s", len(lines), s.log.String())
	}
	got := lines["grpc-1"]
	for key, want := range map[string]any{"level": "ERROR", "reason": "log_unavailable", "outcome": "grpc-14",
		"route": fulciov2.CA_CreateSigningCertificate_FullMethodName, "source": "127.0.0.1"} {
		if got[key] != want {
			t.Errorf("line of a log outage: %s is %v, want %v", key, got[key], want)
		}
	}
	if err, _ := got["err"].(string); !strings.Contains(err, secret) {
		t.Errorf("line of a log outage: err is %v, want the cause", got["err"])
	}
}

func TestMetricsTellRoutesStatusesAndReasons(t *testing.T) {
	s := start(t, options{})
	s.post(t, "/api/v2/signingCert", "alice", s.body(t))
	s.post(t, "/api/v2/signingCert", "verify:expired", s.body(t))
	s.get(t, "/nothing")
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer alice")
	large := s.request(t)
	large.GetPublicKeyRequest().PublicKey.Content = strings.Repeat("A", maxBody)
	if _, err := fulciov2.NewCAClient(s.dial(t)).CreateSigningCertificate(ctx, large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("message over the limit: got %v, want ResourceExhausted", err)
	}
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		route, outcome string
		want           float64
	}{
		{"/api/v2/signingCert", "200", 1},
		{"/api/v2/signingCert", "400", 1},
		{"other", "404", 1},
		{fulciov2.CA_CreateSigningCertificate_FullMethodName, "grpc-8", 1},
	} {
		if got := testutil.ToFloat64(s.metrics.requests.WithLabelValues(tc.route, tc.outcome)); got != tc.want {
			t.Errorf("requests to %s with %s: got %v, want %v", tc.route, tc.outcome, got, tc.want)
		}
	}
	for _, reason := range []ca.Reason{ca.ReasonExpired, ca.ReasonNotFound, ca.ReasonRequestTooLarge} {
		if got := testutil.ToFloat64(s.metrics.refusals.WithLabelValues(string(reason))); got != 1 {
			t.Errorf("refusals with %s: got %v, want 1", reason, got)
		}
	}
	if problems, err := testutil.GatherAndLint(s.registry); err != nil || len(problems) != 0 {
		t.Errorf("metrics: got %v and error %v, want no problems", problems, err)
	}
}

func TestRangesAreIgnored(t *testing.T) {
	s := start(t, options{config: func(c *Config) {
		c.Mounts = []Mount{{Prefix: "/log/local", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("a tile of some bytes"))
		})}}
	}})
	for _, path := range []string{"/trust/trusted_root.json", "/log/local/tile"} {
		_, whole := s.get(t, path)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", "bytes=0-0"+strings.Repeat(",0-0", 10))
		resp, body := s.do(t, s.client(t, false), req)
		if resp.StatusCode != http.StatusOK || string(body) != string(whole) {
			t.Errorf("GET %s of eleven ranges: got %d and %d bytes, want 200 and %d", path, resp.StatusCode, len(body), len(whole))
		}
	}
}
