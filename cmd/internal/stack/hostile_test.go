package stack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/audit"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// raw sends bytes as they are and returns the answers until the service closes
// the connection.
func (r *running) raw(t testing.TB, text string) string {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil && len(answer) == 0 {
		t.Fatalf("no answer: %v", err)
	}
	return string(answer)
}

func (s *site) report() audit.Report {
	s.t.Helper()
	report, err := audit.Verify(auditDir(filepath.Join(s.dir, "state")))
	s.must(err)
	return report
}

// TestOneRequestHasOneReading: whoever stands in front of the service and looks
// at a request must see the token and the body that the service uses.
func TestOneRequestHasOneReading(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	good := body(t, newKey(t), "alice@corp.example")
	alice, bob := s.token(nil), s.token(func(c map[string]any) { c["sub"] = "bob"; c["email"] = "bob@corp.example" })
	withToken := func(token string) []byte {
		return []byte(strings.Replace(string(good), "{", fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},`, token), 1))
	}
	const path = "/api/v2/signingCert"
	request := func(headers string, data []byte) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n%s", path, len(data), headers, data)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"one token twice", request("Authorization: Bearer "+alice+"\r\nAuthorization: bearer "+alice+"\r\n", good), " 200 "},
		{"header and body agree", request("Authorization: Bearer "+alice+"\r\n", withToken(alice)), " 200 "},
		{"two headers", request("Authorization: Bearer "+bob+"\r\nAuthorization: Bearer "+alice+"\r\n", good), "token_conflict"},
		{"two tokens in one header", request("Authorization: Bearer "+alice+", Bearer "+bob+"\r\n", good), "token_malformed"},
		{"header and body differ", request("Authorization: Bearer "+bob+"\r\n", withToken(alice)), "token_conflict"},
		{"two tokens in the body", request("", []byte(strings.Replace(string(withToken(bob)), "{", fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},`, alice), 1))), "request_malformed"},
		{"two keys", request("Authorization: Bearer "+alice+"\r\n", []byte(strings.Replace(string(good), "{", `{"certificateSigningRequest":"QUFB",`, 1))), "request_malformed"},
		{"body after the body", request("Authorization: Bearer "+alice+"\r\n", append(bytes.Clone(good), good...)), "request_malformed"},
		{"two lengths", request("Authorization: Bearer "+alice+"\r\nContent-Length: 5\r\n", good), " 400 "},
		{"length and chunks", request("Authorization: Bearer "+alice+"\r\nTransfer-Encoding: chunked\r\n", []byte("0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")), " 400 "},
		{"line feed in a header", request("Authorization: Bearer "+alice+"\r\nX-Request-Id: a\n b\r\n", nil), " 400 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := r.raw(t, tc.text)
			if !strings.Contains(got, tc.want) || strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("got %s\nwant one answer with %q", got, tc.want)
			}
		})
	}
	if got := s.report(); got.Issued != 2 {
		t.Errorf("journal: %+v; want the two certificates of the good requests", got)
	}
}

