// Package hsm holds the keys that a certificate authority and its log sign
// with. This package has keys in files; package hsm/pkcs11 has keys in tokens.
//
// Invariants, which hsmtest.Run holds every kind of key to:
//
//   - a key signs digests and nothing else: SHA-256, SHA-384 or SHA-512, of
//     the right length, with ASN.1 DER ECDSA, PKCS#1 v1.5, or RSA-PSS with a salt
//     as long as the hash, so that no backend accepts what another refuses;
//   - a key is one that clients of the certificates can verify: ECDSA on P-256
//     or P-384, or RSA of 2048, 3072 or 4096 bits;
//   - private material never leaves the package: not through fmt, not through
//     log/slog, not through an accessor.
//
// The package makes a key in GenerateFileKey alone, which only commands that say
// so call, and deletes none. It never looks at what it signs, and does not
// verify its signatures after load: whoever hands a signature out verifies it
// first.
package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"
)

// Key is a private key that signs. All methods may be called concurrently.
//
// Sign signs a digest: ASN.1 DER for ECDSA; for RSA PKCS#1 v1.5, or RSA-PSS if
// opts is an *rsa.PSSOptions. It honours ctx and does not retry for longer than
// ctx lives. Ready reports, without I/O, why
// a signature would be turned away now. After Close, Sign and Ready return
// errors; Close may be called again and returns nil. Public always answers.
type Key interface {
	Public() crypto.PublicKey
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	Ready() error
	Close() error
}

// signerTimeout bounds a signature made through an adapter, which has no
// context of its own: a token that hangs must not hold its caller for ever.
const signerTimeout = 10 * time.Second

// Signer adapts k to crypto.Signer, for the places of the standard library that
// want one. Each signature is bounded to ten seconds; the random source is
// ignored, because the key has its own.
func Signer(k Key) crypto.Signer { return signer{k} }

type signer struct{ key Key }

func (s signer) Public() crypto.PublicKey { return s.key.Public() }

func (s signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signerTimeout)
	defer cancel()
	return s.key.Sign(ctx, digest, opts)
}

// CheckPublic refuses public keys that an authority or a log must not have.
// Sigstore clients reject certificates of Ed25519 and P-521 authorities, and
// SCTs of every log key but P-256; an odd RSA size or exponent is a mistake or
// an attack.
func CheckPublic(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() {
			return fmt.Errorf("ECDSA on %s is not supported: use P-256 or P-384", pub.Curve.Params().Name)
		}
		return nil
	case *rsa.PublicKey:
		switch pub.N.BitLen() {
		case 2048, 3072, 4096:
		default:
			return fmt.Errorf("RSA of %d bits is not supported: use 2048, 3072 or 4096", pub.N.BitLen())
		}
		if pub.E != 65537 {
			return fmt.Errorf("RSA with exponent %d is not supported: use 65537", pub.E)
		}
		return nil
	default:
		return fmt.Errorf("%T is not supported: use ECDSA on P-256 or P-384, or RSA", pub)
	}
}

// CheckDigest refuses what no key may sign. Every Key calls it before its
// backend sees the digest: some tokens sign whatever they are given.
func CheckDigest(digest []byte, opts crypto.SignerOpts) error {
	if opts == nil {
		return errors.New("no hash function given for the digest to sign")
	}
	pss, isPSS := opts.(*rsa.PSSOptions)
	if isPSS && pss == nil {
		return errors.New("no hash function given for the digest to sign")
	}
	h := opts.HashFunc()
	switch h {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return fmt.Errorf("digest by %v refused: only SHA-256, SHA-384 and SHA-512 are signed", h)
	}
	if len(digest) != h.Size() {
		return fmt.Errorf("digest of %d bytes refused: %v has %d", len(digest), h, h.Size())
	}
	if isPSS {
		switch pss.SaltLength {
		case rsa.PSSSaltLengthAuto, rsa.PSSSaltLengthEqualsHash, h.Size():
		default:
			return fmt.Errorf("RSA-PSS with a salt of %d bytes refused: it has the length of the hash", pss.SaltLength)
		}
	}
	return nil
}

// SignerOpts returns opts, which CheckDigest passed, as a private key of the
// standard library takes them for public. Go reads PSSSaltLengthAuto as the
// longest salt when it signs; here it means the length of the hash, which is all
// that many tokens can do.
func SignerOpts(public crypto.PublicKey, opts crypto.SignerOpts) (crypto.SignerOpts, error) {
	pss, ok := opts.(*rsa.PSSOptions)
	if !ok {
		return opts.HashFunc(), nil
	}
	if _, ok := public.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("RSA-PSS asked of a %T", public)
	}
	return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: pss.Hash}, nil
}
