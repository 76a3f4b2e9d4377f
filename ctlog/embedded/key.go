package embedded

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"

	"golang.org/x/crypto/cryptobyte"
)

// Signer is the log's private key where it is not a file in the log's directory.
// Sign signs a SHA-256 digest as ASN.1 DER ECDSA, honours ctx and may be called
// concurrently. Each of its signatures is verified before it is used. hsm.Key
// satisfies it.
type Signer interface {
	Public() crypto.PublicKey
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// fileKey is a key in memory.
type fileKey struct{ *ecdsa.PrivateKey }

func (k fileKey) Sign(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.PrivateKey.Sign(rand.Reader, digest, opts)
}

// digitallySign signs a SHA-256 digest and encodes the digitally-signed struct.
func digitallySign(ctx context.Context, key Signer, digest [32]byte) ([]byte, error) {
	signature, err := key.Sign(ctx, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddUint8(4) // sha256
	b.AddUint8(3) // ecdsa
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(signature) })
	return b.Bytes()
}
