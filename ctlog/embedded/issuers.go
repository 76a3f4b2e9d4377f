package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// issuers stores issuing certificates under their fingerprints. static-ct-api:
// the certificates of a chain are "available at <monitoring prefix>/issuer/
// <fingerprint>" before the entry is.
//
// Only the committing goroutine uses it.
type issuers struct {
	dir   string
	known map[[32]byte]bool
}

// maxKnownIssuers bounds the memory of what was stored; a CA has a handful.
const maxKnownIssuers = 1024

func openIssuers(tree string) (*issuers, error) {
	dir := filepath.Join(tree, "issuer")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what is in it is public
		return nil, fmt.Errorf("opening issuer store: %w", err)
	}
	if err := syncDir(tree); err != nil {
		return nil, fmt.Errorf("opening issuer store: %w", err)
	}
	return &issuers{dir: dir, known: make(map[[32]byte]bool)}, nil
}

// store makes a certificate durable. It is written anew once in each process,
// even if a file is there: only our own sync proves that it is on the disk.
func (s *issuers) store(der []byte, fingerprint [32]byte) error {
	if s.known[fingerprint] {
		return nil
	}
	name := hex.EncodeToString(fingerprint[:])
	if err := writeDurably(filepath.Join(s.dir, name), der, 0o644); err != nil {
		return fmt.Errorf("storing issuer %s: %w", name, err)
	}
	if len(s.known) >= maxKnownIssuers {
		clear(s.known)
	}
	s.known[fingerprint] = true
	return nil
}

func fingerprints(chain [][]byte) [][32]byte {
	out := make([][32]byte, len(chain))
	for i, der := range chain {
		out[i] = sha256.Sum256(der)
	}
	return out
}
