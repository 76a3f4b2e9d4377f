package fixedkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// subject is a key whose private scalar is known, with its verifier.
type subject struct {
	elliptic.Curve
	d        *big.Int
	pub      *ecdsa.PublicKey
	verifier *Verifier
}

func newSubject(t testing.TB, c elliptic.Curve, d *big.Int) *subject {
	t.Helper()
	d = new(big.Int).Mod(d, c.Params().N)
	k := fromScalar(t, c, d)
	return &subject{c, d, &k.PublicKey, newVerifier(t, &k.PublicKey)}
}

func fromScalar(t testing.TB, c elliptic.Curve, d *big.Int) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(c, d.FillBytes(make([]byte, c.Params().BitSize/8)))
	if err != nil {
		t.Fatalf("%s: private key %x: %v", c.Params().Name, d, err)
	}
	return k
}

// order returns that of the group, to compute with.
func (s *subject) order() *big.Int { return s.Params().N }

// mod returns a number modulo the order, as a digest of full length if need be.
func (s *subject) mod(v *big.Int) *big.Int { return new(big.Int).Mod(v, s.order()) }

func (s *subject) digest(v *big.Int) []byte {
	return s.mod(v).FillBytes(make([]byte, s.Params().BitSize/8))
}

// expect compares the verdict with what it should be, and with that of the
// library: for both of them to be wrong, they would have to be so in the same way.
func (s *subject) expect(t *testing.T, what string, digest, signature []byte, want bool) {
	t.Helper()
	if got := ecdsa.VerifyASN1(s.pub, digest, signature); got != want {
		t.Errorf("%s, %s: the test is wrong: for the library the verdict on %x, signature %x, is %t", s.Params().Name, what, digest, signature, got)
	}
	if got := s.verifier.Verify(digest, signature); got != want {
		t.Errorf("%s, d=%x, %s: Verify(%x, %x) = %t, want %t", s.Params().Name, s.d, what, digest, signature, got, want)
	}
}

// craft returns a digest and a signature for which the verifier has to compute
// u1*G + u2*Q. It is good, unless that sum is infinity.
//
//	R = (u1 + u2*d)*G, r = R.x, s = r/u2, e = u1*s
func (s *subject) craft(t testing.TB, u1, u2 *big.Int) (digest, signature []byte, infinity bool) {
	t.Helper()
	k := s.mod(new(big.Int).Add(u1, new(big.Int).Mul(u2, s.d)))
	r := big.NewInt(1) // of any signature, since infinity has none
	if infinity = k.Sign() == 0; !infinity {
		r = s.mod(x(t, s.Curve, k))
	}
	v := s.mod(new(big.Int).Mul(r, new(big.Int).ModInverse(u2, s.order())))
	return s.digest(new(big.Int).Mul(u1, v)), der(r, v), infinity
}

// x returns the coordinate of k*G.
func x(t testing.TB, c elliptic.Curve, k *big.Int) *big.Int {
	t.Helper()
	encoded := encode(t, fromScalar(t, c, k))
	return new(big.Int).SetBytes(encoded[1 : 1+c.Params().BitSize/8])
}

func der(r, s *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.BytesOrPanic()
}

// scalars are those at which windows, carries and signs of digits change.
func scalars(order *big.Int) (all []*big.Int) {
	one := big.NewInt(1)
	for _, bit := range []uint{0, 6, 7, 8, 14, 128, 255, 378, 383} {
		if bit >= uint(order.BitLen()) {
			continue
		}
		power := new(big.Int).Lsh(one, bit)
		all = append(all, power, new(big.Int).Sub(power, one), new(big.Int).Add(power, one))
	}
	half := new(big.Int).Rsh(order, 1)
	all = append(all, half, new(big.Int).Add(half, one))
	for _, v := range slices.Clone(all) {
		all = append(all, new(big.Int).Sub(order, v))
	}
	for _, v := range all {
		v.Mod(v, order)
	}
	slices.SortFunc(all, (*big.Int).Cmp)
	return slices.CompactFunc(all, func(a, b *big.Int) bool { return a.Cmp(b) == 0 })
}

// Keys that are small multiples of the generator have tables that hold the same
// points as the generator's, or their negatives. The sums below meet themselves
// (a doubling) and their negatives (infinity), at the end and on the way.
func TestVerifyAddsExceptionalPoints(t *testing.T) {
	for _, c := range curves {
		for _, d := range []int64{1, -1, 2} {
			t.Run(fmt.Sprintf("%s/%dG", c.Params().Name, d), func(t *testing.T) {
				t.Parallel()
				s := newSubject(t, c, big.NewInt(d))
				small := around(s.order(), 0, 1, 2, 64, 65, 128, 129)
				infinite := 0
				for _, u1 := range small {
					for _, u2 := range small {
						if u2.Sign() == 0 {
							continue
						}
						digest, signature, infinity := s.craft(t, u1, u2)
						s.expect(t, fmt.Sprintf("%x*G+%x*Q", u1, u2), digest, signature, !infinity)
						if infinity {
							infinite++
						}
					}
				}
				if infinite == 0 {
					t.Error("no sum was infinity: the test does not show what it says")
				}
			})
		}
	}
}

// around returns numbers and their negatives.
func around(order *big.Int, numbers ...int64) (all []*big.Int) {
	for _, v := range numbers {
		all = append(all, big.NewInt(v), new(big.Int).Mod(big.NewInt(-v), order))
	}
	return all
}

// Each window of both scalars is read, with each carry into the next.
func TestVerifyReadsAllWindows(t *testing.T) {
	for _, c := range curves {
		s := newSubject(t, c, new(big.Int).SetBytes([]byte("some private key of no interest")))
		for _, u := range scalars(s.order()) {
			for _, pair := range [][2]*big.Int{{u, big.NewInt(3)}, {big.NewInt(3), u}, {u, u}, {new(big.Int), u}} {
				if pair[1].Sign() == 0 {
					continue
				}
				digest, signature, infinity := s.craft(t, pair[0], pair[1])
				s.expect(t, fmt.Sprintf("%x*G+%x*Q", pair[0], pair[1]), digest, signature, !infinity)
			}
		}
	}
}
