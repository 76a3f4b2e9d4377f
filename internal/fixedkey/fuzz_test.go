package fixedkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"math/big"
	"sync"
	"testing"
)

// fuzzKeys has, for each curve, keys near the generator, where sums meet
// exceptional points, and one that is far from it.
var fuzzKeys = sync.OnceValue(func() (all []*subject) {
	for _, c := range curves {
		for _, d := range []*big.Int{big.NewInt(1), big.NewInt(-1), big.NewInt(2), big.NewInt(128), new(big.Int).SetBytes([]byte("far from the generator"))} {
			all = append(all, &subject{Curve: c, d: new(big.Int).Mod(d, c.Params().N)})
		}
	}
	return all
})

// fuzzKey returns one of them, and makes its tables when it is needed first.
func fuzzKey(t testing.TB, which uint8) *subject {
	t.Helper()
	all := fuzzKeys()
	s := all[int(which)%len(all)]
	if s.verifier == nil {
		*s = *newSubject(t, s.Curve, s.d)
	}
	return s
}

// FuzzVerify compares verdicts with the library's, of whatever is said to be a
// signature.
func FuzzVerify(f *testing.F) {
	for which := range uint8(10) {
		s := fuzzKey(f, which)
		digest, signature, _ := s.craft(f, big.NewInt(5), big.NewInt(int64(which)+7))
		f.Add(which, digest, signature)
		f.Add(which, digest[:31], signature)
		f.Add(which, []byte{}, signature)
	}
	f.Fuzz(func(t *testing.T, which uint8, digest, signature []byte) {
		s := fuzzKey(t, which)
		want := ecdsa.VerifyASN1(s.pub, digest, signature)
		if got := s.verifier.Verify(digest, signature); got != want {
			t.Errorf("%s, d=%x: Verify(%x, %x) = %t, crypto/ecdsa says %t", s.Params().Name, s.d, digest, signature, got, want)
		}
	})
}

// FuzzSum makes signatures for sums of any two multiples of the generator and the
// key: a random signature is never good, and so says nothing about them.
func FuzzSum(f *testing.F) {
	for _, c := range []elliptic.Curve{elliptic.P384()} {
		for i, u := range scalars(c.Params().N) {
			f.Add(uint8(i), u.Bytes(), []byte{byte(i) + 1})
			f.Add(uint8(i), []byte{byte(i)}, u.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, first, second []byte) {
		s := fuzzKey(t, which)
		u1, u2 := s.mod(new(big.Int).SetBytes(first)), s.mod(new(big.Int).SetBytes(second))
		if u2.Sign() == 0 {
			return // that is r = 0
		}
		digest, signature, infinity := s.craft(t, u1, u2)
		s.expect(t, "as it was made", digest, signature, !infinity)
	})
}
