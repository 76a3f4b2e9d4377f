package stack

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// logSite is an organization's log for its replicas, with certificates for both
// sides of submission in files.
type logSite struct {
	*site
	key    crypto.Signer // of the certificate authority for TLS
	ca     *x509.Certificate
	serial atomic.Int64
	read   string // URL where the log is read
	submit string // URL of the submission listener
}

func newLogSite(t testing.TB) *logSite {
	t.Helper()
	s := &logSite{site: newSite(t), key: newKey(t)}
	s.serial.Store(100)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "machines"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	s.must(err)
	s.ca, err = x509.ParseCertificate(der)
	s.must(err)
	s.write("log/machines.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write("log/chain.pem", s.site.read("chain.pem"))
	s.machine("log/server", x509.ExtKeyUsageServerAuth)
	s.machine("client", x509.ExtKeyUsageClientAuth)
	s.write("machines.pem", s.site.read("log/machines.pem"))
	s.read, s.submit = "http://"+s.freeAddress(), "https://"+s.freeAddress()
	return s
}

// machine writes NAME.crt and NAME.key.
func (s *logSite) machine(name string, usage x509.ExtKeyUsage) {
	s.t.Helper()
	key := newKey(s.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(s.serial.Add(1)), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, s.ca, key.Public(), s.key)
	s.must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	s.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func (s *logSite) freeAddress() string {
	s.t.Helper()
	ln, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	s.must(err)
	defer func() { s.must(ln.Close()) }()
	return ln.Addr().String()
}

// logConfig is a configuration of a log alone.
func (s *logSite) logConfig() string {
	return fmt.Sprintf(`
listen: {address: %q, plaintext: true}
public_url: %s
state: state
shutdown: 5s
logs:
  - name: shared
    embedded:
      submission: {address: %q, tls: {certificate: server.crt, key: server.key}, client_ca: machines.pem, issuers: [chain.pem]}
`, strings.TrimPrefix(s.read, "http://"), s.read, strings.TrimPrefix(s.submit, "https://"))
}

func (s *logSite) load(text string) *config.File {
	s.t.Helper()
	f, err := config.Load(s.write("log/mayfly.yaml", []byte(text)), nil)
	s.must(err)
	return f
}

// initShared makes a shard of the shared log; the first one at once.
func (s *logSite) initShared(name string, activate time.Time) embedded.Info {
	s.t.Helper()
	info, err := embedded.Init(s.t.Context(), embedded.InitConfig{
		Dir: LogDir(filepath.Join(s.dir, "log/state"), name), Origin: "log.example/log/" + name, Activate: activate,
	})
	s.must(err)
	return info
}

// logRunning is a log that is served until the test ends or stop is called.
type logRunning struct {
	*LogServer
	stop func() error
}

func (s *logSite) runLog(o Options) *logRunning {
	s.t.Helper()
	f := s.load(s.logConfig())
	o.Load = func() (*config.File, error) { return config.Load(f.Path, nil) }
	l, err := OpenLogServer(s.t.Context(), f, o)
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var result error
	stopped := false
	r := &logRunning{LogServer: l, stop: func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-ended
		}
		return result
	}}
	s.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			s.t.Errorf("stopping the log: %v", err)
		}
	})
	for s.status("/readyz") != http.StatusOK {
		select {
		case err := <-ended:
			ended <- err
			s.t.Fatalf("the log ended: %v", err)
		default:
		}
	}
	return r
}

