package embedded

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
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
	if len(signature) > math.MaxUint16 {
		return nil, fmt.Errorf("the key made a signature of %d bytes", len(signature))
	}
	b := make([]byte, 0, 1+1+2+len(signature))
	b = append(b, 4, 3) // sha256, ecdsa
	b = binary.BigEndian.AppendUint16(b, uint16(len(signature)))
	return append(b, signature...), nil
}
