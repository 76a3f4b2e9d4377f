package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
)

const (
	maxKeyFile        = 64 << 10
	maxPassphraseFile = 4 << 10
)

// FileConfig says where a key lies.
type FileConfig struct {
	// Path names the PEM file: PKCS#8, encrypted (PBES2) or not, PKCS#1 or SEC1.
	Path string
	// PassphraseFile names the file with the passphrase of an encrypted key; one
	// trailing newline is not part of it. Empty for a key that is not encrypted.
	PassphraseFile string
}

// FileKey is a key that was read from a file. It keeps the private key in
// memory until Close.
type FileKey struct {
	path   string
	public crypto.PublicKey
	// private is nil after Close.
	private atomic.Pointer[crypto.Signer]
}

// LoadFile reads a key, checks that it is of a kind that clients accept, and
// signs and verifies once with it. Files that others than their owner can reach
// are refused. A passphrase file beside a key that is not encrypted is refused
// too: somebody believes that key to be protected.
func LoadFile(c FileConfig) (*FileKey, error) {
	if c.Path == "" {
		return nil, errors.New("hsm: no path of a key file given")
	}
	text, err := readSecret("key file", c.Path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("hsm: %w", err)
	}
	defer clear(text)
	var passphrase []byte
	if c.PassphraseFile != "" {
		if passphrase, err = readPassphrase(c.PassphraseFile); err != nil {
			return nil, fmt.Errorf("hsm: %w", err)
		}
		defer clear(passphrase)
	}
	private, err := parseKey(text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("hsm: reading key file %s: %w", c.Path, err)
	}
	if err := CheckPublic(private.Public()); err != nil {
		return nil, fmt.Errorf("hsm: key file %s: %w", c.Path, err)
	}
	k := &FileKey{path: c.Path, public: private.Public()}
	k.private.Store(&private)
	if err := k.selfTest(); err != nil {
		return nil, fmt.Errorf("hsm: testing key file %s: %w", c.Path, err)
	}
	return k, nil
}

// readSecret reads a whole file that nobody but its owner may reach. Symbolic
// links are followed, because that is how Kubernetes mounts secrets; what is
// judged is the file that was opened, not the one that the name means later.
func readSecret(what, path string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK, to open a pipe takes as long as it has no writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", what, err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", what, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s is not a regular file", what, path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s %s is open to others than its owner (mode %04o): run chmod 0600 %s", what, path, perm, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if int64(len(text)) > limit {
		clear(text)
		return nil, fmt.Errorf("%s %s is longer than %d bytes", what, path, limit)
	}
	return text, nil
}

// selfTest signs and verifies, so that a damaged key is found at start and not
// by the first client. A key whose two halves disagree parses well enough.
func (k *FileKey) selfTest() error {
	digest := sha256.Sum256([]byte("mayfly hsm self-test"))
	sig, err := k.Sign(context.Background(), digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	switch pub := k.public.(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, digest[:], sig) {
			return errors.New("its own signature does not verify")
		}
		return nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig)
	default:
		return fmt.Errorf("no way to verify a signature by %T", pub)
	}
}

// Public returns the public key.
func (k *FileKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest; see [Key].
func (k *FileKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hsm: signing with %s: %w", k.path, err)
	}
	if err := CheckDigest(digest, opts); err != nil {
		return nil, fmt.Errorf("hsm: signing with %s: %w", k.path, err)
	}
	private := k.private.Load()
	if private == nil {
		return nil, k.closed()
	}
	opts, err := SignerOpts(k.public, opts)
	if err != nil {
		return nil, fmt.Errorf("hsm: signing with %s: %w", k.path, err)
	}
	sig, err := (*private).Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("hsm: signing with %s: %w", k.path, err)
	}
	return sig, nil
}

// Ready reports whether the key is open.
func (k *FileKey) Ready() error {
	if k.private.Load() == nil {
		return k.closed()
	}
	return nil
}

func (k *FileKey) closed() error { return fmt.Errorf("hsm: key %s is closed", k.path) }

// Close lets go of the private key. Signatures under way finish. The memory is
// not wiped: Go copies keys as it computes, and a promise that cannot be kept
// is not made.
func (k *FileKey) Close() error {
	k.private.Store(nil)
	return nil
}

// LogValue names the key by its file and public half.
func (k *FileKey) LogValue() slog.Value {
	return slog.GroupValue(slog.String("path", k.path), slog.String("spki_sha256", k.fingerprint()))
}

// Format keeps the private key out of every fmt verb.
func (k *FileKey) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "hsm.FileKey(%s, spki sha256 %s)", k.path, k.fingerprint())
}

func (k *FileKey) fingerprint() string {
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
