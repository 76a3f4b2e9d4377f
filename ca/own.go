package ca

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"runtime"
	"sync/atomic"

	"github.com/mayfly-ca/mayfly/internal/fixedkey"
)

// maxTables bounds the memory for the tables of fixedkey, which are 0.6 megabytes
// for a key at most. Chains beyond it are verified by crypto/ecdsa. It
// leaves room for 64 chains that sign and as many that follow them in a reload.
const maxTables = 128

// tables counts the chains that hold tables.
var tables atomic.Int64

// newVerifier returns what checks the signatures of the chain's own key. Making
// it takes some milliseconds, so it is made when the chain first signs, which is
// in the self-test; chains that never sign need none.
func (c *Chain) newVerifier() func(digest, signature []byte) bool {
	switch pub := c.issuing().PublicKey.(type) {
	case *ecdsa.PublicKey:
		if v := c.withTables(pub); v != nil {
			return v.Verify
		}
		return func(digest, signature []byte) bool { return ecdsa.VerifyASN1(pub, digest, signature) }
	case *rsa.PublicKey:
		return func(digest, signature []byte) bool { return rsa.VerifyPKCS1v15(pub, c.hash, digest, signature) == nil }
	}
	return func([]byte, []byte) bool { return false }
}

// withTables returns nil when there are too many already.
func (c *Chain) withTables(pub *ecdsa.PublicKey) *fixedkey.Verifier {
	if tables.Add(1) > maxTables {
		tables.Add(-1)
		return nil
	}
	v, err := fixedkey.New(pub)
	if err != nil {
		// A curve that it has no tables for, which complete does not let pass.
		tables.Add(-1)
		return nil
	}
	// A chain goes when the last request of its snapshot has gone.
	runtime.AddCleanup(c, func(n int64) { tables.Add(n) }, -1)
	return v
}