// status is that of an answer, 0 when there is nobody.
func (s *logSite) status(path string) int {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.read+path, nil)
	s.must(err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// remote is the logs section of a replica.
func (s *logSite) remote(shards ...string) string {
	var text strings.Builder
	for _, name := range shards {
		fmt.Fprintf(&text, "  - {name: %s, remote: {url: %s/log/%s, public_key: log/state/log/%s/log.pub, ca_file: machines.pem, client_certificate: client.crt, client_key: client.key}}\n",
			name, s.submit, name, name)
	}
	return text.String()
}

// entries is how many there are under the published checkpoint.
func (s *logSite) entries(name string) string {
	a := get(s.t, s.read+"/log/"+name+"/checkpoint")
	lines := strings.Split(string(a.body), "\n")
	if a.status != http.StatusOK || len(lines) < 3 {
		s.t.Fatalf("no checkpoint of %s: %d %s", name, a.status, a.body)
	}
	return lines[1]
}

func (s *logSite) awaitEntries(name, want string) {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	for s.entries(name) != want {
		select {
		case <-deadline:
			s.t.Fatalf("log %s has %s entries, want %s", name, s.entries(name), want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *logSite) issue(url string) answer {
	s.t.Helper()
	return post(s.t, url+"/api/v2/signingCert", s.token(nil), body(s.t, newKey(s.t), "alice"))
}

// submitter is a client of the submission listener.
func (s *logSite) submitter(name string) *http.Client {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, name+".crt"), filepath.Join(s.dir, name+".key"))
		s.must(err)
		c.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func (s *logSite) ask(client *http.Client, path string) (answer, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.submit+path, nil)
	s.must(err)
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answer{resp.StatusCode, resp.Header, data}, err
}

// shown is the certificate of the submission listener.
func (s *logSite) shown() *x509.Certificate {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.submit, nil)
	s.must(err)
	resp, err := s.submitter("client").Do(req)
	s.must(err)
	defer resp.Body.Close()
	return resp.TLS.PeerCertificates[0]
}

// Replicas without a log of their own use one that is alone in a process.
func TestReplicaSubmitsToLogServer(t *testing.T) {
	s := newLogSite(t)
	s.initShared("shared", time.Time{})
	log := s.runLog(Options{})
	r := s.run(s.remote("shared"))
	for range 3 {
		if a := s.issue(r.url); a.status != http.StatusOK {
			t.Fatalf("got %d %s, want a certificate", a.status, a.body)
		}
	}
	s.awaitEntries("shared", "3")
	if got := s.status("/log/other/checkpoint"); got != http.StatusNotFound {
		t.Errorf("a log that is not there: got %d, want 404", got)
	}
	// Without the log there are no certificates, and with it there are again.
	if err := log.stop(); err != nil {
		t.Fatal(err)
	}
	if a := s.issue(r.url); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("without the log: got %d %s, want 503 with Retry-After", a.status, a.body)
	}
}

// The log in the box of one replica may be the remote log of another.
func TestServeTakesSubmissionsOfOthers(t *testing.T) {
	s := newLogSite(t)
	s.initLog()
	first := s.run(fmt.Sprintf("  - name: local\n    embedded: {submission: {address: %q, tls: {certificate: log/server.crt, key: log/server.key}, client_ca: machines.pem, issuers: [chain.pem]}}",
		strings.TrimPrefix(s.submit, "https://")))
	a, err := s.ask(s.submitter("client"), "/log/local/ct/v1/get-roots")
	if err != nil || a.status != http.StatusOK || !bytes.Contains(a.body, []byte(`"certificates":["`)) {
		t.Fatalf("get-roots: got %d %s (%v), want the root", a.status, a.body, err)
	}
	for _, path := range []string{"/log/other/ct/v1/get-roots", "/ct/v1/get-roots", "/log/local", "/"} {
		if a, err := s.ask(s.submitter("client"), path); err != nil || a.status != http.StatusNotFound {
			t.Errorf("%s: got %d (%v), want 404", path, a.status, err)
		}
	}
	if a, err := s.ask(s.submitter(""), "/log/local/ct/v1/get-roots"); err == nil {
		t.Errorf("without a certificate: got %d, want no connection", a.status)
	}
	if got := get(t, first.url+"/ct/v1/get-roots").status; got != http.StatusNotFound {
		t.Errorf("submission at the address of the service: got %d, want 404", got)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ask(s.submitter("client"), "/log/local/ct/v1/get-roots"); err == nil {
		t.Error("the listener of submitters is open after the end of the service")
	}
}

// A shard takes submissions in its own time only, at its own URL, so that replicas
// that list both shards go over from one to the other by themselves.
func TestSubmittersFollowARotation(t *testing.T) {
	s := newLogSite(t)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s.initShared("shared", time.Time{})
	log := s.runLog(Options{Clock: clock})
	s.initShared("shared-2", time.Now().Add(5*time.Minute))
	if got := s.status("/log/shared-2/checkpoint"); got != http.StatusNotFound {
		t.Errorf("before the reload: got %d, want 404", got)
	}
	if err := log.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := s.run(s.remote("shared-2", "shared"))
	if a := s.issue(r.url); a.status != http.StatusOK {
		t.Fatalf("before: got %d %s, want a certificate", a.status, a.body)
	}
	s.awaitEntries("shared", "1")
	if got := s.entries("shared-2"); got != "0" {
		t.Errorf("the next shard has %s entries before its time", got)
	}
	ahead.Store(int64(5*time.Minute + time.Second))
	// A replica gives a log that has refused a rest; so does the test.
	deadline := time.Now().Add(20 * time.Second)
	for s.entries("shared-2") == "0" {
		if a := s.issue(r.url); a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
			t.Fatalf("after: got %d %s, want a certificate or 503", a.status, a.body)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing came to the new shard")
		}
	}
	// One that clients have not heard of is not taken.
	s.initShared("shared-3", clock())
	if err := log.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "have not heard") {
		t.Errorf("reload with a surprising shard: got %v", err)
	}
}

