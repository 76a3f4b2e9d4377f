// Package fixedkey checks ECDSA signatures of a key that is known long before,
// at a fraction of what crypto/ecdsa takes: it is for the signatures that the
// service has just made with its own keys, which it looks at before they leave
// the process, so that a faulty device hands out nothing broken.
//
// Verifying computes u1*G + u2*Q for the public key Q. A library that meets Q
// with the signature has to multiply it out each time. A CA's key and a log's
// key are the same for months, so [New] computes multiples of Q once, and what is
// left for each signature is to add up one point for every few bits of u2.
//
//   - The verdict is that of [ecdsa.VerifyASN1], for every key, digest and
//     signature: the same encodings are refused, the same digests truncated, and
//     the exceptional points of the addition (the same point twice, a point and
//     its negative, infinity) are as right as all others. A fuzz target compares.
//   - Points are added by filippo.io/nistec, the standard library's arithmetic
//     under a public name. There is no arithmetic of coordinates here.
//   - Where the process runs with the Go Cryptographic Module in FIPS 140-3 mode,
//     a Verifier calls crypto/ecdsa and nothing else.
//
// It does not run in constant time, for a public key, a digest and a signature
// are no secrets; it must never be given a private scalar. It does not sign. And
// it is not for what strangers send: proofs of possession, tokens and the
// signatures of other logs stay with crypto/ecdsa, whose price is that of any key
// at any time. docs/adr/0003-own-signatures.md has the reasons.
package fixedkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"errors"
	"fmt"
)

// A Verifier checks signatures of one public key. It is immutable, and safe for
// concurrent use.
type Verifier struct {
	key verifier
}

// verifier is a key with its tables, or the library that needs none.
type verifier interface {
	verify(digest, signature []byte) bool
}

// New returns a Verifier for a key on P-256 or P-384, and an error for any other.
// It takes some milliseconds, and tables of 0.4 MB (P-256) or 0.6 MB (P-384) stay
// for as long as it does: make one for a key, and keep it.
func New(pub *ecdsa.PublicKey) (*Verifier, error) {
	return build(pub, fips140.Enabled())
}

// Verify reports whether signature is an ASN.1 DER signature of the digest by the
// key, as [ecdsa.VerifyASN1] does. A digest that is longer than the order of the
// curve is truncated to it.
func (v *Verifier) Verify(digest, signature []byte) bool {
	return v.key.verify(digest, signature)
}

// build is New for a process that has to keep to the module, or has not.
func build(pub *ecdsa.PublicKey, module bool) (*Verifier, error) {
	if pub == nil {
		return nil, errors.New("fixedkey: no key")
	}
	if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() {
		return nil, errors.New("fixedkey: the key is neither on P-256 nor on P-384")
	}
	// It is an error here too if the point is not on the curve.
	point, err := pub.Bytes()
	if err != nil {
		return nil, fmt.Errorf("fixedkey: encoding the public key: %w", err)
	}
	var key verifier
	switch {
	case module:
		key, err = newLibrary(pub.Curve, point)
	case pub.Curve == elliptic.P256():
		key, err = newTables(p256, point)
	default:
		key, err = newTables(p384(), point)
	}
	if err != nil {
		return nil, fmt.Errorf("fixedkey: reading the public key: %w", err)
	}
	return &Verifier{key}, nil
}

// library leaves a key to crypto/ecdsa.
type library struct{ pub *ecdsa.PublicKey }

// newLibrary has a key of its own, which the caller cannot change any more.
func newLibrary(c elliptic.Curve, point []byte) (library, error) {
	pub, err := ecdsa.ParseUncompressedPublicKey(c, point)
	return library{pub}, err
}

func (l library) verify(digest, signature []byte) bool {
	return ecdsa.VerifyASN1(l.pub, digest, signature)
}
