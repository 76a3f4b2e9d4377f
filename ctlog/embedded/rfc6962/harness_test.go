package rfc6962_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

// world is an embedded log with a handler in front, behind TLS with client
// certificates.
type world struct {
	root, issuing *authority
	clients       *authority
	log           *embedded.Log
	handler       *rfc6962.Handler
	server        *httptest.Server
	client        *http.Client
	readTimeout   time.Duration // of the listener; none by default
}

// newWorld lists the issuing certificate with its root, unless change says
// otherwise.
func newWorld(t testing.TB, change func(*world, *rfc6962.Config)) *world {
	t.Helper()
	w := &world{root: newRoot(t, "root", elliptic.P256()), clients: newRoot(t, "clients", elliptic.P256())}
	w.issuing = w.root.below(t, "issuing", newKey(t, elliptic.P256()), nil)
	w.openLog(t)
	c := rfc6962.Config{Name: "test", Log: w.log, Issuers: issuers(t, w.issuing.above)}
	if change != nil {
		change(w, &c)
	}
	var err error
	if w.handler, err = rfc6962.New(c); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(w.clients.cert)
	w.server = httptest.NewUnstartedServer(w.handler)
	w.server.Config.ReadTimeout = w.readTimeout
	w.server.TLS = &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		Certificates: []tls.Certificate{w.clients.tlsCertificate(t, "localhost", x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour))},
	}
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.server.EnableHTTP2 = true
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.client = w.newClient(t, "replica")
	return w
}

func (w *world) openLog(t testing.TB) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if _, err := embedded.Init(t.Context(), embedded.InitConfig{Dir: dir, Origin: "log.example/test"}); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.log, err = embedded.Open(t.Context(), embedded.Config{Dir: dir, Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.log.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// newClient has a certificate of its own.
func (w *world) newClient(t testing.TB, name string) *http.Client {
	t.Helper()
	return w.clientWith(t, w.clients.tlsCertificate(t, name, x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour)))
}

func (w *world) clientWith(t testing.TB, certs ...tls.Certificate) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.clients.cert)
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: certs, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// keyPEM is the log's public key as ctlog.Remote is told it.
func (w *world) keyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: w.log.PublicKey()})
}

func issuers(t testing.TB, lists ...[]*x509.Certificate) *rfc6962.Issuers {
	t.Helper()
	is, err := rfc6962.NewIssuers(lists)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// answer is what the log said.
type answer struct {
	status int
	header http.Header
	body   string
}

// index is the extensions of an SCT, which tell one entry from another.
func (a answer) index(t testing.TB) string {
	t.Helper()
	var sct struct {
		Extensions string `json:"extensions"`
	}
	if err := json.Unmarshal([]byte(a.body), &sct); err != nil || a.status != http.StatusOK {
		t.Fatalf("no SCT: %d %s", a.status, a.body)
	}
	return sct.Extensions
}

func (w *world) do(t testing.TB, client *http.Client, method, path string, body io.Reader) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func (w *world) add(t testing.TB, route string, chain [][]byte) answer {
	t.Helper()
	return w.do(t, w.client, http.MethodPost, "/ct/v1/"+route, bytes.NewReader(encode(t, chain)))
}

func encode(t testing.TB, chain [][]byte) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"chain": chain})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// verifiedState is what a request has when the listener has verified a client.
func verifiedState(client, root *x509.Certificate) *tls.ConnectionState {
	chain := []*x509.Certificate{client, root}
	return &tls.ConnectionState{PeerCertificates: chain[:1], VerifiedChains: [][]*x509.Certificate{chain}}
}
