package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
)

// PBKDF2 with SHA-256 at the count that OWASP's password storage guidance names
// for it; a service pays for it once at its start.
const (
	writeIterations = 600_000
	writeSaltSize   = 16
)

// minPassphrase refuses what is typed to get past a prompt.
const minPassphrase = 12

// ReadPassphrase reads a passphrase file as LoadFile does: one line, closed to
// everybody but its owner.
func ReadPassphrase(path string) ([]byte, error) {
	passphrase, err := readPassphrase(path)
	if err != nil {
		return nil, fmt.Errorf("hsm: %w", err)
	}
	return passphrase, nil
}

// GenerateFileKey makes a key for a file, of the algorithms "ecdsa-p256",
// "ecdsa-p384", "rsa-3072" and "rsa-4096", and returns it with its text:
// PKCS#8 encrypted with AES-256 under the passphrase, as LoadFile reads it.
// Nothing calls it but commands that say that they make a key.
func GenerateFileKey(algorithm string, passphrase []byte) (crypto.Signer, []byte, error) {
	if len(passphrase) < minPassphrase {
		return nil, nil, fmt.Errorf("hsm: a passphrase of %d characters is refused: use %d or more, such as the output of openssl rand -base64 24",
			len(passphrase), minPassphrase)
	}
	var key crypto.Signer
	var err error
	switch algorithm {
	case "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, nil, fmt.Errorf("hsm: unknown algorithm %q: use ecdsa-p256, ecdsa-p384, rsa-3072 or rsa-4096", algorithm)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("hsm: generating a key: %w", err)
	}
	der, err := pkcs8.MarshalPrivateKey(key, passphrase, &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.PBKDF2Opts{SaltSize: writeSaltSize, IterationCount: writeIterations, HMACHash: crypto.SHA256},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("hsm: encrypting a key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
	// What cannot be read back is found now and not when the root is needed.
	again, err := parseKey(text, passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("hsm: reading back a new key: %w", err)
	}
	if k, ok := again.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key.Public()) {
		return nil, nil, errors.New("hsm: reading back a new key: it is another one")
	}
	return key, text, nil
}
