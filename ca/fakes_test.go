package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"sync"
	"testing"
	"time"
)

var errDown = errors.New("down")

var testTime = time.Date(2026, 11, 22, 9, 30, 15, 500_000_000, time.UTC)

// memSigner is a key in memory with faults on demand.
type memSigner struct {
	crypto.Signer
	ready  error
	sign   func(n int, digest []byte) ([]byte, error) // nil result and error: sign well
	mu     sync.Mutex
	signed int // mu guards it
}

func (s *memSigner) Ready() error { return s.ready }

func (s *memSigner) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.signed++
	n := s.signed
	s.mu.Unlock()
	if s.sign != nil {
		if sig, err := s.sign(n, digest); sig != nil || err != nil {
			return sig, err
		}
	}
	return s.Signer.Sign(rand.Reader, digest, opts)
}

func (s *memSigner) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed
}

// pki makes a root and an intermediate; mutate may spoil the intermediate.
type pki struct {
	root, intermediate *x509.Certificate
	key                *memSigner
}

func newPKI(t testing.TB, key crypto.Signer, mutate func(root, intermediate *x509.Certificate)) pki {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rootT := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corp Root", Organization: []string{"Corp"}},
		NotBefore: testTime.AddDate(-1, 0, 0), NotAfter: testTime.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1,
	}
	interT := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Corp Code Signing CA", Organization: []string{"Corp"}},
		NotBefore: testTime.AddDate(0, -1, 0), NotAfter: testTime.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if mutate != nil {
		mutate(rootT, interT)
	}
	root := signCert(t, rootT, rootT, rootKey.Public(), rootKey)
	inter := signCert(t, interT, root, key.Public(), rootKey)
	return pki{root, inter, &memSigner{Signer: key}}
}

