package embedded

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// Add is for the RFC 6962 listener, which takes certificates too.
func TestCertificatesAreLoggedBesidePrecertificates(t *testing.T) {
	ca := testca.New(t)
	dir, info := initLog(t)
	l := openLog(t, testConfig(t, dir))
	s := ca.Precertificate(t)
	submit(t, l, s)
	sct, err := l.Add(t.Context(), Entry{Certificate: s.Issuers[0], Issuers: s.Issuers[1:]})
	if err != nil || sct.Index != 1 {
		t.Fatalf("Add: %+v, %v; want index 1", sct, err)
	}
	submit(t, l, s)
	closeLog(t, l)
	checkWithFsck(t, dir)
	fill(t, testConfig(t, dir), ca, 1) // reads the certificate back

	public, err := x509.ParsePKIXPublicKey(info.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := ct.NewSignatureVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sct.MarshalTLS()
	if err != nil {
		t.Fatal(err)
	}
	var parsed ct.SignedCertificateTimestamp
	if _, err := cttls.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain([]ct.ASN1Cert{{Data: s.Issuers[0]}}, ct.X509LogEntryType, parsed.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	leaf.TimestampedEntry.Extensions = parsed.Extensions
	if err := verifier.VerifySCTSignature(parsed, ct.LogEntry{Leaf: *leaf}); err != nil {
		t.Errorf("the SCT of a certificate: %v", err)
	}
}

func TestAddRefusesWhatNoReaderTakes(t *testing.T) {
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	large := make([]byte, maxCertificate+1)
	for name, e := range map[string]Entry{
		"nothing":                 {},
		"a large certificate":     {Certificate: large},
		"a large precertificate":  {Certificate: []byte{1}, Precertificate: large},
		"a large issuer":          {Certificate: []byte{1}, Issuers: [][]byte{large}},
		"an empty issuer":         {Certificate: []byte{1}, Issuers: [][]byte{{}}},
		"a precertificate of nil": {Certificate: []byte{1}, Precertificate: []byte{}},
		"a long chain":            {Certificate: []byte{1}, Issuers: slicesOf(maxIssuers+1, []byte{1})},
	} {
		if sct, err := l.Add(t.Context(), e); !errors.Is(err, ctlog.ErrRejected) {
			t.Errorf("%s: %+v, %v; want ErrRejected", name, sct, err)
		}
	}
	// The largest there is, often enough for more than a group.
	e := Entry{
		Certificate: large[:maxCertificate], Precertificate: large[:maxCertificate], Issuers: slicesOf(maxIssuers, []byte{1}),
	}
	results := make(chan error, 40)
	for range cap(results) {
		go func() {
			_, err := l.Add(t.Context(), e)
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Errorf("the largest entry: %v", err)
		}
	}
	closeLog(t, l)
	closeLog(t, openLog(t, testConfig(t, dir)))
	checkWithFsck(t, dir)
}

func slicesOf(n int, b []byte) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = b
	}
	return out
}

// tokenKey is a key that is not a file. It can lie.
type tokenKey struct {
	*ecdsa.PrivateKey
	err, lies bool
}

func (k *tokenKey) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.err {
		return nil, errors.New("token removed")
	}
	if k.lies {
		digest = bytes.Repeat([]byte{7}, len(digest))
	}
	return k.PrivateKey.Sign(rand.Reader, digest, opts)
}

func newTokenKey(t testing.TB, curve elliptic.Curve) *tokenKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tokenKey{PrivateKey: key}
}

func TestTheKeyMayLieElsewhere(t *testing.T) {
	ca := testca.New(t)
	key := newTokenKey(t, elliptic.P256())
	dir := filepath.Join(t.TempDir(), "log")
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin, Key: key}); err != nil {
		t.Fatalf("Init: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, keyFile)); err == nil {
		t.Error("Init wrote a key file all the same")
	}
	c := testConfig(t, dir)
	refused(t, c, "the log's key is gone")
	c.Key = newTokenKey(t, elliptic.P256())
	refused(t, c, "is the key of log")
	c.Key = newTokenKey(t, elliptic.P384())
	refused(t, c, "not ECDSA P-256")
	c.Key = key
	l := openLog(t, c)
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	closeLog(t, l)

	// What a broken token signs goes nowhere.
	l = openLog(t, c)
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	closeLog(t, l)
	for _, fault := range []func(){func() { key.err = true }, func() { key.err, key.lies = false, true }} {
		key.err, key.lies = false, false
		l = openLog(t, c)
		closeLog(t, l)
		fault()
		if err := l.publisher.issue(t.Context(), l.publisher.last); err == nil {
			t.Error("a checkpoint with a signature that does not verify was issued")
		}
		if sct, err := l.sign(t.Context(), outcome{signed: []byte("an entry")}, l.checkSignature); !errors.Is(err, ctlog.ErrUnavailable) {
			t.Errorf("sign: %+v, %v; want ErrUnavailable", sct, err)
		}
	}
	key.lies = false
	closeLog(t, openLog(t, c))
	if _, err := Init(t.Context(), InitConfig{Dir: filepath.Join(t.TempDir(), "log"), Origin: testOrigin,
		Key: newTokenKey(t, elliptic.P384())}); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("Init with a P-384 key: %v, want a refusal", err)
	}
}

// Nothing is global: shards are open side by side.
func TestSeveralLogsAreOpenAtOnce(t *testing.T) {
	ca := testca.New(t)
	var logs []*Log
	for range 3 {
		dir, _ := initLog(t)
		logs = append(logs, openLog(t, testConfig(t, dir)))
	}
	for i := range 12 {
		l := logs[i%3]
		if sct := submit(t, l, ca.Precertificate(t)); sct.Index != int64(i/3) || sct.LogID != l.ID() {
			t.Errorf("entry %d: %+v, want index %d of its log", i, sct, i/3)
		}
	}
	for _, l := range logs {
		closeLog(t, l)
		checkWithFsck(t, l.config.Dir)
	}
}
