package stack

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/audit"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// reason reads our code and the message out of an error answer.
func reason(t testing.TB, a answer) (code, message string) {
	t.Helper()
	var e struct {
		Message string
		Details []struct{ Reason string }
	}
	if err := json.Unmarshal(a.body, &e); err != nil {
		t.Fatalf("status %d with a body that is no JSON: %s", a.status, a.body)
	}
	for _, d := range e.Details {
		if d.Reason != "" {
			code = d.Reason
		}
	}
	return code, e.Message
}

// leaf parses a PEM chain, checks that it ends in the site's root, and returns
// the certificate.
func (s *site) leaf(chain []string) *x509.Certificate {
	s.t.Helper()
	var certs []*x509.Certificate
	for _, text := range chain {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			s.t.Fatalf("no PEM: %q", text)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		s.must(err)
		certs = append(certs, c)
	}
	if len(certs) != 3 || !certs[2].Equal(s.root) {
		s.t.Fatalf("%d certificates, want leaf, intermediate and root", len(certs))
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(s.root)
	intermediates.AddCert(certs[1])
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	s.must(err)
	return certs[0]
}

func TestIssuanceThroughEveryDoor(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	key := newKey(t)
	token := s.token(nil)

	t.Run("REST v2", func(t *testing.T) {
		a := post(t, r.url+"/api/v2/signingCert", token, body(t, key, "alice@corp.example"))
		var v struct {
			SignedCertificateEmbeddedSct struct {
				Chain struct{ Certificates []string }
			}
		}
		if a.status != http.StatusOK || json.Unmarshal(a.body, &v) != nil {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		cert := s.leaf(v.SignedCertificateEmbeddedSct.Chain.Certificates)
		if got := strings.Join(cert.EmailAddresses, " "); got != "alice@corp.example" {
			t.Errorf("name %q", got)
		}
	})
	t.Run("REST v1", func(t *testing.T) {
		var v2 struct {
			PublicKeyRequest struct {
				PublicKey         struct{ Content string }
				ProofOfPossession []byte
			}
		}
		s.must(json.Unmarshal(body(t, key, "alice"), &v2)) // proven over the subject this time
		data, err := json.Marshal(map[string]any{
			"publicKey":          map[string]any{"content": []byte(v2.PublicKeyRequest.PublicKey.Content), "algorithm": "ecdsa"},
			"signedEmailAddress": v2.PublicKeyRequest.ProofOfPossession, "certificateSigningRequest": nil,
		})
		s.must(err)
		a := post(t, r.url+"/api/v1/signingCert", token, data)
		if a.status != http.StatusCreated || a.header.Get("Content-Type") != "application/pem-certificate-chain" {
			t.Fatalf("status %d, %s: %s", a.status, a.header.Get("Content-Type"), a.body)
		}
		s.leaf(splitPEM(a.body))
	})
	t.Run("gRPC", func(t *testing.T) {
		conn, err := grpc.NewClient(strings.TrimPrefix(r.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		s.must(err)
		defer func() { s.must(conn.Close()) }()
		health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health %v, %v", health, err)
		}
		bundle, err := fulciov2.NewCAClient(conn).GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{})
		if err != nil || len(bundle.GetChains()) != 1 || len(bundle.GetChains()[0].GetCertificates()) != 2 {
			t.Errorf("trust bundle %v, %v", bundle, err)
		}
	})
	report, err := audit.Verify(auditDir(filepath.Join(s.dir, "state")))
	if err != nil || report.Issued != 2 {
		t.Errorf("journal: %+v, %v; want 2 issued", report, err)
	}
}

func splitPEM(data []byte) []string {
	var out []string
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return out
		}
		out, data = append(out, string(pem.EncodeToMemory(block))), rest
	}
}

