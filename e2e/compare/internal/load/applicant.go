package load

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Kind of a client's key.
type Kind string

// The kinds that are compared.
const (
	P256    Kind = "P-256"
	RSA2048 Kind = "RSA-2048"
	RSA4096 Kind = "RSA-4096"
	Ed25519 Kind = "Ed25519"
)

// Keys is how many keys of the kind are worth making. Clients make a new key for
// each certificate, so there are more of the cheap ones than a cache of keys
// would be sized for in a minute's traffic; an RSA key takes up to seconds.
func (k Kind) Keys() int {
	switch k {
	case RSA2048:
		return 24
	case RSA4096:
		return 8
	default:
		return 2048
	}
}

// NewKey makes a key.
func (k Kind) NewKey() (crypto.Signer, error) {
	switch k {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("no kind of key is called %q", k)
}

// NewKeys makes as many as the kind is worth.
func (k Kind) NewKeys() ([]crypto.Signer, error) {
	keys := make([]crypto.Signer, k.Keys())
	for i := range keys {
		var err error
		if keys[i], err = k.NewKey(); err != nil {
			return nil, fmt.Errorf("making %s keys: %w", k, err)
		}
	}
	return keys, nil
}

// Applicant is who asks for a certificate: a token, a key, and the proof that
// the token's subject holds it.
type Applicant struct {
	Email, Token string
	Public       crypto.PublicKey
	PEM          string
	Proof        []byte
}

// NewApplicant signs the proof as Sigstore's clients do.
func NewApplicant(email, token string, key crypto.Signer) (Applicant, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Applicant{}, fmt.Errorf("encoding a client's key: %w", err)
	}
	proof, err := prove(key, email)
	if err != nil {
		return Applicant{}, fmt.Errorf("proving a client's key: %w", err)
	}
	return Applicant{
		Email: email, Token: token, Public: key.Public(), Proof: proof,
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}, nil
}

func prove(key crypto.Signer, email string) ([]byte, error) {
	if _, pure := key.(ed25519.PrivateKey); pure {
		return key.Sign(rand.Reader, []byte(email), crypto.Hash(0))
	}
	digest := sha256.Sum256([]byte(email))
	return key.Sign(rand.Reader, digest[:], crypto.SHA256)
}
