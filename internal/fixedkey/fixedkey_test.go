package fixedkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"
)

var curves = []elliptic.Curve{elliptic.P256(), elliptic.P384()}

// newSigner returns a key and what verifies it with tables, whatever the process.
func newSigner(t testing.TB, c elliptic.Curve) (*ecdsa.PrivateKey, *Verifier) {
	t.Helper()
	k := newKey(t, c)
	return k, newVerifier(t, &k.PublicKey)
}

func newVerifier(t testing.TB, pub *ecdsa.PublicKey) *Verifier {
	t.Helper()
	v, err := build(pub, false)
	if err != nil {
		t.Fatalf("building the tables of %x: %v", pub, err)
	}
	return v
}

func sign(t testing.TB, k *ecdsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	signature, err := ecdsa.SignASN1(rand.Reader, k, digest)
	if err != nil {
		t.Fatalf("signing %x: %v", digest, err)
	}
	return signature
}

func TestVerifyAcceptsGoodSignatures(t *testing.T) {
	for _, c := range curves {
		for range 4 {
			k, v := newSigner(t, c)
			for i := range 16 {
				digest := sha256.Sum256([]byte{byte(i)})
				if signature := sign(t, k, digest[:]); !v.Verify(digest[:], signature) {
					t.Errorf("%s: key %x refuses signature %x of %x", c.Params().Name, encode(t, k), signature, digest)
				}
			}
		}
	}
}

// A fault in a device may flip any bit, and none may pass.
func TestVerifyRefusesEachFlippedBit(t *testing.T) {
	for _, c := range curves {
		k, v := newSigner(t, c)
		digest := sha256.Sum256([]byte("flip"))
		signature := sign(t, k, digest[:])
		for _, b := range [][]byte{signature, digest[:]} {
			for i := range len(b) * 8 {
				b[i/8] ^= 1 << (i % 8)
				if v.Verify(digest[:], signature) {
					t.Errorf("%s: key %x accepts signature %x of %x, bit %d flipped", c.Params().Name, encode(t, k), signature, digest, i)
				}
				b[i/8] ^= 1 << (i % 8)
			}
		}
		if !v.Verify(digest[:], signature) {
			t.Fatal("the signature that was flipped is not good by itself")
		}
	}
}

func encode(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
