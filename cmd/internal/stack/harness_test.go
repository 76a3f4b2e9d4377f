package stack

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// site is an organization that runs Mayfly: a PKI, an OpenID provider, a state
// directory and a configuration file.
type site struct {
	t        testing.TB
	dir      string
	root     *x509.Certificate
	issuer   *httptest.Server
	requests atomic.Int64 // at the provider
	signer   jose.Signer
	public   crypto.PublicKey // of signer
}

func newSite(t testing.TB) *site {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return newSiteOf(t, jose.RS256, key)
}

// newSiteOf is a site whose provider signs with key.
func newSiteOf(t testing.TB, alg jose.SignatureAlgorithm, key crypto.Signer) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), public: key.Public()}
	s.makePKI("Corp", x509.ExtKeyUsageCodeSigning)
	var err error
	s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	s.must(err)
	mux := http.NewServeMux()
	s.issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.issuer.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		s.json(w, map[string]any{"issuer": s.issuer.URL, "jwks_uri": s.issuer.URL + "/keys", "id_token_signing_alg_values_supported": []string{string(alg)}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		s.json(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: string(alg), Use: "sig"}}})
	})
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.t.Error(err)
	}
}

// makePKI writes chain.pem and ca.key: a root and an intermediate below it.
func (s *site) makePKI(organization string, usage x509.ExtKeyUsage) {
	s.t.Helper()
	s.makePKIOf(organization, usage, newKey(s.t))
}

// makePKIOf is makePKI with the intermediate's key.
func (s *site) makePKIOf(organization string, usage x509.ExtKeyUsage, issuingKey crypto.Signer) {
	s.t.Helper()
	rootKey := newKey(s.t)
	now := time.Now()
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{organization}, CommonName: name},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	issue := func(c, parent *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, rootKey)
		s.must(err)
		cert, err := x509.ParseCertificate(der)
		s.must(err)
		return cert
	}
	rootTemplate := template(1, "Root CA")
	s.root = issue(rootTemplate, rootTemplate, rootKey.Public())
	intermediate := template(2, "Code Signing CA")
	intermediate.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	intermediate = issue(intermediate, s.root, issuingKey.Public())
	der, err := x509.MarshalPKCS8PrivateKey(issuingKey)
	s.must(err)
	s.write("ca.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	s.write("chain.pem", append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: intermediate.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.root.Raw})...))
}

// socket is where the service listens for administrators.
func (s *site) socket() string { return filepath.Join(s.dir, "state", "admin.sock") }

func (s *site) write(name string, data []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.must(os.MkdirAll(filepath.Dir(path), 0o700))
	s.must(os.WriteFile(path, data, 0o600))
	return path
}

func (s *site) read(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	s.must(err)
	return data
}

const embeddedLogs = "  - {name: local, embedded: {}}"

// configure writes the configuration for a service at address and loads it.
func (s *site) configure(address, logs string) *config.File {
	s.t.Helper()
	if logs == "" {
		logs = embeddedLogs
	}
	path := s.write("mayfly.yaml", fmt.Appendf(nil, `
listen: {address: %q, plaintext: true}
public_url: http://%s
state: state
limits: {per_identity: 100000/min, per_address: 100000/min}
shutdown: 5s
issuers:
  - name: people
    url: %s
    insecure_http: true
    audiences: [sigstore]
    allow: all
    san: email
    may_issue: {email_domains: [corp.example]}
chains:
  - name: corp
    certificates: chain.pem
    key: {file: ca.key}
logs:
%s
`, address, address, s.issuer.URL, logs))
	f, err := config.Load(path, nil)
	s.must(err)
	return f
}

func (s *site) initLog() {
	s.t.Helper()
	dir := LogDir(filepath.Join(s.dir, "state"), "local")
	s.must(os.MkdirAll(filepath.Dir(dir), 0o700))
	_, err := embedded.Init(s.t.Context(), embedded.InitConfig{Dir: dir, Origin: "ca.corp.example/log/local"})
	s.must(err)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// token is a good ID token; change may spoil its claims.
func (s *site) token(change func(map[string]any)) string {
	s.t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": s.issuer.URL, "aud": "sigstore", "sub": "alice", "email": "alice@corp.example", "email_verified": true,
		"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	if change != nil {
		change(claims)
	}
	payload, err := json.Marshal(claims)
	s.must(err)
	jws, err := s.signer.Sign(payload)
	s.must(err)
	token, err := jws.CompactSerialize()
	s.must(err)
	return token
}

// running is a service that answers at url until the test ends or stop is called.
type running struct {
	*Stack
	url  string
	stop func() error
}

// run opens and runs the service, and waits until it is ready.
func (s *site) run(logs string) *running {
	s.t.Helper()
	ln, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	s.must(err)
	stack, err := Open(s.t.Context(), s.configure(ln.Addr().String(), logs), Options{Listener: ln})
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- stack.Run(ctx) }()
	r := &running{Stack: stack, url: "http://" + ln.Addr().String()}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	s.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			s.t.Errorf("stopping the service: %v", err)
		}
	})
	s.awaitKeys(stack)
	return r
}

// awaitKeys waits until the provider's keys are there.
func (s *site) awaitKeys(stack *Stack) {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !stack.current.Load().verifier.Ready()[0].Ready {
		select {
		case <-deadline:
			s.t.Fatalf("not ready: %v", stack.Ready())
		case <-tick.C:
		}
	}
}

// body is a v2 request for the key, proven over the message.
func body(t testing.TB, key *ecdsa.PrivateKey, message string) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(message))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]string{"algorithm": "ECDSA", "content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))},
		"proofOfPossession": proof,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// answer is an HTTP answer read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func post(t testing.TB, url, token string, data []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return send(t, req)
}

func get(t testing.TB, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, req)
}

func send(t testing.TB, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}
