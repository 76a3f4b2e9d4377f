package ctlog_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// fakeLog signs as a log does, with certificate-transparency-go's encoder and
// the standard library, so that nothing under test judges itself.
type fakeLog struct {
	key  crypto.Signer
	spki []byte
}

func newFakeLog(t testing.TB) *fakeLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return fakeLogWith(t, key)
}

func fakeLogWith(t testing.TB, key crypto.Signer) *fakeLog {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &fakeLog{key: key, spki: spki}
}

func (l *fakeLog) sign(t testing.TB, s ctlog.Submission, at time.Time, extensions []byte) ctlog.SCT {
	t.Helper()
	input, err := ct.SerializeSCTSignatureInput(ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, Timestamp: uint64(at.UnixMilli()), Extensions: extensions,
	}, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{
		EntryType:    ct.PrecertLogEntryType,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: s.IssuerKeyHash, TBSCertificate: s.TBS},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := cttls.Marshal(l.signInput(t, input))
	if err != nil {
		t.Fatal(err)
	}
	index := int64(-1)
	if len(extensions) == 8 {
		index = 0
		for _, b := range extensions[3:] {
			index = index<<8 | int64(b)
		}
	}
	return ctlog.SCT{
		LogID: sha256.Sum256(l.spki), Timestamp: time.UnixMilli(at.UnixMilli()),
		Index: index, Extensions: extensions, Signature: signed,
	}
}

func (l *fakeLog) signInput(t testing.TB, input []byte) cttls.DigitallySigned {
	t.Helper()
	digest := sha256.Sum256(input)
	signature, err := l.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	kind := cttls.ECDSA
	if _, ok := l.key.(*rsa.PrivateKey); ok {
		kind = cttls.RSA
	}
	return cttls.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: kind},
		Signature: signature,
	}
}

var leafIndex7 = []byte{0, 0, 5, 0, 0, 0, 0, 7}

func TestVerifySCTAcceptsWhatLogsSign(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := testca.New(t).Precertificate(t)
	now := time.Now()
	for name, l := range map[string]*fakeLog{"P-256": newFakeLog(t), "RSA-2048": fakeLogWith(t, rsaKey)} {
		key, err := ctlog.ParseKey(l.spki)
		if err != nil {
			t.Fatalf("%s: ParseKey: %v", name, err)
		}
		for _, extensions := range [][]byte{nil, leafIndex7} {
			sct := l.sign(t, s, now, extensions)
			if err := key.VerifySCT(s, sct, now); err != nil {
				t.Errorf("%s, extensions %x: %v", name, extensions, err)
			}
		}
	}
}

func TestVerifySCTRefuses(t *testing.T) {
	ca := testca.New(t)
	s, foreign := ca.Precertificate(t), ca.Precertificate(t)
	l, other := newFakeLog(t), newFakeLog(t)
	key, err := ctlog.ParseKey(l.spki)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := l.sign(t, s, now, leafIndex7)
	with := func(change func(*ctlog.SCT)) ctlog.SCT {
		sct := good
		sct.Extensions, sct.Signature = bytes.Clone(good.Extensions), bytes.Clone(good.Signature)
		change(&sct)
		return sct
	}
	stolen := other.sign(t, s, now, leafIndex7)
	stolen.LogID = good.LogID
	for name, sct := range map[string]ctlog.SCT{
		"an unknown extension":  l.sign(t, s, now, []byte{7, 0, 1, 0xff}),
		"one more extension":    l.sign(t, s, now, append([]byte{7, 0, 0}, leafIndex7...)),
		"another log":           other.sign(t, s, now, leafIndex7),
		"another key":           stolen,
		"another id":            with(func(s *ctlog.SCT) { s.LogID[0] ^= 1 }),
		"a foreign leaf":        l.sign(t, foreign, now, leafIndex7),
		"the future":            l.sign(t, s, now.Add(time.Minute+time.Second), leafIndex7),
		"the past":              l.sign(t, s, now.Add(-10*time.Minute-time.Second), leafIndex7),
		"another timestamp":     with(func(s *ctlog.SCT) { s.Timestamp = s.Timestamp.Add(time.Millisecond) }),
		"another index":         with(func(s *ctlog.SCT) { s.Index, s.Extensions[7] = 8, 8 }),
		"an index of its own":   with(func(s *ctlog.SCT) { s.Index = 8 }),
		"no extensions":         with(func(s *ctlog.SCT) { s.Index, s.Extensions = -1, nil }),
		"malformed extensions":  with(func(s *ctlog.SCT) { s.Extensions = []byte{0} }),
		"SHA-384 in the header": with(func(s *ctlog.SCT) { s.Signature[0] = 5 }),
		"RSA in the header":     with(func(s *ctlog.SCT) { s.Signature[1] = 1 }),
		"garbage behind":        with(func(s *ctlog.SCT) { s.Signature = append(s.Signature, 0) }),
		"garbage in the ECDSA":  with(func(s *ctlog.SCT) { s.Signature = append(s.Signature, 0); s.Signature[3]++ }),
		"garbage inside ECDSA": with(func(s *ctlog.SCT) {
			// One more INTEGER in the SEQUENCE of r and s.
			s.Signature = append(s.Signature, 2, 1, 1)
			s.Signature[3] += 3
			s.Signature[5] += 3
		}),
		"no signature":            with(func(s *ctlog.SCT) { s.Signature = nil }),
		"a zero value":            {},
		"a signature of SHA-512":  sha512SCT(t, l, s, now),
		"one flipped bit (sig)":   with(func(s *ctlog.SCT) { s.Signature[len(s.Signature)-1] ^= 1 }),
		"an unknown hash":         with(func(s *ctlog.SCT) { s.Signature[0] = 99 }),
		"an unknown sig":          with(func(s *ctlog.SCT) { s.Signature[1] = 99 }),
		"a year before the epoch": with(func(s *ctlog.SCT) { s.Timestamp = time.Unix(-1, 0) }),
	} {
		if err := key.VerifySCT(s, sct, now); !errors.Is(err, ctlog.ErrBadSCT) {
			t.Errorf("%s: got %v, want ErrBadSCT", name, err)
		}
	}
	changed := s
	changed.IssuerKeyHash[0] ^= 1
	if err := key.VerifySCT(changed, good, now); !errors.Is(err, ctlog.ErrBadSCT) {
		t.Errorf("another issuer: got %v, want ErrBadSCT", err)
	}
}

