package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"runtime"
	"testing"
	"time"
)

// Whatever checks our own signatures, with tables or without, it takes what the
// key has signed, and refuses what it has not.
func TestChainKnowsItsOwnSignatures(t *testing.T) {
	for _, tc := range []struct {
		name  string
		key   crypto.Signer
		taken int64 // tables that others hold
	}{
		{"P-256", p256(t), 0},
		{"P-384", mustECDSA(t, elliptic.P384()), 0},
		{"RSA", rsaKey(t, 2048), 0},
		{"P-256 without tables", p256(t), maxTables},
		{"P-384 without tables", mustECDSA(t, elliptic.P384()), maxTables},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chain := newPKI(t, tc.key, nil).chain(t)
			tables.Add(tc.taken)
			defer tables.Add(-tc.taken)
			if pub, ok := tc.key.Public().(*ecdsa.PublicKey); ok && (chain.withTables(pub) == nil) != (tc.taken > 0) {
				t.Errorf("tables are there: %v, with %d of %d taken", tc.taken > 0, tc.taken, maxTables)
			}
			sum := digest(chain.hash, []byte("to be signed"))
			good, err := tc.key.Sign(rand.Reader, sum, chain.hash)
			if err != nil {
				t.Fatal(err)
			}
			if !chain.verifier()(sum, good) {
				t.Errorf("refuses the signature %x of %x", good, sum)
			}
			for i := range good {
				good[i] ^= 1 << (i % 8)
				if chain.verifier()(sum, good) {
					t.Errorf("takes the signature with a bit of byte %d changed: %x", i, good)
				}
				good[i] ^= 1 << (i % 8)
			}
			if other := digest(chain.hash, []byte("something else")); chain.verifier()(other, good) {
				t.Errorf("takes the signature of %x for %x", sum, other)
			}
		})
	}
}

// What a snapshot that is gone had of the bound, the next one can have.
func TestTablesAreGivenBackWithTheirChain(t *testing.T) {
	const chains = 16
	key := p256(t)
	var most int64
	func() {
		var all [chains]Chain
		for i := range all {
			if all[i].withTables(&key.PublicKey) == nil {
				t.Fatalf("no tables for chain %d", i)
			}
		}
		most = tables.Load()
		runtime.KeepAlive(&all)
	}()
	deadline := time.After(time.Minute)
	for tables.Load() > most-chains {
		runtime.GC() // cleanups run on a goroutine of the runtime, some time after it
		select {
		case <-deadline:
			t.Fatalf("%d tables are still held of %d, want %d", tables.Load(), most, most-chains)
		default:
			runtime.Gosched()
		}
	}
}

// BenchmarkVerifyOwn is the check of a signature of the chain's own key. It
// reports cpu/floor, where the floor is that of the standard library.
func BenchmarkVerifyOwn(b *testing.B) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		b.Run(curve.Params().Name, func(b *testing.B) {
			key := mustECDSA(b, curve)
			chain := newPKI(b, key, nil).chain(b)
			sum := digest(chain.hash, []byte("to be signed"))
			signature, err := ecdsa.SignASN1(rand.Reader, key, sum)
			if err != nil {
				b.Fatal(err)
			}
			verify := chain.verifier()
			beside(b, "cpu/floor", func() {
				if !verify(sum, signature) {
					b.Fatal("signature does not verify")
				}
			}, func() { bareVerify(key.Public(), chain.hash, sum, signature) })
		})
	}
}