// TestGRPCTokensInMetadata: the same for the door that has more names for it.
func TestGRPCTokensInMetadata(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	conn, err := grpc.NewClient(strings.TrimPrefix(r.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.must(err)
	defer func() { s.must(conn.Close()) }()
	req := new(fulciov2.CreateSigningCertificateRequest)
	s.must(protojson.Unmarshal(body(t, newKey(t), "alice@corp.example"), req))
	alice, bob := s.token(nil), s.token(func(c map[string]any) { c["sub"] = "bob"; c["email"] = "bob@corp.example" })
	for _, tc := range []struct {
		name     string
		metadata []string
		want     codes.Code
	}{
		{"authorization", []string{"authorization", "Bearer " + alice}, codes.OK},
		{"Fulcio's own name", []string{"oidcidentitytoken", alice}, codes.OK},
		{"both, one token", []string{"oidcidentitytoken", alice, "authorization", "Bearer " + alice}, codes.OK},
		{"both, two tokens", []string{"oidcidentitytoken", alice, "authorization", "Bearer " + bob}, codes.InvalidArgument},
		{"one name, two tokens", []string{"oidcidentitytoken", bob, "oidcidentitytoken", alice}, codes.InvalidArgument},
		{"binary metadata is no token", []string{"oidcidentitytoken-bin", alice}, codes.InvalidArgument},
		{"no scheme", []string{"authorization", alice}, codes.InvalidArgument},
		{"another scheme", []string{"authorization", "Basic " + alice}, codes.InvalidArgument},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), tc.metadata...)
		if _, err := fulciov2.NewCAClient(conn).CreateSigningCertificate(ctx, req); status.Code(err) != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

// TestForgedFramesCostNothing: what a client claims about its body, address or
// request is not believed.
func TestForgedFramesCostNothing(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, err := zip.Write(bytes.Repeat([]byte(" "), 64<<20))
	s.must(err)
	s.must(zip.Close())
	for _, tc := range []struct {
		name   string
		body   io.Reader
		header http.Header
		status int
	}{
		{"compressed body", &packed, http.Header{"Content-Encoding": {"gzip"}}, 400},
		{"endless chunks", io.LimitReader(endless{}, 1<<30), nil, 413},
		{"control bytes for a request id", strings.NewReader("{}"), http.Header{"X-Request-Id": {"<script>"}}, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/api/v2/signingCert", tc.body)
			s.must(err)
			for k, v := range tc.header {
				req.Header[k] = v
			}
			req.Header.Set("X-Forwarded-For", "10.9.8.7")
			req.Header.Set("Authorization", "Bearer "+s.token(nil))
			start := time.Now()
			a := send(t, req)
			if a.status != tc.status || time.Since(start) > 5*time.Second {
				t.Errorf("got %d in %v, want %d: %s", a.status, time.Since(start), tc.status, a.body)
			}
			if id := a.header.Get("X-Request-Id"); len(id) != 32 {
				t.Errorf("request id %q, want one of ours", id)
			}
		})
	}
	s.must(r.stop())
	journal := s.journal()
	if strings.Contains(journal, "10.9.8.7") || !strings.Contains(journal, `"source":"127.0.0.1"`) {
		t.Error("the journal believes X-Forwarded-For without a trusted proxy")
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte(" "), len(p))), nil }

// TestLogPathsStayInTheLog: the read path leads to tiles, checkpoint and issuers
// and to nothing else below the state directory, its key least of all.
func TestLogPathsStayInTheLog(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	if a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice")); a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	dir := LogDir(filepath.Join(s.dir, "state"), "local")
	var names []string
	s.must(filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			_, below, _ := strings.Cut(rel, "/")
			names = append(names, rel, below)
		}
		return err
	}))
	if len(names) < 4 {
		t.Fatalf("the log's directory holds %v", names)
	}
	for _, name := range append(names, "", ".", "..", "log.key", "../../audit/journal.lock", "tile", "tile/", "issuer", "tile/0/000.p/0", "tile/0/../../log.key") {
		for _, form := range []string{"/log/local/" + name, "/log/local/" + strings.ReplaceAll(name, "/", "%2f"), "/log/local//" + name, "/log/local/tile/%2e%2e/" + name, "/log/local/./" + name + "%00"} {
			got := r.raw(t, "GET "+form+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			_, answer, _ := strings.Cut(got, "\r\n\r\n")
			if strings.Contains(answer, "PRIVATE KEY") || strings.Contains(answer, `"prev"`) {
				t.Errorf("GET %s gave away %q", form, answer)
			}
			served := strings.HasPrefix(got, "HTTP/1.1 200 ")
			clean := strings.TrimPrefix(filepath.Clean("/"+strings.ReplaceAll(name, "/../", "/")), "/")
			if public := clean == "checkpoint" || strings.HasPrefix(clean, "tile/") || strings.HasPrefix(clean, "issuer/"); served && !public &&
				!strings.HasPrefix(answer, "ca.corp.example/") {
				t.Errorf("GET %s gave %q, want nothing", form, answer)
			}
		}
	}
}

