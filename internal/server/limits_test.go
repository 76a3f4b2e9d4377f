package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

func TestLimiterRefillsAndSaysWhen(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	l := newKeyedLimiter[string](Rate{Count: 60, Per: time.Minute, Burst: 2}, 10)
	for _, step := range []struct {
		after time.Duration
		key   string
		ok    bool
		wait  time.Duration
	}{
		{0, "a", true, 0},
		{0, "a", true, 0},
		{0, "a", false, time.Second},
		{0, "b", true, 0},
		{400 * time.Millisecond, "a", false, 600 * time.Millisecond},
		{500 * time.Millisecond, "a", false, 100 * time.Millisecond},
		{100 * time.Millisecond, "a", true, 0},
		{0, "a", false, time.Second},
		{time.Hour, "a", true, 0}, // the bucket holds no more than its burst
		{0, "a", true, 0},
		{0, "a", false, time.Second},
	} {
		now = now.Add(step.after)
		wait, ok := l.take(step.key, now)
		if ok != step.ok || (wait-step.wait).Abs() > time.Millisecond {
			t.Errorf("take(%s) after %s: got %v and wait %s, want %v and %s", step.key, step.after, ok, wait, step.ok, step.wait)
		}
	}
}

func TestAddressesCountByWhatOneClientCommands(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
	} {
		a, b := addressKey(netip.MustParseAddr(tc.a)), addressKey(netip.MustParseAddr(tc.b))
		if (a == b) != tc.same {
			t.Errorf("%s and %s: got keys %s and %s, want the same: %v", tc.a, tc.b, a, b, tc.same)
		}
	}
	if got := addressKey(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("no address: got %s, want the zero key", got)
	}
}

