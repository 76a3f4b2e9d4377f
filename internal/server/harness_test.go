package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// secret stands for what a backend's error may say and no client may read.
const secret = "dial tcp 10.1.2.3:8443 as svc-mayfly"

// memSigner is a CA key in memory.
type memSigner struct{ *ecdsa.PrivateKey }

func (s memSigner) Public() crypto.PublicKey { return s.PrivateKey.Public() }
func (s memSigner) Ready() error             { return nil }
func (s memSigner) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(rand.Reader, digest, opts)
}

// memRecorder numbers intents.
type memRecorder struct {
	mu sync.Mutex // guards n
	n  uint64
}

func (r *memRecorder) Intent(context.Context, ca.Intent) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return r.n, nil
}
func (r *memRecorder) Outcome(context.Context, ca.Outcome) error { return nil }
func (r *memRecorder) Ready() error                              { return nil }
func (r *memRecorder) LastTime() time.Time                       { return time.Time{} }
func (r *memRecorder) Refused(context.Context, ca.Request, ca.Decision, *ca.Refusal) error {
	return nil
}

// memLog gives SCTs that are well formed; who embeds them does not verify.
type memLog struct{}

func (memLog) Ready() error { return nil }
func (memLog) Submit(context.Context, ca.Submission) (ca.SCT, error) {
	id := sha256.Sum256([]byte("log"))
	raw := append([]byte{0}, id[:]...)                    // version 1, log id
	raw = append(raw, 0, 0, 1, 0x93, 0, 0, 0, 0)          // timestamp
	raw = append(raw, 0, 0, 4, 3, 0, 4, 0xde, 0xad, 0, 0) // no extensions, ECDSA with SHA-256
	return ca.SCT{Log: "log", LogID: id, Timestamp: time.Now(), Index: -1, TLS: raw}, nil
}

// pki is an organization's root and the issuing CA below it.
type pki struct {
	chain                *ca.Chain
	root, intermediate   string // PEM with a final newline
	intermediateX, rootX *x509.Certificate
}