// TestMetricsAreFewWhateverIsAsked: no path, method, issuer, name or request id
// becomes a label.
func TestMetricsAreFewWhateverIsAsked(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	gather := func() []*dto.MetricFamily {
		families, err := r.registry.Gather()
		s.must(err)
		return families
	}
	series := func() (n int) {
		for _, f := range gather() {
			n += len(f.GetMetric())
		}
		return n
	}
	// What the auditor has not read yet, it says nothing about.
	eventually(t, "the auditor has read the log and the journal", func() bool {
		names := ""
		for _, f := range gather() {
			names += f.GetName() + " "
		}
		return strings.Contains(names, "mayfly_auditor_log_size ") && strings.Contains(names, "mayfly_auditor_journal_timestamp_seconds ")
	})
	ask := func(i int) {
		word := fmt.Sprintf("w%d", i)
		get(t, r.url+"/"+word)
		get(t, r.url+"/log/local/"+word)
		req, err := http.NewRequestWithContext(t.Context(), strings.ToUpper(word), r.url+"/api/v2/signingCert", nil)
		s.must(err)
		send(t, req)
		post(t, r.url+"/api/v2/signingCert", s.token(func(c map[string]any) { c["iss"] = "https://" + word }), nil)
		post(t, r.url+"/api/v2/signingCert", s.token(func(c map[string]any) { c["sub"] = word }), []byte(`{"publicKeyRequest":{"publicKey":{"content":"`+word+`"}}}`))
		post(t, r.url+"/api/v2/signingCert", s.token(func(c map[string]any) { c["email"] = "a@" + word }), body(t, newKey(t), "alice"))
	}
	ask(0)
	before := series()
	for i := range 20 {
		ask(i + 1)
	}
	if after := series(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

// TestOpenThatFailsHalfWayLeavesNothingLocked: journal and log are open when the
// pool finds that two logs have one key.
func TestOpenThatFailsHalfWayLeavesNothingLocked(t *testing.T) {
	s := newSite(t)
	s.initLog()
	key, err := os.ReadFile(filepath.Join(LogDir(filepath.Join(s.dir, "state"), "local"), "log.pub"))
	s.must(err)
	s.write("twin.pub", key)
	f := s.configure("127.0.0.1:1", embeddedLogs+"\n  - {name: twin, remote: {url: 'http://127.0.0.1:1', public_key: twin.pub}}")
	if stack, err := Open(t.Context(), f, Options{}); err == nil {
		t.Fatalf("Open accepts two logs with one key: %v", stack.Close())
	}
	stack, err := Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{})
	if err != nil {
		t.Fatalf("after an Open that failed: %v", err)
	}
	s.must(stack.Close())
	if err := stack.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// TestRunThatCannotStartClosesWhatItWasGiven: a listener that nobody serves would
// keep clients waiting.
func TestRunThatCannotStartClosesWhatItWasGiven(t *testing.T) {
	s := newSite(t)
	s.initLog()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	s.must(err)
	defer func() { s.must(taken.Close()) }()
	f := s.configure("127.0.0.1:1", "")
	text, err := os.ReadFile(f.Path)
	s.must(err)
	s.write("mayfly.yaml", append(text, "metrics: "+taken.Addr().String()+"\n"...))
	f, err = config.Load(f.Path, nil)
	s.must(err)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	s.must(err)
	stack, err := Open(t.Context(), f, Options{Listener: ln})
	s.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := stack.Run(ctx); err == nil || !strings.Contains(err.Error(), "metrics") {
		t.Errorf("Run: %v, want the taken address of metrics", err)
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String()); err == nil {
		s.must(conn.Close())
		t.Error("the listener is still open")
	}
}

// TestStopDuringAnIssuance: a log hangs, the service is told to stop, and the
// request under way ends within its deadline with its intent closed before the
// journal is.
func TestStopDuringAnIssuance(t *testing.T) {
	s := newSite(t)
	arrived := make(chan struct{}, 1)
	remote := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost { // and not the log audit
			arrived <- struct{}{}
		}
		<-r.Context().Done()
	}))
	t.Cleanup(remote.Close)
	spki, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	s.must(err)
	s.write("log.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	r := s.run("  - {name: far, remote: {url: " + remote.URL + ", public_key: log.pub}}")
	answered := make(chan answer, 1)
	token, data := s.token(nil), body(t, newKey(t), "alice")
	go func() { answered <- post(t, r.url+"/api/v2/signingCert", token, data) }()
	<-arrived
	s.must(r.stop())
	if a := <-answered; a.status != 503 {
		t.Errorf("the request under way got %d: %s", a.status, a.body)
	}
	if got := s.report(); got.NotIssued != 2 || got.Issued != 0 || len(got.Open) != 0 {
		t.Errorf("journal: %+v; want one intent and that of the self-test, closed as not issued", got)
	}
	if _, err := r.journal.Intent(t.Context(), ca.Intent{}); err == nil {
		t.Error("the journal takes intents after the service has stopped")
	}
}