// sha512SCT is valid in itself, which the library underneath would accept.
func sha512SCT(t testing.TB, l *fakeLog, s ctlog.Submission, at time.Time) ctlog.SCT {
	t.Helper()
	sct := l.sign(t, s, at, nil)
	input, err := ct.SerializeSCTSignatureInput(ct.SignedCertificateTimestamp{Timestamp: uint64(at.UnixMilli())},
		ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{
			EntryType:    ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: s.IssuerKeyHash, TBSCertificate: s.TBS},
		}}})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum512(input)
	signature, err := l.key.Sign(rand.Reader, digest[:], crypto.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	sct.Signature, err = cttls.Marshal(cttls.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA512, Signature: cttls.ECDSA}, Signature: signature,
	})
	if err != nil {
		t.Fatal(err)
	}
	return sct
}

func TestParseKeyRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := newFakeLog(t).spki
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: good})
	if k, err := ctlog.ParseKey(block); err != nil || k.ID() != sha256.Sum256(good) {
		t.Fatalf("ParseKey(%s): %v", block, err)
	}
	for name, in := range map[string][]byte{
		"nothing":          nil,
		"junk":             []byte("junk"),
		"P-384":            fakeLogWith(t, p384).spki,
		"trailing byte":    append(bytes.Clone(good), 0),
		"two keys":         append(bytes.Clone(block), block...),
		"a private key":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: good}),
		"PEM without end":  []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n"),
		"a raw P-256 only": good[26:],
	} {
		if _, err := ctlog.ParseKey(in); err == nil {
			t.Errorf("%s: ParseKey(%x) succeeded", name, in)
		}
	}
}

func TestCheckHoldsTheSubmissionTogether(t *testing.T) {
	ca, otherCA := testca.New(t), testca.New(t)
	s, other := ca.Precertificate(t), ca.Precertificate(t)
	if err := s.Check(); err != nil {
		t.Fatalf("Check: %v", err)
	}
	foreign := otherCA.Precertificate(t)
	for name, change := range map[string]func(*ctlog.Submission){
		"another's TBS":            func(s *ctlog.Submission) { s.TBS = other.TBS },
		"no TBS":                   func(s *ctlog.Submission) { s.TBS = nil },
		"a certificate, no poison": func(s *ctlog.Submission) { s.Precertificate = s.Issuers[0] },
		"another issuer":           func(s *ctlog.Submission) { s.Issuers = foreign.Issuers },
		"another key hash":         func(s *ctlog.Submission) { s.IssuerKeyHash[31] ^= 1 },
		"no issuers":               func(s *ctlog.Submission) { s.Issuers = nil },
		"eleven issuers":           func(s *ctlog.Submission) { s.Issuers = make([][]byte, 11) },
		"a trailing byte":          func(s *ctlog.Submission) { s.Precertificate = append(bytes.Clone(s.Precertificate), 0) },
		"65 KiB":                   func(s *ctlog.Submission) { s.Precertificate = make([]byte, 65<<10) },
		"junk for an issuer":       func(s *ctlog.Submission) { s.Issuers = [][]byte{{1}} },
	} {
		changed := s
		change(&changed)
		if err := changed.Check(); !errors.Is(err, ctlog.ErrRejected) {
			t.Errorf("%s: Check() = %v, want ErrRejected", name, err)
		}
	}
}

// A key that is verified by another function still demands the rest, and believes
// that function.
func TestVerifiedByReplacesTheArithmeticAlone(t *testing.T) {
	ca := testca.New(t)
	s, foreign, l, now := ca.Precertificate(t), ca.Precertificate(t), newFakeLog(t), time.Now()
	key, err := ctlog.ParseKey(l.spki)
	if err != nil {
		t.Fatal(err)
	}
	public := l.key.Public().(*ecdsa.PublicKey)
	same := key.VerifiedBy(func(digest, signature []byte) bool { return ecdsa.VerifyASN1(public, digest, signature) })
	never := key.VerifiedBy(func(_, _ []byte) bool { return false })
	always := key.VerifiedBy(func(_, _ []byte) bool { return true })
	good := l.sign(t, s, now, leafIndex7)
	if err := same.VerifySCT(s, good, now); err != nil {
		t.Errorf("a good SCT: %v", err)
	}
	if err := same.VerifySCT(foreign, good, now); err == nil {
		t.Error("the SCT of another submission was accepted")
	}
	if err := never.VerifySCT(s, good, now); err == nil {
		t.Error("an SCT was accepted against the verdict of the function")
	}
	if err := always.VerifySCT(s, good, now.Add(time.Hour)); err == nil {
		t.Error("an old SCT was accepted")
	}
	if key.VerifySCT(s, good, now) != nil {
		t.Error("the key itself was changed")
	}
}