// TestRefusalsReachNoOne: whatever is wrong with a request, the client gets the
// status, message and code, no more than a refresh of keys goes out to the
// provider, nothing is signed.
func TestRefusalsReachNoOne(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	good := body(t, newKey(t), "alice@corp.example")
	const tokenText = "There was an error processing the identity token"
	before := s.requests.Load()
	for _, tc := range []struct {
		name    string
		token   string
		body    []byte
		status  int
		message string
		reason  string
	}{
		{"no token", "", good, 400, tokenText, "token_missing"},
		{"junk", "junk", good, 400, tokenText, "token_malformed"},
		{"unknown issuer", s.token(func(c map[string]any) { c["iss"] = s.issuer.URL + "/" }), good, 400, tokenText, "issuer_unknown"},
		{"wrong audience", s.token(func(c map[string]any) { c["aud"] = "other" }), good, 400, tokenText, "aud"},
		{"expired", s.token(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), good, 400, tokenText, "expired"},
		{"unverified email", s.token(func(c map[string]any) { c["email_verified"] = false }), body(t, newKey(t), "alice"), 400, tokenText, "email_unverified"},
		{"tampered", s.token(nil) + "A", good, 400, tokenText, ""},
		{"proof over another name", s.token(nil), body(t, newKey(t), "mallory"), 400, "The signature supplied in the request could not be verified", "proof_invalid"},
		{"foreign domain", s.token(func(c map[string]any) { c["email"] = "alice@evil.example" }), body(t, newKey(t), "alice"), 403, "", "san_not_allowed"},
		{"malformed JSON", s.token(nil), []byte("{"), 400, "", "request_malformed"},
		{"no key", s.token(nil), []byte("{}"), 400, "The public key supplied in the request could not be parsed", "key_missing"},
		{"body too large", s.token(nil), bytes.Repeat([]byte(" "), 200<<10), 413, "", "request_too_large"},
		{"token too large", strings.Repeat("a", 20<<10), good, 400, tokenText, "token_too_large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := post(t, r.url+"/api/v2/signingCert", tc.token, tc.body)
			code, message := reason(t, a)
			if a.status != tc.status || tc.message != "" && message != tc.message || tc.reason != "" && code != tc.reason {
				t.Errorf("got %d %q %q, want %d %q %q", a.status, code, message, tc.status, tc.reason, tc.message)
			}
		})
	}
	// The tampered one might be signed with a new key: it may cause one refresh,
	// which is two requests, and no other does.
	if after := s.requests.Load(); after > before+2 {
		t.Errorf("the provider saw %d requests because of them, want at most 2", after-before)
	}
	s.must(r.stop())
	report, err := audit.Verify(auditDir(filepath.Join(s.dir, "state")))
	if err != nil || report.Intents != 1 {
		t.Errorf("journal: %+v, %v; want no intent but that of the self-test", report, err)
	}
	journal := s.journal()
	for _, want := range []string{`"email_unverified"`, `"proof_invalid"`, `"san_not_allowed"`} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal has no record of %s", want)
		}
	}
	if strings.Contains(journal, "eyJ") {
		t.Error("the journal holds a piece of a token")
	}
}

func (s *site) journal() string {
	s.t.Helper()
	var all []byte
	files, err := filepath.Glob(filepath.Join(s.dir, "state", "audit", "*"))
	s.must(err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		s.must(err)
		all = append(all, data...)
	}
	return string(all)
}