// serve answers on loopback without Run, so that a test can bring its own clock
// and logger.
func (s *site) serve(f *config.File, o Options) (url string, stop func()) {
	s.t.Helper()
	stack, err := Open(s.t.Context(), f, o)
	s.must(err)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { stack.current.Load().verifier.Run(ctx); close(done) }()
	s.awaitKeys(stack)
	srv := httptest.NewServer(stack.server.Handler())
	return srv.URL, func() {
		srv.Close()
		cancel()
		<-done
		s.must(stack.Close())
	}
}

// TestClockSetBack: a token that has expired long ago must not come alive again
// because somebody set the clock, neither while the service runs nor across a
// restart.
func TestClockSetBack(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.configure("127.0.0.1:1", "")
	var back atomic.Int64 // nanoseconds
	clock := func() time.Time { return time.Now().Round(0).Add(-time.Duration(back.Load())) }
	url, stop := s.serve(f, Options{Clock: clock})
	if a := post(t, url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice")); a.status != 200 {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	back.Store(int64(20 * time.Minute))
	old := s.token(func(c map[string]any) {
		c["iat"], c["exp"] = clock().Unix(), clock().Add(10*time.Minute).Unix()
	})
	a := post(t, url+"/api/v2/signingCert", old, body(t, newKey(t), "alice"))
	if code, _ := reason(t, a); a.status != 503 || code != "clock_unsafe" {
		t.Errorf("got %d %q: %s; want 503 clock_unsafe", a.status, code, a.body)
	}
	if a := get(t, url+"/readyz"); a.status != 503 || !bytes.Contains(a.body, []byte(`"clock":false`)) {
		t.Errorf("readyz: %d %s; want the clock not ready", a.status, a.body)
	}
	back.Store(0) // the log signs its last checkpoint
	stop()
	back.Store(int64(20 * time.Minute))
	if got := s.report(); got.Issued != 1 || got.Intents != 1 {
		t.Errorf("journal: %+v; want the first certificate alone", got)
	}
	if stack, err := Open(t.Context(), f, Options{Clock: clock}); err == nil {
		t.Errorf("the service starts before its own past: %v", stack.Close())
	}
}

// lockedBuffer collects log lines.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// TestNoLogHoldsASecret: the whole service at its most talkative, asked well and
// badly, writes neither token nor proof nor private key.
func TestNoLogHoldsASecret(t *testing.T) {
	s := newSite(t)
	s.initLog()
	log := new(lockedBuffer)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	url, stop := s.serve(s.configure("127.0.0.1:1", ""), Options{Logger: logger})
	good := body(t, newKey(t), "alice")
	for _, change := range []func(map[string]any){
		nil,
		func(c map[string]any) { c["aud"] = "other" },
		func(c map[string]any) { c["exp"] = 1 },
		func(c map[string]any) { c["email"] = "alice@evil.example" },
		func(c map[string]any) { c["email_verified"] = "maybe" },
		func(c map[string]any) { c["sub"] = "\u202ealice" },
		func(c map[string]any) { c["iss"] = "https://elsewhere.example" },
		func(c map[string]any) { c["ſub"] = "root" },
	} {
		token := s.token(change)
		for _, send := range []string{token, token + "A", "Bearer " + token, token[1:], token + "." + token, token[:len(token)-10] + "AAAAAAAAAA"} {
			post(t, url+"/api/v2/signingCert", send, good)
			post(t, url+"/api/v2/signingCert", "", fmt.Appendf(nil, `{"credentials":%q}`, send))
			post(t, url+"/api/v2/signingCert", "", fmt.Appendf(nil, `{"credentials":{"oidcIdentityToken":%q},"certificateSigningRequest":%q}`, send, send))
			get(t, url+"/"+send)
		}
	}
	stop()
	text := log.buf.String() + s.journal()
	if !strings.Contains(text, "san_not_allowed") || !strings.Contains(text, "claim_chars") {
		t.Fatal("the refusals are not in the log, so it shows nothing")
	}
	for _, secret := range []string{"eyJ", "PRIVATE KEY", "proofOfPossession"} {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("found %q: %.300s", secret, text[max(0, at-100):])
		}
	}
}