func TestLogServerFollowsItsFiles(t *testing.T) {
	s := newLogSite(t)
	s.initShared("shared", time.Time{})
	log := s.runLog(Options{})
	roots := func() string {
		t.Helper()
		a, err := s.ask(s.submitter("client"), "/log/shared/ct/v1/get-roots")
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("get-roots: %d %s (%v)", a.status, a.body, err)
		}
		return string(a.body)
	}
	before := roots()
	s.write("log/chain.pem", []byte("nothing"))
	if err := log.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "PEM") {
		t.Errorf("reload of a broken chain: got %v", err)
	}
	if roots() != before {
		t.Error("a broken file changed what is taken")
	}
	s.makePKI("New", x509.ExtKeyUsageCodeSigning)
	s.write("log/chain.pem", s.site.read("chain.pem"))
	s.machine("log/server", x509.ExtKeyUsageServerAuth)
	if err := log.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if roots() == before {
		t.Error("a changed chain is not taken into use")
	}
	want, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "log/server.crt"), filepath.Join(s.dir, "log/server.key"))
	s.must(err)
	if got := s.shown(); !got.Equal(want.Leaf) {
		t.Errorf("the listener shows certificate %d, want %d", got.SerialNumber, want.Leaf.SerialNumber)
	}
	// Another root for clients: those of before stay outside.
	s.write("log/machines.pem", s.site.read("log/chain.pem"))
	if err := log.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := s.ask(s.submitter("client"), "/log/shared/ct/v1/get-roots"); err == nil {
		t.Errorf("a client of another root: got %d, want no connection", a.status)
	}
	s.write("log/mayfly.yaml", []byte(s.logConfig()+"metrics: 127.0.0.1:1\n"))
	if err := log.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "next start") {
		t.Errorf("reload of another configuration: got %v", err)
	}
}

// Connections that say nothing are closed, and the end does not wait for them.
func TestSubmissionListenerEndsWhatIsSlow(t *testing.T) {
	s := newLogSite(t)
	s.initShared("shared", time.Time{})
	log := s.runLog(Options{})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.submit, "https://"))
	s.must(err)
	defer conn.Close()
	start := time.Now()
	s.must(conn.SetDeadline(start.Add(20 * time.Second)))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a connection without a handshake: got %v after %s, want its end", err, time.Since(start))
	}
	if took := time.Since(start); took < time.Second || took > 10*time.Second {
		t.Errorf("it was closed after %s, want about 5s", took)
	}
	if err := log.stop(); err != nil {
		t.Error(err)
	}
}

// What a log alone needs is checked as everything else, and neither program takes
// the other's configuration.
func TestConfigurationOfALogAlone(t *testing.T) {
	s := newLogSite(t)
	f := s.load(s.logConfig())
	problems := Check(f, time.Now())
	if len(problems) != 1 || problems[0].Path != "logs[0].embedded" {
		t.Errorf("before the log is made: got problems\n%v\nwant its absence alone", problems)
	}
	s.initShared("shared", time.Time{})
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Errorf("got problems\n%v\nwant none", problems)
	}
	_, err := Open(t.Context(), f, Options{})
	if problems, ok := errors.AsType[config.Problems](err); !ok || !strings.Contains(problems.Error(), "mayfly log serve") {
		t.Errorf("serving it as a certificate authority: got %v", err)
	}
	if _, err := OpenLogServer(t.Context(), s.configure("127.0.0.1:1", ""), Options{}); err == nil || !strings.Contains(err.Error(), "nobody could submit") {
		t.Errorf("a log that nobody can submit to: got %v", err)
	}
	broken := map[string]string{
		"server.key": "submission.tls", "machines.pem": "submission.client_ca", "chain.pem": "submission.issuers[0]",
	}
	for name, path := range broken {
		good := s.site.read("log/" + name)
		s.write("log/"+name, []byte("nothing"))
		problems := Check(f, time.Now())
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Path == "logs[0].embedded."+path }) {
			t.Errorf("with a broken %s: got problems\n%v\nwant one at %s", name, problems, path)
		}
		s.write("log/"+name, good)
	}
}
