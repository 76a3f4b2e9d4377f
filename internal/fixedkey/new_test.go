package fixedkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"os"
	"os/exec"
	"sync"
	"testing"
)

func TestNewRefusesOtherKeys(t *testing.T) {
	for name, c := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-521": elliptic.P521(), "parameters of P-256": elliptic.P256().Params()} {
		if v, err := New(&ecdsa.PublicKey{Curve: c}); err == nil {
			t.Errorf("%s: New returned %v, want an error", name, v)
		}
	}
	if v, err := New(nil); err == nil {
		t.Errorf("nil: New returned %v, want an error", v)
	}
	for _, c := range curves {
		for _, module := range []bool{false, true} {
			off := &ecdsa.PublicKey{Curve: c, X: big.NewInt(1), Y: big.NewInt(1)} //nolint:staticcheck // nothing else makes such a key
			if v, err := build(off, module); err == nil {
				t.Errorf("%s, module %t: a key that is not on the curve gave %v, want an error", c.Params().Name, module, v)
			}
		}
	}
}

// Whoever rotates a key in place must not change what an old Verifier says.
func TestVerifierKeepsItsKey(t *testing.T) {
	for _, c := range curves {
		for _, module := range []bool{false, true} {
			k, other := newKey(t, c), newKey(t, c)
			pub := k.PublicKey
			v, err := build(&pub, module)
			if err != nil {
				t.Fatal(err)
			}
			digest := sha256.Sum256([]byte("kept"))
			pub = other.PublicKey
			if !v.Verify(digest[:], sign(t, k, digest[:])) {
				t.Errorf("%s, module %t: the old key's signature was refused after the caller's key had changed", c.Params().Name, module)
			}
			if v.Verify(digest[:], sign(t, other, digest[:])) {
				t.Errorf("%s, module %t: another key's signature was accepted", c.Params().Name, module)
			}
		}
	}
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Verifications share scratch space only one after the other.
func TestVerifyConcurrently(t *testing.T) {
	for _, c := range curves {
		k, v := newSigner(t, c)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 8 {
					digest, other := sha256.Sum256([]byte{byte(i), byte(j)}), sha256.Sum256([]byte{byte(i), byte(j), 1})
					signature, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
					if err != nil {
						t.Errorf("signing: %v", err)
						return
					}
					if !v.Verify(digest[:], signature) {
						t.Errorf("%s: signature %x of %x was refused", c.Params().Name, signature, digest)
					}
					if v.Verify(other[:], signature) {
						t.Errorf("%s: signature %x of %x was accepted for %x", c.Params().Name, signature, digest, other)
					}
				}
			})
		}
		wg.Wait()
	}
}

// Whoever runs the module wants it to do all there is to do.
func TestNewCallsTheModuleInFIPSMode(t *testing.T) {
	const child = "FIXEDKEY_TEST_MODULE"
	if os.Getenv(child) == "" {
		for _, mode := range []string{"on", "only"} {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v") // #nosec G204 -- this program
			cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=fips140="+mode)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("with GODEBUG=fips140=%s: %v\n%s", mode, err, out)
			}
		}
	} else if !fips140.Enabled() {
		t.Fatal("the module is not enabled")
	}
	for _, c := range curves {
		k := newKey(t, c)
		v, err := New(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := v.key.(library); ok != fips140.Enabled() {
			t.Errorf("%s: with the module enabled: %t, a signature is verified by %T", c.Params().Name, fips140.Enabled(), v.key)
		}
		digest := sha256.Sum256([]byte("module"))
		signature := sign(t, k, digest[:])
		if !v.Verify(digest[:], signature) {
			t.Errorf("%s: signature %x of %x was refused", c.Params().Name, signature, digest)
		}
		digest[0] ^= 1
		if v.Verify(digest[:], signature) {
			t.Errorf("%s: signature %x was accepted for %x, which was not signed", c.Params().Name, signature, digest)
		}
	}
}
