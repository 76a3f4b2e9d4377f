package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// named is a snapshot that shows its name as its only chain and its trusted root.
func named(name string) *Snapshot {
	return &Snapshot{
		Chains:      func() [][]string { return [][]string{{name}} },
		TrustedRoot: func() []byte { return []byte(`"` + name + `"`) },
	}
}

func TestAddressesLeadToTheirSnapshots(t *testing.T) {
	log := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("log")) })
	root := named("default")
	root.Hosts = map[string]*Snapshot{"team.example": named("team")}
	root.Prefixes = map[string]*Snapshot{"/team": named("team"), "/api": named("hidden"), "/log": named("hidden"), "/trust": named("hidden")}
	s, err := New(Config{Snapshot: func() *Snapshot { return root }, Mounts: []Mount{{"/log/a", log}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tc := range []struct {
		host, path string
		code       int
		want       string
	}{
		{"ca.example", "/trust/trusted_root.json", 200, "default"},
		{"team.example", "/trust/trusted_root.json", 200, "team"},
		{"TEAM.example.:8443", "/api/v2/trustBundle", 200, "team"},
		{"team.example.evil.example", "/trust/trusted_root.json", 200, "default"},
		{"[::1]:8443", "/trust/trusted_root.json", 200, "default"},
		{"", "/trust/trusted_root.json", 200, "default"},
		{"ca.example", "/team/trust/trusted_root.json", 200, "team"},
		{"ca.example", "//team//api/v2/trustBundle/", 200, "team"},
		{"ca.example", "/team/../api/v2/trustBundle", 200, "default"},
		{"ca.example", "/api/v2/trustBundle", 200, "default"},
		{"ca.example", "/log/a/x", 200, "log"},
		{"ca.example", "/team/log/a/x", 404, ""},
		{"ca.example", "/team/team/trust/trusted_root.json", 404, ""},
		{"ca.example", "/teams/trust/trusted_root.json", 404, ""},
		{"ca.example", "/team", 404, ""},
		{"team.example", "/team/trust/trusted_root.json", 404, ""}, // at a host of its own there are no prefixes
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		r.Host = tc.host
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.want) || strings.Contains(w.Body.String(), "hidden") {
			t.Errorf("%s%s: got %d %s, want %d %s", tc.host, tc.path, w.Code, w.Body, tc.code, tc.want)
		}
	}
}

func TestGRPCHostsLeadToTheirSnapshots(t *testing.T) {
	s := start(t, options{config: func(c *Config) {
		root := named("default")
		root.Hosts = map[string]*Snapshot{"team.example": named("team")}
		c.Snapshot = func() *Snapshot { return root }
	}, listen: func(l *ListenConfig) { l.Plaintext, l.CertificateFile, l.KeyFile = true, "", "" }})
	for host, want := range map[string]string{"team.example": "team", "team.example:443": "team", "ca.example": "default"} {
		conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(host))
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := fulciov2.NewCAClient(conn).GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{})
		if err != nil || bundle.GetChains()[0].GetCertificates()[0] != want+"\n" {
			t.Errorf("%s: got %v, error %v, want %s", host, bundle, err, want)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a configuration holds is closed when its last request is over, so none may
// be forgotten, and a watch that lasts for days must not keep it.
func TestEverySnapshotIsReleasedOnce(t *testing.T) {
	var taken, released atomic.Int64
	s := start(t, options{config: func(c *Config) {
		inner := c.Snapshot()
		counted := *inner
		counted.Release = func() { released.Add(1) }
		c.Snapshot = func() *Snapshot { taken.Add(1); return &counted }
	}})
	watch, err := healthpb.NewHealthClient(s.dial(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if got := released.Load(); got != 1 {
		t.Errorf("released %d times while a watch lasts, want once", got)
	}
	for _, path := range []string{"/healthz", "/nowhere", "/api/v2/trustBundle"} {
		s.get(t, path)
	}
	for _, token := range []string{"alice", "panic-in-issue", "verify:expired"} {
		s.post(t, "/api/v2/signingCert", token, s.body(t))
	}
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := released.Load(), taken.Load(); got != want || want != 7 {
		t.Errorf("released %d times, want once for each of %d requests, of which there should be 7", got, want)
	}
}

func TestReadinessShowsWhatTakesNothingOutOfService(t *testing.T) {
	s := start(t, options{config: func(c *Config) {
		c.Ready = func() map[string]bool { return map[string]bool{"log": true} }
		c.Shown = func() map[string]bool { return map[string]bool{"config": false} }
	}})
	resp, body := s.get(t, "/readyz")
	if got, want := string(body), `{"ready":true,"components":{"config":false,"log":true}}`; resp.StatusCode != 200 || strings.TrimSpace(got) != want {
		t.Errorf("got %d %s, want 200 %s", resp.StatusCode, got, want)
	}
}
