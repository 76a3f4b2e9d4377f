package ctlog_test

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
)

// shown says by what a server knew who asked.
func shown(r http.Request) string {
	var parts []string
	if token := r.Header.Get("Authorization"); token != "" {
		parts = append(parts, token)
	}
	if len(r.TLS.PeerCertificates) > 0 {
		parts = append(parts, "certificate "+r.TLS.PeerCertificates[0].SerialNumber.String())
	}
	return strings.Join(parts, ", ")
}

// TestCredentialsGoToTheOriginOfTheURLAlone: whoever serves the tiles could submit in
// our name with the token, until it is renewed.
func TestCredentialsGoToTheOriginOfTheURLAlone(t *testing.T) {
	authority, log := newTLSCA(t), logtest.New(t, nil)
	asks := func() *tls.Config {
		return &tls.Config{
			Certificates: []tls.Certificate{authority.server(time.Now().Add(time.Hour), "127.0.0.1")}, ClientAuth: tls.RequestClientCert,
		}
	}
	url, seen := serveTLS(t, log, asks())
	elsewhere, seenElsewhere := serveTLS(t, log, asks()) // another port is another origin
	dir := t.TempDir()
	certFile, keyFile, tokenFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "token")
	want := "Bearer secret, certificate " + authority.client(certFile, keyFile)
	write(t, tokenFile, []byte("secret\n"))
	probe := func(monitoring string) {
		t.Helper()
		r, err := ctlog.NewRemote(ctlog.RemoteConfig{
			Name: "a", URL: url, MonitoringURL: monitoring, PublicKey: log.PublicKey(), RootCAs: authority.pool(),
			ClientCertFile: certFile, ClientKeyFile: keyFile, TokenFile: tokenFile,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.CloseIdleConnections()
		// There is no checkpoint, so that the roots are asked for as well.
		if err := r.Probe(t.Context()); err != nil {
			t.Errorf("Probe with the tiles at %s: %v", monitoring, err)
		}
	}
	probe(elsewhere + "/tiles")
	if got := seenElsewhere(); len(got) != 1 || shown(got[0]) != "" {
		t.Errorf("the server of the tiles saw %d requests, the first with %q; want one, with nothing", len(got), shown(got[0]))
	}
	probe(url + "/tiles")
	paths := []string{"/ct/v1/get-roots", "/tiles/checkpoint", "/ct/v1/get-roots"}
	got := seen()
	if len(got) != len(paths) {
		t.Fatalf("the log saw %d requests, want %d", len(got), len(paths))
	}
	for i, r := range got {
		if r.URL.Path != paths[i] || shown(r) != want {
			t.Errorf("request %d: the log saw %s with %q, want %s with %q", i, r.URL.Path, shown(r), paths[i], want)
		}
	}
}

// TestCredentialsFollowNoRedirect: not even with a client that its user has follow
// them.
func TestCredentialsFollowNoRedirect(t *testing.T) {
	seen := make(chan string, 2)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Authorization") }))
	t.Cleanup(other.Close)
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("the log saw %q, want the token", got)
		}
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(log.Close)
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, []byte("secret\n"))
	client, err := ctlog.NewClient(ctlog.ClientConfig{URL: log.URL, TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	fetch := func() int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, log.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if got := req.Header.Get("Authorization"); got != "" {
			t.Errorf("the token was written into the caller's request: %q", got)
		}
		return resp.StatusCode
	}
	if got := fetch(); got != http.StatusTemporaryRedirect || len(seen) != 0 {
		t.Errorf("got status %d, and %d requests elsewhere; want the redirect itself, and none", got, len(seen))
	}
	client.CheckRedirect = nil
	if got := fetch(); got != http.StatusOK {
		t.Errorf("got status %d of the client that follows, want 200", got)
	}
	if got := <-seen; got != "" {
		t.Errorf("the redirect's target saw %q, want nothing", got)
	}
}

func TestOriginIsSchemeHostAndPort(t *testing.T) {
	const of = "https://log.example/2026"
	for to, want := range map[string]bool{
		"https://log.example/tiles": true, "https://LOG.example:443/": true, "HTTPS://log.example": true,
		"http://log.example:443/": false, "https://log.example:8443/2026": false, "https://log.example.evil/2026": false,
		"https://tiles.log.example/2026": false, "https://log.example./2026": false, "https://evil/log.example": false,
	} {
		var got bool
		client, err := ctlog.NewClient(ctlog.ClientConfig{URL: of, TokenFile: filepath.Join(t.TempDir(), "none")})
		if err != nil {
			t.Fatal(err)
		}
		// A request that needs the token ends at its file, the others at no host.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Do(req)
		got = err != nil && strings.Contains(err.Error(), "bearer token")
		if got != want {
			t.Errorf("a client for %s would send the token to %s: %v, want %v (%v)", of, to, got, want, err)
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	for name, c := range map[string]ctlog.ClientConfig{
		"no URL":                {},
		"plaintext to a host":   {URL: "http://log.example"},
		"a password in the URL": {URL: "https://a:b@log.example"},
		"half a pair":           {URL: "https://log.example", ClientCertFile: "tls.crt"},
		"the other half":        {URL: "https://log.example", ClientKeyFile: "tls.key"},
	} {
		if client, err := ctlog.NewClient(c); err == nil || client != nil {
			t.Errorf("%s: NewClient(%+v) = %v, %v; want nil and an error", name, c, client, err)
		}
	}
}

// TestClientAsksForCompressedAnswersIfTold: some logs keep their tiles compressed and
// serve them so to everybody.
func TestClientAsksForCompressedAnswersIfTold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			_, _ = io.WriteString(w, "as it is")
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, "unpacked")
		_ = z.Close()
	}))
	t.Cleanup(server.Close)
	for told, want := range map[bool]string{true: "unpacked", false: "as it is"} {
		client, err := ctlog.NewClient(ctlog.ClientConfig{URL: server.URL, Compression: told})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.CloseIdleConnections)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if closeErr := resp.Body.Close(); err != nil || closeErr != nil || string(got) != want {
			t.Errorf("told %v: got %q, %v, %v; want %q", told, got, err, closeErr, want)
		}
	}
}
