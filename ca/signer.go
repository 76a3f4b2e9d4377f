package ca

import (
	"context"
	"crypto"
)

// Signer is a CA key: in a file, in an HSM, in a pair of them.
//
// Sign signs a digest (PKCS#1 v1.5 or ASN.1 DER ECDSA), honours ctx, and may be
// called concurrently. Ready reports, without I/O, why a signature would be
// turned away now. The signer does not verify its own signatures; Issue does.
type Signer interface {
	Public() crypto.PublicKey
	Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	Ready() error
}