func TestLogOutageIsAFastRefusal(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
			<-r.Context().Done()
		},
		"lies": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"sct_version":0,"id":"AAAA","timestamp":1,"extensions":"","signature":"AAAA"}`)
		},
		"denies": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			remote := httptest.NewServer(handler)
			t.Cleanup(remote.Close)
			spki, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
			s.must(err)
			s.write("log.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
			r := s.run("  - {name: far, remote: {url: " + remote.URL + ", public_key: log.pub}}")
			start := time.Now()
			a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice@corp.example"))
			code, message := reason(t, a)
			if a.status != 503 || code != "log_unavailable" || message != "Error entering certificate in CTL" || a.header.Get("Retry-After") == "" {
				t.Errorf("got %d %q %q, Retry-After %q", a.status, code, message, a.header.Get("Retry-After"))
			}
			// The bound is 2.5 s for the log and 4 s for all; clients give up at 5.
			if took := time.Since(start); took > 4500*time.Millisecond {
				t.Errorf("took %v", took)
			}
			s.must(r.stop())
			report, err := audit.Verify(auditDir(filepath.Join(s.dir, "state")))
			if err != nil || report.Issued != 0 || report.NotIssued != 2 || len(report.Open) != 0 {
				t.Errorf("journal: %+v, %v; want one intent and that of the self-test, closed as not issued", report, err)
			}
		})
	}
}

func TestProviderDownIsAnOutageOfItsOwn(t *testing.T) {
	s := newSite(t)
	s.initLog()
	token := s.token(nil)
	f := s.configure("127.0.0.1:1", "")
	s.issuer.Close()
	stack, err := Open(t.Context(), f, Options{})
	s.must(err)
	defer func() { s.must(stack.Close()) }()
	srv := httptest.NewServer(stack.server.Handler())
	defer srv.Close()
	a := post(t, srv.URL+"/api/v2/signingCert", token, body(t, newKey(t), "alice@corp.example"))
	if code, _ := reason(t, a); a.status != 503 || code != "idp_keys_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %q, Retry-After %q", a.status, code, a.header.Get("Retry-After"))
	}
	if a := get(t, srv.URL+"/readyz"); a.status != 503 || !strings.Contains(string(a.body), `"issuers":false`) {
		t.Errorf("readyz %d %s", a.status, a.body)
	}
	if a := get(t, srv.URL+"/healthz"); a.status != 200 {
		t.Errorf("healthz %d", a.status)
	}
}

func TestTrustFilesNameChainAndLog(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	a := get(t, r.url+"/trust/trusted_root.json")
	var root struct {
		CertificateAuthorities []struct {
			CertChain struct{ Certificates []struct{ RawBytes []byte } }
		}
		Ctlogs []struct {
			BaseURL string
			LogID   struct{ KeyID []byte }
		}
	}
	if a.status != 200 || a.header.Get("ETag") == "" || json.Unmarshal(a.body, &root) != nil {
		t.Fatalf("status %d, ETag %q: %s", a.status, a.header.Get("ETag"), a.body)
	}
	chain := root.CertificateAuthorities[0].CertChain.Certificates
	if len(chain) != 2 || !bytes.Equal(chain[1].RawBytes, s.root.Raw) {
		t.Errorf("%d certificates, want the intermediate and the root", len(chain))
	}
	id := r.shards()[0].Info.LogID
	if len(root.Ctlogs) != 1 || !bytes.Equal(root.Ctlogs[0].LogID.KeyID, id[:]) || root.Ctlogs[0].BaseURL != r.url+"/log/local" {
		t.Errorf("logs %+v, want the one in use", root.Ctlogs)
	}
	if a := get(t, r.url+"/trust/signing_config.json"); a.status != 200 || !bytes.Contains(a.body, []byte(r.url)) {
		t.Errorf("signing configuration: status %d: %s", a.status, a.body)
	}
	if a := get(t, r.url+"/log/local/checkpoint"); a.status != 200 || !bytes.HasPrefix(a.body, []byte("ca.corp.example/log/local\n")) {
		t.Errorf("checkpoint: status %d: %s", a.status, a.body)
	}
}

func TestOpenRefusesDemonstration(t *testing.T) {
	s := newSite(t)
	s.must(MarkDemo(filepath.Join(s.dir, "state")))
	s.initLog()
	_, err := Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{})
	if err == nil || !strings.Contains(err.Error(), "for demonstration") {
		t.Errorf("a marked state directory: %v", err)
	}
	s = newSite(t)
	s.initLog()
	s.makePKI("Mayfly demonstration - trust nothing signed by it", x509.ExtKeyUsageCodeSigning)
	_, err = Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{})
	if err == nil || !strings.Contains(err.Error(), "chains[0].certificates") {
		t.Errorf("a demonstration chain: %v", err)
	}
	if _, err := Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{Demo: true}); err == nil {
		t.Error("the demonstration accepts a state directory that it did not mark")
	}
}

// TestMarkDemoLeavesOtherDirectoriesAlone: mayfly-dev pointed at the state of a
// real service would otherwise keep that service from ever starting again.
func TestMarkDemoLeavesOtherDirectoriesAlone(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	for range 2 {
		if err := MarkDemo(state); err != nil {
			t.Fatalf("a directory of its own: %v", err)
		}
	}
	s := newSite(t)
	s.initLog()
	state = filepath.Join(s.dir, "state")
	if err := MarkDemo(state); err == nil || !strings.Contains(err.Error(), "it holds log") {
		t.Errorf("a directory with a log: got %v, want a refusal that names it", err)
	}
	if isDemoState(state) {
		t.Error("a directory with a log was marked")
	}
}

// TestCheckFindsWhatOpenWouldRefuse: each problem carries its line and key path.
func TestCheckFindsWhatOpenWouldRefuse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*site)
		logs  string
		path  string
		want  string
	}{
		{"key of another chain", func(s *site) {
			der, err := x509.MarshalPKCS8PrivateKey(newKey(t))
			s.must(err)
			s.write("ca.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		}, "", "chains[0].certificates", "does not belong"},
		{"usage", func(s *site) { s.makePKI("Corp", x509.ExtKeyUsageServerAuth) }, "", "chains[0].certificates", "codeSigning"},
		{"key missing", func(s *site) { s.must(os.Remove(filepath.Join(s.dir, "ca.key"))) }, "", "chains[0].key", "ca.key"},
		{"key readable by all", func(s *site) { s.must(os.Chmod(filepath.Join(s.dir, "ca.key"), 0o644)) }, "", "chains[0].key", "chmod"},
		{"chain missing", func(s *site) { s.must(os.Remove(filepath.Join(s.dir, "chain.pem"))) }, "", "chains[0].certificates", "chain.pem"},
		{"log not made", func(s *site) { s.must(os.RemoveAll(filepath.Join(s.dir, "state"))) }, "", "logs[0].embedded", "mayfly log init"},
		{"log key", func(s *site) { s.write("log.pub", []byte("junk")) }, "  - {name: far, remote: {url: http://127.0.0.1:1, public_key: log.pub}}", "logs[0].remote", "key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.initLog()
			f := s.configure("127.0.0.1:1", "")
			if problems := Check(f, time.Now()); len(problems) > 0 {
				t.Fatalf("a good configuration has problems: %v", problems)
			}
			tc.spoil(s)
			f = s.configure("127.0.0.1:1", tc.logs)
			problems := Check(f, time.Now())
			if !hasProblem(problems, tc.path, tc.want) {
				t.Errorf("problems %v, want one at %s that says %q", problems, tc.path, tc.want)
			}
			if s, err := Open(t.Context(), f, Options{}); err == nil {
				t.Errorf("Open accepts it: %v", s.Close())
			}
		})
	}
}

func hasProblem(problems config.Problems, path, text string) bool {
	for _, p := range problems {
		if p.Path == path && p.Line > 0 && strings.Contains(p.Message, text) {
			return true
		}
	}
	return false
}

func TestSecondServiceOnOneStateIsRefused(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	if second, err := Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{}); err == nil {
		t.Errorf("two services share a state directory: %v", second.Close())
	}
	// The first goes on undisturbed.
	if a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice")); a.status != 200 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

func TestLogsDisabledGivesADetachedAnswer(t *testing.T) {
	s := newSite(t)
	f := s.configure("127.0.0.1:1", "")
	text, err := os.ReadFile(f.Path)
	s.must(err)
	s.write("mayfly.yaml", []byte(strings.Replace(string(text), "logs:\n"+embeddedLogs, "logs: disabled", 1)))
	f, err = config.Load(f.Path, nil)
	s.must(err)
	stack, err := Open(t.Context(), f, Options{})
	s.must(err)
	defer func() { s.must(stack.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { stack.current.Load().verifier.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	s.awaitKeys(stack)
	srv := httptest.NewServer(stack.server.Handler())
	defer srv.Close()
	a := post(t, srv.URL+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice"))
	if a.status != 200 || !bytes.Contains(a.body, []byte("signedCertificateDetachedSct")) {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a := get(t, srv.URL+"/readyz"); a.status != 200 || !bytes.Contains(a.body, []byte(`"logs_disabled":true`)) {
		t.Errorf("readyz: %d %s; want it to tell that nothing is logged", a.status, a.body)
	}
	families, err := stack.registry.Gather()
	s.must(err)
	enabled := 1.0
	for _, f := range families {
		if f.GetName() == "mayfly_ca_logging_enabled" {
			enabled = f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	if enabled != 0 {
		t.Error("no metric tells that nothing is logged")
	}
}
