// Package hsmtest holds every kind of [hsm.Key] to the same promises: a key in
// a file and a key in a token must be interchangeable, refusals included.
package hsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/hsm"
)

// Kind is a kind of key that a stack of keys may have.
type Kind string

// The kinds of key that an authority may have; see [hsm.CheckPublic].
const (
	P256    Kind = "P256"
	P384    Kind = "P384"
	RSA2048 Kind = "RSA2048"
	RSA3072 Kind = "RSA3072"
	RSA4096 Kind = "RSA4096"
)

// Kinds returns all of them.
func Kinds() []Kind { return []Kind{P256, P384, RSA2048, RSA3072, RSA4096} }

// Capabilities says what a stack cannot do. What it lacks is asserted to be
// refused: neither skipped, nor done in another way than was asked.
type Capabilities struct {
	// LacksKinds are those that NewKey must return an error for.
	LacksKinds []Kind
	// LacksPSS says that RSA keys make no RSA-PSS signatures.
	LacksPSS bool
}

// Stack is a token, or another place that has keys of several kinds.
type Stack struct {
	// NewKey returns an open key of a kind, each time anew; the keys may be one
	// and the same in the token.
	NewKey func(testing.TB, Kind) (hsm.Key, error)
	Capabilities
}

// RunStack runs the suite for each kind of key that a stack has.
func RunStack(t *testing.T, s Stack) {
	t.Helper()
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			if slices.Contains(s.LacksKinds, kind) {
				if k, err := s.NewKey(t, kind); err == nil {
					t.Errorf("a stack that lacks %s has a key with %T, want a refusal", kind, k.Public())
				}
				return
			}
			run(t, s.Capabilities, func(tb testing.TB) hsm.Key {
				tb.Helper()
				k, err := s.NewKey(tb, kind)
				if err != nil {
					tb.Fatalf("no key of kind %s: %v", kind, err)
				}
				if got := kindOf(k.Public()); got != kind {
					tb.Errorf("asked for a key of kind %s, got %s", kind, got)
				}
				return k
			})
		})
	}
}

func kindOf(pub crypto.PublicKey) Kind {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return Kind(fmt.Sprintf("P%d", pub.Params().BitSize))
	case *rsa.PublicKey:
		return Kind(fmt.Sprintf("RSA%d", pub.N.BitLen()))
	default:
		return Kind(fmt.Sprintf("%T", pub))
	}
}

// Run runs the suite for one key that lacks nothing. newKey returns a fresh, open
// key each time; the keys may be one and the same in the token. Run closes what
// it opens.
func Run(t *testing.T, newKey func(testing.TB) hsm.Key) {
	t.Helper()
	run(t, Capabilities{}, newKey)
}

func run(t *testing.T, lacks Capabilities, newKey func(testing.TB) hsm.Key) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, hsm.Key)
	}{
		{"SignaturesVerify", signaturesVerify},
		{"PSS", func(t *testing.T, k hsm.Key) { pss(t, k, lacks.LacksPSS) }},
		{"PublicIsStable", publicIsStable},
		{"ConcurrentSignaturesVerify", concurrentSignaturesVerify},
		{"CancelledContextRefuses", cancelledContextRefuses},
		{"BadDigestRefuses", badDigestRefuses},
		{"ClosedKeyRefuses", closedKeyRefuses},
		{"SignerMakesCertificates", signerMakesCertificates},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKey(t)
			t.Cleanup(func() {
				if err := k.Close(); err != nil {
					t.Errorf("Close() = %v, want nil", err)
				}
			})
			if err := k.Ready(); err != nil {
				t.Fatalf("Ready() of a fresh key = %v, want nil", err)
			}
			c.test(t, k)
		})
	}
}

var hashes = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}

func digestOf(h crypto.Hash, text string) []byte {
	w := h.New()
	w.Write([]byte(text))
	return w.Sum(nil)
}

func verify(pub crypto.PublicKey, h crypto.Hash, digest, sig []byte) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest, sig) {
			return errors.New("ECDSA signature does not verify")
		}
		return nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, h, digest, sig)
	default:
		return fmt.Errorf("public key is a %T, want *ecdsa.PublicKey or *rsa.PublicKey", pub)
	}
}

func signaturesVerify(t *testing.T, k hsm.Key) {
	for _, h := range hashes {
		digest := digestOf(h, "a message")
		given := bytes.Clone(digest)
		sig, err := k.Sign(t.Context(), given, h)
		if err != nil {
			t.Errorf("Sign with %v: %v", h, err)
			continue
		}
		if !bytes.Equal(given, digest) {
			t.Errorf("Sign with %v changed the digest it was given to %x, want %x", h, given, digest)
		}
		if err := verify(k.Public(), h, digest, sig); err != nil {
			t.Errorf("signature %x with %v: %v", sig, h, err)
		}
		if err := verify(k.Public(), h, digestOf(h, "another message"), sig); err == nil {
			t.Errorf("signature with %v verifies over another digest", h)
		}
	}
}