func makeCert(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encodeCert(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func newPKI(t testing.TB, now time.Time) pki {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	rootTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corp Root"},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1,
	}
	root := makeCert(t, rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	inter := makeCert(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Corp Signing CA"},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}, root, key.Public(), rootKey)
	chain, err := ca.NewChain(ca.ChainConfig{Name: "corp", Certificates: []*x509.Certificate{inter, root}, Signer: memSigner{key}}, now)
	if err != nil {
		t.Fatal(err)
	}
	return pki{chain: chain, root: encodeCert(root), intermediate: encodeCert(inter), rootX: root, intermediateX: inter}
}

// identities are the tokens that verify; a token's text is its name here.
func identityOf(token string, now time.Time) (ca.Identity, bool) {
	id := ca.Identity{IssuerName: "corp", Issuer: "https://idp.corp.example", Subject: "subject of " + token,
		Claims: map[string]any{"name": token},
		Token:  ca.TokenFacts{Expires: now.Add(time.Hour), UsableUntil: now.Add(time.Hour)}}
	name, _, _ := strings.Cut(token, ":")
	switch name {
	case "alice", "bob", "issue":
		id.Email, id.EmailVerified = "alice@corp.example", true
		if name == "bob" {
			id.Email = "bob@corp.example"
		}
		return id, true
	case "block", "hold", "linger", "panic-in-issue":
		id.Email, id.EmailVerified = "alice@corp.example", true
		return id, true
	}
	return ca.Identity{}, false
}

// fakeCA is a snapshot around a real authority. Tokens of the form
// "verify:reason" and "issue:reason" are refused there, "panic-in-verify" and
// "panic-in-issue" panic, "block" waits until its context ends, "hold" until gate
// says so, and "linger" for both. They tell gate that they have begun.
func fakeCA(t testing.TB, p pki, clock func() time.Time, logged bool, g *gate) *Snapshot {
	t.Helper()
	cfg := ca.Config{Chains: []*ca.Chain{p.chain}, Recorder: new(memRecorder), Clock: clock, WithoutLog: !logged,
		Policy: func(_ context.Context, r ca.Request) (ca.Decision, error) {
			san, err := ca.EmailSAN(r.Identity.Email)
			return ca.Decision{Rule: "all", SAN: san}, err
		}}
	if logged {
		cfg.Log = memLog{}
	}
	authority, err := ca.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &Snapshot{
		Verify: func(_ context.Context, token string) (ca.Identity, error) {
			if reason, ok := strings.CutPrefix(token, "verify:"); ok {
				return ca.Identity{}, fakeRefusal(reason)
			}
			if token == "panic-in-verify" {
				panic("verify: " + secret)
			}
			id, ok := identityOf(token, clock())
			if !ok {
				return ca.Identity{}, fakeRefusal(string(ca.ReasonTokenMalformed))
			}
			return id, nil
		},
		Issue:         fakeIssue(authority, g),
		Refuse:        authority.Refuse,
		Chains:        func() [][]string { return [][]string{{p.intermediate, p.root}} },
		TrustedRoot:   func() []byte { return []byte(`{"mediaType":"trusted root"}`) },
		SigningConfig: func() []byte { return []byte(`{"mediaType":"signing config"}`) },
		Issuers: []Issuer{
			{URL: "https://idp.corp.example", Audience: "sigstore", Type: "email", ChallengeClaim: "email"},
			{URL: "https://ci.corp.example", Audience: "ci", Type: "uri", ChallengeClaim: "sub", SubjectDomain: "https://ci.corp.example"},
		},
		ConfigDigest: sha256.Sum256([]byte("configuration")),
	}
}

func fakeRefusal(reason string) error {
	return ca.Refuse(ca.KindInternal, ca.Reason(reason), "told by %s", secret)
}

func fakeIssue(authority *ca.Authority, g *gate) func(context.Context, ca.Request) (ca.Certificate, error) {
	return func(ctx context.Context, r ca.Request) (ca.Certificate, error) {
		token, _ := r.Identity.Claims["name"].(string)
		if reason, ok := strings.CutPrefix(token, "issue:"); ok {
			return ca.Certificate{}, fakeRefusal(reason)
		}
		switch token {
		case "panic-in-issue":
			panic("issue: " + secret)
		case "block":
			g.entered <- token
			<-ctx.Done()
			g.left <- token
			return ca.Certificate{}, ctx.Err()
		case "hold":
			g.entered <- token
			<-g.release
		case "linger":
			g.entered <- token
			<-ctx.Done()
			g.left <- token
			<-g.release
			return ca.Certificate{}, ctx.Err()
		}
		return authority.Issue(ctx, r)
	}
}

// gate lets a test know and decide when an issuance goes on.
type gate struct {
	entered, left chan string
	release       chan struct{}
}

// tick is a clock that stands until it is moved.
type tick struct {
	mu sync.Mutex // guards t
	t  time.Time
}

func newTick() *tick { return &tick{t: time.Now().Round(0)} }

func (c *tick) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *tick) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// syncBuffer collects log lines.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (w *syncBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *syncBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// stack is a server on a loopback port with a CA behind it and clients before.
type stack struct {
	*Server
	*gate
	pki      pki
	key      *ecdsa.PrivateKey // the client's
	clock    *tick
	log      *syncBuffer
	registry *prometheus.Registry
	address  string
	roots    *x509.CertPool
	certFile string
	keyFile  string
	clients  map[bool]*http.Client // by whether they speak HTTP/2
	conn     *grpc.ClientConn
	// stop begins the shutdown, and done tells its result.
	stop context.CancelFunc
	done chan error

	mu      sync.Mutex // guards counted
	counted []ca.Reason
}

func (s *stack) count(r ca.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted = append(s.counted, r)
}

func (s *stack) taken() []ca.Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.counted
	s.counted = nil
	return out
}

// options changes what start starts.
type options struct {
	unlogged bool
	config   func(*Config)
	listen   func(*ListenConfig)
}

func start(t testing.TB, o options) *stack {
	t.Helper()
	clock := newTick()
	s := &stack{gate: &gate{make(chan string, 16), make(chan string, 16), make(chan struct{})}, clock: clock, pki: newPKI(t, clock.now()), key: newKey(t), log: new(syncBuffer), registry: prometheus.NewRegistry(),
		roots: x509.NewCertPool(), clients: make(map[bool]*http.Client), done: make(chan error, 1)}
	snapshot := fakeCA(t, s.pki, clock.now, !o.unlogged, s.gate)
	cfg := Config{
		Snapshot:     func() *Snapshot { return snapshot },
		Clock:        clock.now,
		Logger:       slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Registerer:   s.registry,
		CountRefusal: s.count,
	}
	if o.config != nil {
		o.config(&cfg)
	}
	var err error
	if s.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s.certFile, s.keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	s.roots.AddCert(writeTLS(t, dir, "first"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = ln.Addr().String()
	listen := ListenConfig{Listener: ln, CertificateFile: s.certFile, KeyFile: s.keyFile}
	if o.listen != nil {
		o.listen(&listen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = cancel
	go func() { s.done <- s.Serve(ctx, listen) }()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

// wait begins the shutdown and returns its result.
func (s *stack) wait() error {
	s.stop()
	err := <-s.done
	s.done <- err // for the cleanup
	return err
}

// writeTLS puts a new self-signed certificate and its key into a directory.
func writeTLS(t testing.TB, dir, name string) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	cert := makeCert(t, template, template, key.Public(), key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "tls.crt"), []byte(encodeCert(cert)))
	writeFile(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return cert
}

func writeFile(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// client returns an HTTP client that speaks one version of HTTP.
func (s *stack) client(t testing.TB, http2 bool) *http.Client {
	t.Helper()
	if c := s.clients[http2]; c != nil {
		return c
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	s.clients[http2] = &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s.clients[http2]
}

// dial returns a gRPC connection to the same port.
func (s *stack) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	if s.conn != nil {
		return s.conn
	}
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: s.roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.conn = conn
	return conn
}

// sign makes the client's proof of possession.
func (s *stack) sign(t testing.TB, message string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(message))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (s *stack) spki(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// post sends a body to a path and returns the whole response.
func (s *stack) post(t testing.TB, path, bearer, body string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	return s.do(t, s.client(t, false), req)
}

func (s *stack) do(t testing.TB, c *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return resp, body
}

func (s *stack) get(t testing.TB, path string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, s.client(t, false), req)
}

// request is a good request of alice's, without her token.
func (s *stack) request(t testing.TB) *fulciov2.CreateSigningCertificateRequest {
	t.Helper()
	return &fulciov2.CreateSigningCertificateRequest{Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{
		PublicKeyRequest: &fulciov2.PublicKeyRequest{
			PublicKey:         &fulciov2.PublicKey{Content: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: s.spki(t)}))},
			ProofOfPossession: s.sign(t, "alice@corp.example"),
		}}}
}

// body is the same in JSON.
func (s *stack) body(t testing.TB) string {
	t.Helper()
	b, err := protojson.Marshal(s.request(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