func signCert(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
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

func (p pki) chain(t testing.TB) *Chain {
	t.Helper()
	c, err := NewChain(ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// memLog keeps the rules of a log: it takes only precertificates whose
// signature and correspondence it has checked, and never the same serial twice.
type memLog struct {
	t      testing.TB
	ready  error
	submit func(Submission) error // an error here fails the submission
	mu     sync.Mutex
	seen   map[string]Submission // mu guards it
}

func (l *memLog) Ready() error { return l.ready }

func (l *memLog) Submit(ctx context.Context, s Submission) (SCT, error) {
	if err := ctx.Err(); err != nil {
		return SCT{}, err
	}
	if l.submit != nil {
		if err := l.submit(s); err != nil {
			return SCT{}, err
		}
	}
	precert, err := x509.ParseCertificate(s.Precertificate)
	if err != nil {
		l.t.Errorf("log got a precertificate that does not parse: %v", err)
		return SCT{}, err
	}
	issuer, err := x509.ParseCertificate(s.Issuers[0])
	if err != nil {
		l.t.Errorf("log got an issuer that does not parse: %v", err)
		return SCT{}, err
	}
	if err := issuer.CheckSignature(precert.SignatureAlgorithm, precert.RawTBSCertificate, precert.Signature); err != nil {
		l.t.Errorf("log got a precertificate whose signature is wrong: %v", err)
	}
	if want := sha256.Sum256(issuer.RawSubjectPublicKeyInfo); want != s.IssuerKeyHash {
		l.t.Error("log got a wrong issuer key hash")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	serial := precert.SerialNumber.String()
	if _, dup := l.seen[serial]; dup {
		l.t.Errorf("serial %s was logged twice", serial)
	}
	if l.seen == nil {
		l.seen = map[string]Submission{}
	}
	l.seen[serial] = s
	return SCT{Log: "mem", Index: int64(len(l.seen) - 1), Timestamp: testTime, TLS: []byte("an sct of some bytes")}, nil
}

func (l *memLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

// memRecorder keeps the rules of the journal: an outcome closes exactly one
// open intent, a serial is intended once.
type memRecorder struct {
	t                    testing.TB
	ready                error
	failIntent, failDone error
	last                 time.Time
	mu                   sync.Mutex
	open                 map[uint64]Intent // mu guards what follows
	serials              map[[20]byte]bool
	next                 uint64
	outcomes             []Outcome
	refused              []*Refusal
}

func (m *memRecorder) Ready() error { return m.ready }

func (m *memRecorder) LastTime() time.Time { return m.last }

func (m *memRecorder) Intent(_ context.Context, i Intent) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failIntent != nil {
		return 0, m.failIntent
	}
	if m.open == nil {
		m.open, m.serials = map[uint64]Intent{}, map[[20]byte]bool{}
	}
	if m.serials[i.Serial] {
		m.t.Errorf("serial %x was intended twice", i.Serial)
	}
	m.serials[i.Serial] = true
	m.next++
	m.open[m.next] = i
	return m.next, nil
}

func (m *memRecorder) Outcome(ctx context.Context, o Outcome) error {
	if ctx.Err() != nil {
		m.t.Error("the outcome's context can be cancelled by the client")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.open[o.Intent]
	if !ok || i.Serial != o.Serial {
		m.t.Errorf("outcome %d closes no open intent of its serial", o.Intent)
	}
	if m.failDone != nil {
		return m.failDone
	}
	delete(m.open, o.Intent)
	m.outcomes = append(m.outcomes, o)
	return nil
}

func (m *memRecorder) Refused(_ context.Context, _ Request, _ Decision, why *Refusal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = append(m.refused, why)
	return nil
}

// bench is an authority with everything around it in memory.
type testAuthority struct {
	*Authority
	pki      pki
	log      *memLog
	recorder *memRecorder
	now      time.Time
	decision Decision
	policy   error
}

func newTestAuthority(t testing.TB, mutate func(*Config)) *testAuthority {
	t.Helper()
	a := &testAuthority{
		pki: newPKI(t, p256(t), nil), log: &memLog{t: t}, recorder: &memRecorder{t: t}, now: testTime,
	}
	san, err := EmailSAN("alice@corp.example")
	if err != nil {
		t.Fatal(err)
	}
	a.decision = Decision{Rule: "all", SAN: san}
	cfg := Config{
		Chains: []*Chain{a.pki.chain(t)}, Log: a.log, Recorder: a.recorder,
		Policy: func(context.Context, Request) (Decision, error) { return a.decision, a.policy },
		Clock:  func() time.Time { return a.now },
	}
	if mutate != nil {
		mutate(&cfg)
	}
	if a.Authority, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return a
}

// testIdentity is a verified identity whose token lives five more minutes.
func testIdentity() Identity {
	return Identity{
		IssuerName: "keycloak", Issuer: "https://kc.corp.example/realms/eng", Subject: "f:1:alice",
		Email: "Alice@corp.example", EmailVerified: true,
		Token: TokenFacts{Expires: testTime.Add(5 * time.Minute), UsableUntil: testTime.Add(5*time.Minute + 30*time.Second)},
	}
}

func testRequest(t testing.TB, key crypto.Signer) Request {
	t.Helper()
	return Request{
		Identity: testIdentity(), Key: prove(t, key, testIdentity()), Time: testTime, ID: "req-1",
		Source: netip.MustParseAddr("192.0.2.7"), API: "rest-v2",
	}
}

func prove(t testing.TB, key crypto.Signer, id Identity) ProvenKey {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var sig []byte
	digest := sha256.Sum256([]byte(id.Subject))
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		sig, err = ecdsa.SignASN1(rand.Reader, k, digest[:])
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
	default:
		sig, err = key.Sign(rand.Reader, []byte(id.Subject), crypto.Hash(0))
	}
	if err != nil {
		t.Fatal(err)
	}
	proven, err := ProveSignature(spki, sig, id)
	if err != nil {
		t.Fatal(err)
	}
	return proven
}

func wantRefusal(t testing.TB, err error, kind Kind, reason Reason) {
	t.Helper()
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.Kind != kind || r.Reason != reason {
		t.Fatalf("got error %v, want a refusal of kind %d with reason %q", err, kind, reason)
	}
}
