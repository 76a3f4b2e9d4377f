package floor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
)

// key signs a message of its own and verifies a signature that it made of it
// before.
type key struct {
	sign, verify func() error
}

var (
	message    = []byte("alice@corp.example")
	errVerdict = errors.New("a good signature does not verify")
)

// tokenKey is the key of a provider. RSA with 2048 bits is what they use.
func tokenKey(algorithm string) (key, error) {
	switch algorithm {
	case "RS256":
		return newKey("RSA-2048", "RSA-2048")
	case "ES256":
		return newKey("P-256", "P-256")
	}
	return key{}, fmt.Errorf("unknown algorithm %q", algorithm)
}

// newKey makes a key of a kind, which must be one of allowed.
func newKey(kind string, allowed ...string) (key, error) {
	if !slices.Contains(allowed, kind) {
		return key{}, fmt.Errorf("unknown kind %q, want one of %q", kind, allowed)
	}
	switch kind {
	case "P-256":
		digest := sha256.Sum256(message)
		return newECDSA(elliptic.P256(), digest[:])
	case "P-384":
		digest := sha512.Sum384(message)
		return newECDSA(elliptic.P384(), digest[:])
	case "RSA-2048":
		return newRSA(2048)
	case "RSA-3072":
		return newRSA(3072)
	case "RSA-4096":
		return newRSA(4096)
	}
	return newEd25519()
}

func newECDSA(curve elliptic.Curve, digest []byte) (key, error) {
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return key{}, fmt.Errorf("generating: %w", err)
	}
	signature, err := ecdsa.SignASN1(rand.Reader, private, digest)
	if err != nil {
		return key{}, fmt.Errorf("signing: %w", err)
	}
	return key{
		sign: func() error {
			_, err := ecdsa.SignASN1(rand.Reader, private, digest)
			return err
		},
		verify: func() error {
			if !ecdsa.VerifyASN1(&private.PublicKey, digest, signature) {
				return errVerdict
			}
			return nil
		},
	}, nil
}

func newRSA(bits int) (key, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return key{}, fmt.Errorf("generating: %w", err)
	}
	digest := sha256.Sum256(message)
	signature, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
	if err != nil {
		return key{}, fmt.Errorf("signing: %w", err)
	}
	return key{
		sign: func() error {
			_, err := rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
			return err
		},
		verify: func() error { return rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest[:], signature) },
	}, nil
}

func newEd25519() (key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, fmt.Errorf("generating: %w", err)
	}
	signature := ed25519.Sign(private, message)
	return key{
		sign: func() error { ed25519.Sign(private, message); return nil },
		verify: func() error {
			if !ed25519.Verify(public, message, signature) {
				return errVerdict
			}
			return nil
		},
	}, nil
}