// A flood of junk from ever new addresses, over ever new paths and methods,
// leaves nothing behind: no bucket beyond the bound and no metric series.
func TestFloodOfJunkIsBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	refused := map[ca.Reason]int{}
	s, err := New(Config{
		Registerer:   registry,
		CountRefusal: func(r ca.Reason) { refused[r]++ },
		Snapshot:     func() *Snapshot { return &Snapshot{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	const keys, requests = 500, 3000
	s.addresses = newKeyedLimiter[netip.Prefix](s.cfg.Limits.PerAddress, keys)
	defer s.Close()
	flood := func(from, to int) {
		for i := range to - from {
			n := from + i
			r := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert", strings.NewReader("{}"))
			r.RemoteAddr = fmt.Sprintf("[2001:db8:%x:%x::%x]:1", n>>8, n&0xff, n)
			r.Header.Set("X-Request-Id", fmt.Sprint("id-", n))
			s.Handler().ServeHTTP(httptest.NewRecorder(), r)
			if n%16 == 0 {
				r := httptest.NewRequest(fmt.Sprint("M", n), fmt.Sprint("/path/", n), nil)
				s.Handler().ServeHTTP(httptest.NewRecorder(), r)
			}
		}
	}
	series := func() int {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			n += len(f.Metric)
		}
		return n
	}
	flood(0, 64)
	before := series()
	flood(64, requests)
	if got := s.addresses.buckets.Len(); got != keys {
		t.Errorf("buckets after %d addresses: got %d, want the bound %d", requests, got, keys)
	}
	if got := series(); got != before {
		t.Errorf("metric series: got %d after the flood, want %d as after a few requests", got, before)
	}
	if got := refused[ca.ReasonTokenMissing]; got != requests {
		t.Errorf("refusals counted: got %d, want %d", got, requests)
	}
	if got := s.identities.buckets.Len(); got != 0 {
		t.Errorf("identities kept: got %d, want none: no token was verified", got)
	}
}

// later sends a request from a goroutine and returns a channel with its status.
func (s *stack) later(t *testing.T, token string) <-chan int {
	t.Helper()
	client, body, code := s.client(t, false), s.body(t), make(chan int, 1)
	go func() {
		req, err := http.NewRequest(http.MethodPost, "https://"+s.address+"/api/v2/signingCert", strings.NewReader(body))
		if err != nil {
			code <- 0
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		if err != nil {
			code <- 0
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		code <- resp.StatusCode
	}()
	return code
}

// Beyond the limit in flight a request is turned away before its proof and policy
// are looked at, without being charged to its identity, and without a line in the
// log for each.
func TestOverloadIsShedBeforeTheProof(t *testing.T) {
	s := start(t, options{config: func(c *Config) { c.Limits.InFlight = 1 }})
	first := s.later(t, "hold")
	<-s.entered
	// Anything that looked at this key and token would refuse them as something else.
	weak := `{"publicKeyRequest":{"publicKey":{"content":"no key"},"proofOfPossession":""}}`
	if resp, got := s.post(t, "/api/v2/signingCert", "alice", weak); resp.StatusCode != 503 || !strings.Contains(string(got), `"overloaded"`) {
		t.Errorf("bad key beyond the limit: got %d %s, want 503 overloaded", resp.StatusCode, got)
	}
	for door, got := range map[string]reply{"rest": s.refusedREST(t, "/api/v2/signingCert", "issue:policy"), "grpc": s.refusedGRPC(t, "issue:policy")} {
		if got.reason != "overloaded" || got.retry == "" || got.code != 14 {
			t.Errorf("second issuance over %s: got %+v, want overloaded", door, got)
		}
	}
	if got := s.identities.buckets.Len(); got != 1 {
		t.Errorf("identities charged: got %d, want the one that got in", got)
	}
	s.anonymous.limiter.SetBurst(0)
	before := strings.Count(s.log.String(), "overloaded")
	s.refusedREST(t, "/api/v2/signingCert", "bob")
	if got := strings.Count(s.log.String(), "overloaded"); got != before || before == 0 {
		t.Errorf("lines about overload: got %d, want the %d from before the log was full", got, before)
	}
	if got := s.taken(); len(got) != 0 {
		t.Errorf("counted as of unknown identity: got %v, want none", got)
	}
	if resp, _ := s.get(t, "/api/v2/trustBundle"); resp.StatusCode != http.StatusOK {
		t.Errorf("trust bundle under load: got %d, want 200", resp.StatusCode)
	}
	close(s.release)
	if got := <-first; got != http.StatusOK {
		t.Errorf("first issuance: got %d, want 200", got)
	}
	if resp, got := s.post(t, "/api/v2/signingCert", "alice", s.body(t)); resp.StatusCode != http.StatusOK {
		t.Errorf("issuance afterwards: got %d %s, want 200", resp.StatusCode, got)
	}
}

// Junk cannot take the places of honest callers, however slow its bodies come and
// however long its tokens wait for keys.
func TestJunkTakesNoPlaces(t *testing.T) {
	waiting, answered := make(chan struct{}), make(chan struct{})
	s := start(t, options{config: func(c *Config) {
		c.Limits.InFlight = 1
		snapshot := *c.Snapshot()
		verify := snapshot.Verify
		snapshot.Verify = func(ctx context.Context, token string) (ca.Identity, error) {
			if token == "of-unknown-key" {
				waiting <- struct{}{}
				<-answered
				return ca.Identity{}, fakeRefusal(string(ca.ReasonKeyUnknown))
			}
			return verify(ctx, token)
		}
		c.Snapshot = func() *Snapshot { return &snapshot }
	}})
	slow, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: s.roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); err != nil { // 100 Continue: the body is being read
		t.Fatal(err)
	}
	junk := s.later(t, "of-unknown-key")
	<-waiting
	if resp, got := s.post(t, "/api/v2/signingCert", "alice", s.body(t)); resp.StatusCode != http.StatusOK {
		t.Errorf("issuance beside a slow body and a token that waits: got %d %s, want 200", resp.StatusCode, got)
	}
	close(answered)
	if got := <-junk; got != http.StatusBadRequest {
		t.Errorf("junk: got %d, want 400", got)
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	ok := func() *Snapshot { return &Snapshot{} }
	nop := http.NotFoundHandler()
	for name, cfg := range map[string]Config{
		"no snapshot":       {},
		"negative deadline": {Snapshot: ok, Deadline: -1},
		"negative rate":     {Snapshot: ok, Limits: Limits{PerIdentity: Rate{Count: -1}}},
		"negative burst":    {Snapshot: ok, Limits: Limits{PerAddress: Rate{Burst: -1}}},
		"negative period":   {Snapshot: ok, Limits: Limits{PerAddress: Rate{Per: -1}}},
		"in flight":         {Snapshot: ok, Limits: Limits{InFlight: -1}},
		"token too large":   {Snapshot: ok, Limits: Limits{TokenBytes: maxTokenBytes + 1}},
		"token negative":    {Snapshot: ok, Limits: Limits{TokenBytes: -1}},
		"relative mount":    {Snapshot: ok, Mounts: []Mount{{"log", nop}}},
		"mount with slash":  {Snapshot: ok, Mounts: []Mount{{"/log/", nop}}},
		"mount of all":      {Snapshot: ok, Mounts: []Mount{{"/", nop}}},
		"empty mount":       {Snapshot: ok, Mounts: []Mount{{"", nop}}},
		"no handler":        {Snapshot: ok, Mounts: []Mount{{"/log", nil}}},
		"mount over API":    {Snapshot: ok, Mounts: []Mount{{"/api", nop}}},
		"mount over health": {Snapshot: ok, Mounts: []Mount{{"/healthz", nop}}},
		"mounts overlap":    {Snapshot: ok, Mounts: []Mount{{"/log/a", nop}, {"/log", nop}}},
		"mounts twice":      {Snapshot: ok, Mounts: []Mount{{"/log", nop}, {"/log", nop}}},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("%s: New returned no error", name)
		}
	}
	registry := prometheus.NewRegistry()
	s, err := New(Config{Snapshot: ok, Registerer: registry, Mounts: []Mount{{"/log/a", nop}, {"/log/ab", nop}, {"/apiary", nop}}})
	if err != nil {
		t.Fatalf("mounts beside each other and the routes: %v", err)
	}
	defer s.Close()
	if _, err := New(Config{Snapshot: ok, Registerer: registry}); err == nil {
		t.Error("metrics registered twice: New returned no error")
	}
}

func TestMountsGetCleanStrippedPaths(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.URL.Path) })
	s, err := New(Config{Snapshot: func() *Snapshot { return &Snapshot{} }, Mounts: []Mount{{"/log/2026", handler}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tc := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/log/2026/checkpoint", 200, "/checkpoint"},
		{"GET", "//log/2026//tile/0/000", 200, "/tile/0/000"},
		{"GET", "/log/2026/tile/../../../api/v2/trustBundle", 200, `{"chains":[]}`},
		{"GET", "/log/2026/../2026/checkpoint", 200, "/checkpoint"},
		{"GET", "/log/2026%2fcheckpoint", 200, "/checkpoint"},
		{"HEAD", "/log/2026/checkpoint", 200, "/checkpoint"}, // a recorder keeps the body
		{"POST", "/log/2026/add-chain", 501, ""},
		{"GET", "/log/2026x/checkpoint", 404, ""},
		{"GET", "/log", 404, ""},
	} {
		snapshot := &Snapshot{Chains: func() [][]string { return nil }}
		s.cfg.Snapshot = func() *Snapshot { return snapshot }
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
		if w.Code != tc.code || tc.want != "" && w.Body.String() != tc.want {
			t.Errorf("%s %s: got %d %s, want %d %s", tc.method, tc.path, w.Code, w.Body, tc.code, tc.want)
		}
	}
}

// A handler that ignores its deadline delays the end of Serve by that deadline
// and no more.
func TestWaitForCallsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Snapshot: func() *Snapshot { return &Snapshot{} }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.calls.Add(1)
		defer s.calls.Done()
		begun := time.Now()
		if err := s.waitForCalls(); err == nil {
			t.Error("waiting for a call that never ends: got nil, want an error")
		}
		if took := time.Since(begun); took != s.cfg.Deadline {
			t.Errorf("waiting for a call that never ends: took %s, want %s", took, s.cfg.Deadline)
		}
	})
}