// pss holds RSA keys to RSA-PSS with a salt as long as the hash, whichever way it
// was asked for, and every other key to refusing it.
func pss(t *testing.T, k hsm.Key, lacking bool) {
	pub, isRSA := k.Public().(*rsa.PublicKey)
	for _, h := range hashes {
		digest := digestOf(h, "a message")
		for _, salt := range []int{rsa.PSSSaltLengthAuto, rsa.PSSSaltLengthEqualsHash, h.Size()} {
			sig, err := k.Sign(t.Context(), digest, &rsa.PSSOptions{Hash: h, SaltLength: salt})
			if !isRSA || lacking {
				if err == nil || sig != nil {
					t.Errorf("RSA-PSS with %v and salt length %d = %x, %v; want a refusal", h, salt, sig, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("RSA-PSS with %v and salt length %d: %v", h, salt, err)
			} else if err := rsa.VerifyPSS(pub, h, digest, sig, &rsa.PSSOptions{Hash: h, SaltLength: h.Size()}); err != nil {
				t.Errorf("RSA-PSS signature with %v and salt length %d: %v", h, salt, err)
			}
		}
	}
	if err := k.Ready(); err != nil {
		t.Errorf("Ready() after RSA-PSS = %v, want nil", err)
	}
}

func publicIsStable(t *testing.T, k hsm.Key) {
	if err := hsm.CheckPublic(k.Public()); err != nil {
		t.Errorf("CheckPublic(Public()) = %v, want nil", err)
	}
	first, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatalf("Public() cannot be encoded: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}
	second, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("Public() after Close = %x (%v), want %x", second, err, first)
	}
}

func concurrentSignaturesVerify(t *testing.T, k hsm.Key) {
	const workers, each = 16, 4
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				text := fmt.Sprintf("message %d of worker %d", i, w)
				digest := digestOf(crypto.SHA256, text)
				sig, err := k.Sign(t.Context(), digest, crypto.SHA256)
				if err != nil {
					t.Errorf("Sign(%q): %v", text, err)
				} else if err := verify(k.Public(), crypto.SHA256, digest, sig); err != nil {
					t.Errorf("signature of %q: %v", text, err)
				}
			}
		})
	}
	wg.Wait()
}

func cancelledContextRefuses(t *testing.T, k hsm.Key) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sig, err := k.Sign(ctx, digestOf(crypto.SHA256, "late"), crypto.SHA256)
	if !errors.Is(err, context.Canceled) || sig != nil {
		t.Errorf("Sign under a cancelled context = %x, %v; want nil, context.Canceled", sig, err)
	}
	if _, err := k.Sign(t.Context(), digestOf(crypto.SHA256, "next"), crypto.SHA256); err != nil {
		t.Errorf("Sign after a cancelled one: %v", err)
	}
}

func badDigestRefuses(t *testing.T, k hsm.Key) {
	d32 := digestOf(crypto.SHA256, "x")
	for _, c := range []struct {
		name   string
		digest []byte
		opts   crypto.SignerOpts
	}{
		{"no digest", nil, crypto.SHA256},
		{"one byte short", d32[:31], crypto.SHA256},
		{"one byte long", append(bytes.Clone(d32), 0), crypto.SHA256},
		{"SHA-256 digest called SHA-384", d32, crypto.SHA384},
		{"SHA-512 digest called SHA-256", digestOf(crypto.SHA512, "x"), crypto.SHA256},
		{"no options", d32, nil},
		{"no hash", d32, crypto.Hash(0)},
		{"SHA-1", make([]byte, 20), crypto.SHA1},
		{"SHA-512/256", d32, crypto.SHA512_256},
		{"RSA-PSS with a longer salt", d32, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 33}},
		{"RSA-PSS with a shorter salt", d32, &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: 20}},
		{"RSA-PSS without a hash", d32, &rsa.PSSOptions{}},
		{"RSA-PSS with SHA-1", make([]byte, 20), &rsa.PSSOptions{Hash: crypto.SHA1}},
		{"RSA-PSS without options", d32, (*rsa.PSSOptions)(nil)},
	} {
		if sig, err := k.Sign(t.Context(), c.digest, c.opts); err == nil || sig != nil {
			t.Errorf("%s: Sign(%x, %v) = %x, %v; want a refusal", c.name, c.digest, c.opts, sig, err)
		}
	}
	if err := k.Ready(); err != nil {
		t.Errorf("Ready() after refused digests = %v, want nil", err)
	}
}

func closedKeyRefuses(t *testing.T, k hsm.Key) {
	for i := range 2 {
		if err := k.Close(); err != nil {
			t.Errorf("Close() number %d = %v, want nil", i+1, err)
		}
	}
	if err := k.Ready(); err == nil {
		t.Error("Ready() of a closed key = nil, want an error")
	}
	if sig, err := k.Sign(t.Context(), digestOf(crypto.SHA256, "x"), crypto.SHA256); err == nil || sig != nil {
		t.Errorf("Sign with a closed key = %x, %v; want a refusal", sig, err)
	}
}

func signerMakesCertificates(t *testing.T, k hsm.Key) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(600, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), hsm.Signer(k))
	if err != nil {
		t.Fatalf("CreateCertificate through Signer: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parsing the certificate: %v", err)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		t.Errorf("signature of the certificate: %v", err)
	}
}
