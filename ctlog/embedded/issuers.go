package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// issuers stores issuing certificates under their fingerprints. static-ct-api:
// the certificates of a chain are "available at <monitoring prefix>/issuer/
// <fingerprint>" before the entry is.
//
// Only the committing goroutine uses it.
type issuers struct {
	fs    disk.FS
	tree  string
	known map[[32]byte]bool
}

// maxKnownIssuers bounds the memory of what was stored; a CA has a handful.
const maxKnownIssuers = 1024

const issuerDir = "issuer"

func openIssuers(f disk.FS, tree string) (*issuers, error) {
	dirs := disk.Dirs{FS: f, Root: tree}
	if err := dirs.Make(issuerDir); err != nil {
		return nil, fmt.Errorf("opening issuer store: %w", err)
	}
	return &issuers{fs: f, tree: tree, known: make(map[[32]byte]bool)}, nil
}

// store makes a certificate durable. It is written anew once in each process,
// even if a file is there: only our own sync proves that it is on the disk.
func (s *issuers) store(der []byte, fingerprint [32]byte) error {
	if s.known[fingerprint] {
		return nil
	}
	name := hex.EncodeToString(fingerprint[:])
	c := disk.Content{Path: filepath.Join(s.tree, issuerDir, name), Data: der, Perm: 0o644}
	if err := disk.Replace(s.fs, filepath.Join(s.tree, tempDir), c); err != nil {
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
