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
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/hsm"
)

// Run runs the suite. newKey returns a fresh, open key each time; the keys may
// be one and the same in the token. Run closes what it opens.
func Run(t *testing.T, newKey func(testing.TB) hsm.Key) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, hsm.Key)
	}{
		{"SignaturesVerify", signaturesVerify},
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
		{"RSA-PSS", d32, &rsa.PSSOptions{Hash: crypto.SHA256}},
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
