package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// world is everything that runs for one test.
type world struct {
	pki    pki
	issuer *issuer
	// dir holds the configuration; state is Mayfly's state directory.
	dir, state string
	config     string
	url        string // of Mayfly
	metrics    string // URL of the Prometheus endpoint
	tsaURL     string // where timestamp queries go
	logKey     string // file with the embedded log's public key
	mayfly     *daemon
	http       *http.Client
}

// setting is what differs between tests.
type setting struct {
	// limits, profiles and logs are sections of the configuration; logs is one
	// embedded log when empty.
	limits, profiles, logs string
	shutdown               time.Duration
	tsa                    bool
	// organization has the PKI, the provider and the timestamp authority, when not
	// those of this world alone.
	organization *world
}

const (
	logName   = "local"
	startTime = 30 * time.Second
)

// newOrganization is a PKI and an OpenID provider, without Mayfly.
func newOrganization(t testing.TB) *world {
	t.Helper()
	w := &world{pki: newPKI(t)}
	w.issuer = newIssuer(t, w.pki)
	return w
}

// newWorld does what docs/configuration.md tells an administrator to do: write
// the file, check it, make the log, check again, serve.
func newWorld(t testing.TB, s setting) *world {
	t.Helper()
	if s.organization == nil {
		s.organization = newOrganization(t)
	}
	w := &world{pki: s.organization.pki, issuer: s.organization.issuer, dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	w.http = w.client(t)
	port := freePort(t)
	metrics := freePort(t)
	w.url = fmt.Sprintf("https://127.0.0.1:%d", port)
	w.metrics = fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics)
	var tsa string
	if s.tsa {
		if w.tsaURL = s.organization.tsaURL; w.tsaURL == "" {
			w.startTSA(t)
		}
		tsa = fmt.Sprintf("timestamp_authorities:\n  - {url: %s, certificates: %s}\n", w.tsaURL, w.pki.file(tsaChainFile))
	}
	if s.logs == "" {
		s.logs = fmt.Sprintf("  - name: %s\n    embedded: {checkpoint_record: %s}\n", logName, filepath.Join(w.dir, "checkpoint-record"))
	}
	if s.shutdown == 0 {
		s.shutdown = 5 * time.Second
	}
	w.config = writeFile(t, filepath.Join(w.dir, "mayfly.yaml"), fmt.Sprintf(`listen:
  address: "127.0.0.1:%d"
  tls: {certificate: %s, key: %s}
public_url: %s
metrics: "127.0.0.1:%d"
state: %s
shutdown: %s
limits: {%s}
issuers:
  - name: keycloak
    url: %s
    audiences: [sigstore]
    ca_file: %s
    allow: all
    san: email
    may_issue: {email_domains: [corp.example]}
%schains:
  - name: corp-2026
    certificates: %s
    key: {file: %s, passphrase_file: %s}
logs:
%s%s`, port, w.pki.file("tls.crt"), w.pki.file("tls.key"), w.url, metrics, w.state, s.shutdown, s.limits,
		w.issuer.url, w.pki.file(rootFile), s.profiles,
		w.pki.file(chainFile), w.pki.file("corp.key"), w.pki.file("passphrase"), s.logs, tsa))
	w.prepare(t, strings.Contains(s.logs, "embedded:"))
	w.serve(t)
	return w
}

var publicKeyLine = regexp.MustCompile(`(?m)^\s*public key\s+(\S+)$`)

// prepare makes the log, and has the configuration checked before and after:
// before, its absence is the one problem.
func (w *world) prepare(t testing.TB, embedded bool) {
	t.Helper()
	mayfly, run := program(t, "E2E_MAYFLY"), command{dir: w.dir}
	if embedded {
		run.mustFail(t, []string{"mayfly log init"}, mayfly, "config", "check", w.config)
		out := run.must(t, mayfly, "log", "init", "--config", w.config)
		found := publicKeyLine.FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("mayfly log init does not name the public key's file:\n%s", out)
		}
		w.logKey = found[1]
	}
	run.must(t, mayfly, "config", "check", w.config)
}

// serve starts Mayfly and waits until it could issue.
func (w *world) serve(t testing.TB) {
	t.Helper()
	w.start(t)
	w.mayfly.await(t, "readiness", startTime, func() error {
		_, err := w.get("/readyz")
		return err
	})
}

// start starts Mayfly and waits for nothing.
func (w *world) start(t testing.TB) {
	t.Helper()
	w.mayfly = startDaemon(t, w.dir, program(t, "E2E_MAYFLY"), "serve", "--config", w.config)
}

// startTSA starts Sigstore's timestamp authority with the organization's
// certificate.
func (w *world) startTSA(t testing.TB) {
	t.Helper()
	port := freePort(t)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	d := startDaemon(t, w.dir, program(t, "E2E_TIMESTAMP_SERVER"), "serve", "--host", "127.0.0.1", "--port", fmt.Sprint(port),
		"--disable-ntp-monitoring", "--timestamp-signer", "file", "--file-signer-key-path", w.pki.file("tsa.key"),
		"--certificate-chain-path", w.pki.file(tsaChainFile))
	w.tsaURL = base + "/api/v1/timestamp"
	d.await(t, "answer", startTime, func() error {
		_, err := fetch(w.http, base+"/ping")
		return err
	})
}

// roots are the organization's root alone.
func (w *world) roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(readFile(t, w.pki.file(rootFile))) {
		t.Fatal("no certificate in the root file")
	}
	return pool
}

func (w *world) client(t testing.TB) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: w.roots(t), MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// get reads one of Mayfly's paths.
func (w *world) get(path string) ([]byte, error) { return fetch(w.http, w.url+path) }

func (w *world) mustGet(t testing.TB, path string) []byte {
	t.Helper()
	body, err := w.get(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

func fetch(client *http.Client, url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %s", url, resp.StatusCode, body)
	}
	return body, nil
}

// save fetches one of Mayfly's files as a user would with curl.
func (w *world) save(t testing.TB, path, name string) string {
	t.Helper()
	return writeFile(t, filepath.Join(w.dir, name), string(w.mustGet(t, path)))
}

// offline is the environment of a client that must find everything here: the
// organization's root for TLS, and a proxy that refuses for all other hosts.
func (w *world) offline() []string {
	return []string{
		"SSL_CERT_FILE=" + w.pki.file(rootFile), "SSL_CERT_DIR=/nonexistent", "NODE_EXTRA_CA_CERTS=" + w.pki.file(rootFile),
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1",
	}
}

// noLimits takes the limits out of the way of tests that ask a lot.
const noLimits = "per_identity: 1000000/s, per_address: 1000000/s"
