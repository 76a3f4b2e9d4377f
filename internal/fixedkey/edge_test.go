package fixedkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"filippo.io/nistec"
)

// The edges at which other implementations were found to be wrong (Wycheproof).
func TestVerifyRefusesNumbersOutOfRange(t *testing.T) {
	for _, c := range curves {
		s := newSubject(t, c, big.NewInt(0xd))
		n := s.order()
		add := func(v *big.Int, i int64) *big.Int { return new(big.Int).Add(v, big.NewInt(i)) }
		digest, signature, _ := s.craft(t, big.NewInt(5), big.NewInt(7))
		r, v := new(big.Int), new(big.Int)
		if !parse(signature, r, v) {
			t.Fatalf("%x is no signature", signature)
		}
		s.expect(t, "as it was made", digest, signature, true)
		// -s is as good as s, and that is known: it is for what counts on one of
		// them, such as a coin.
		s.expect(t, "n-s", digest, der(r, new(big.Int).Sub(n, v)), true)
		odd := map[string]*big.Int{
			"0": new(big.Int), "1": big.NewInt(1), "-1": big.NewInt(-1), "n-1": add(n, -1), "n": n, "n+1": add(n, 1), "2n": new(big.Int).Lsh(n, 1),
			"p": c.Params().P, "p+1": add(c.Params().P, 1), "2^size": new(big.Int).Lsh(big.NewInt(1), uint(n.BitLen())), "2^4096": new(big.Int).Lsh(big.NewInt(1), 4096),
			"-r": new(big.Int).Neg(r), "r+n": new(big.Int).Add(r, n), "r-n": new(big.Int).Sub(r, n), "-s": new(big.Int).Neg(v), "s+n": new(big.Int).Add(v, n), "s-n": new(big.Int).Sub(v, n),
		}
		for _, d := range [][]byte{digest, make([]byte, len(digest)), {}, bytes.Repeat([]byte{0xff}, len(digest))} {
			for name, o := range odd {
				s.expect(t, "r is "+name, d, der(o, v), false)
				s.expect(t, "s is "+name, d, der(r, o), false)
				for other, p := range odd {
					s.expect(t, "r is "+name+", s is "+other, d, der(o, p), false)
				}
			}
		}
	}
}

// A coordinate may be beyond the order, and then r is what remains: with p - n of
// 2^128 and 2^190, nobody meets that by chance.
func TestVerifyReducesTheCoordinate(t *testing.T) {
	for _, c := range curves {
		n := c.Params().N
		beyond := 0
		for i := int64(1); beyond < 4; i++ {
			at := new(big.Int).Add(n, big.NewInt(i))
			q, ok := keyFor(t, c, at)
			if !ok {
				continue // no point has that coordinate
			}
			beyond++
			s := &subject{Curve: c, d: new(big.Int), pub: q, verifier: newVerifier(t, q)}
			digest := make([]byte, c.Params().BitSize/8)
			s.expect(t, fmt.Sprintf("x is n+%d, r is %d", i, i), digest, der(big.NewInt(i), big.NewInt(1)), true)
			s.expect(t, fmt.Sprintf("x is n+%d, and r too", i), digest, der(at, big.NewInt(1)), false)
			s.expect(t, fmt.Sprintf("x is n+%d, r is %d", i, i+1), digest, der(big.NewInt(i+1), big.NewInt(1)), false)
		}
	}
}

// keyFor returns the key for which a zero digest has the signature (r, 1) of a
// point R with the given x, and r = x mod n: (1/r)*R, for 0*G + r*Q = R.
func keyFor(t *testing.T, c elliptic.Curve, x *big.Int) (*ecdsa.PublicKey, bool) {
	t.Helper()
	size := c.Params().BitSize / 8
	compressed := append([]byte{2}, x.FillBytes(make([]byte, size))...)
	inverse := new(big.Int).ModInverse(x, c.Params().N).FillBytes(make([]byte, size))
	var encoded []byte
	if c == elliptic.P256() {
		r, err := nistec.NewP256Point().SetBytes(compressed)
		if err != nil {
			return nil, false
		}
		if r, err = r.ScalarMult(r, inverse); err != nil {
			t.Fatal(err)
		}
		encoded = r.Bytes()
	} else {
		r, err := nistec.NewP384Point().SetBytes(compressed)
		if err != nil {
			return nil, false
		}
		if r, err = nistec.NewP384Point().ScalarMult(r, inverse); err != nil {
			t.Fatal(err)
		}
		encoded = r.Bytes()
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(c, encoded)
	if err != nil {
		t.Fatal(err)
	}
	return pub, true
}

// The number that is signed may be of any length, and beyond the order.
func TestVerifyTakesDigestsOfAnyLength(t *testing.T) {
	for _, c := range curves {
		k, v := newSigner(t, c)
		s := &subject{Curve: c, d: new(big.Int), pub: &k.PublicKey, verifier: v}
		for _, n := range []int{0, 1, 20, 31, 32, 33, 47, 48, 49, 64, 65, 1000} {
			for _, b := range []byte{0, 1, 0xff} {
				digest := bytes.Repeat([]byte{b}, n)
				signature := sign(t, k, digest)
				s.expect(t, "whole", digest, signature, true)
				size := c.Params().BitSize / 8
				s.expect(t, "with more bytes", append(slices.Clone(digest), 1, 2, 3), signature, n >= size)
				if n > 0 {
					s.expect(t, "without the last byte", digest[:n-1], signature, n > size || b == 0)
				}
			}
		}
	}
}

func TestVerifyRefusesOtherEncodings(t *testing.T) {
	for _, c := range curves {
		s := newSubject(t, c, big.NewInt(0xd))
		digest, good, _ := s.craft(t, big.NewInt(5), big.NewInt(7))
		r, v := new(big.Int), new(big.Int)
		if !parse(good, r, v) {
			t.Fatalf("%x is no signature", good)
		}
		s.expect(t, "as it was made", digest, good, true)
		body := good[2:] // both curves' are shorter than 128 bytes
		integer := func(b []byte) []byte { return append([]byte{2, byte(len(b))}, b...) }
		sequence := func(parts ...[]byte) []byte {
			b := slices.Concat(parts...)
			return append([]byte{0x30, byte(len(b))}, b...)
		}
		padded := func(x *big.Int) []byte { return integer(x.FillBytes(make([]byte, c.Params().BitSize/8+2))) }
		first, second := good[2:4+good[3]], good[4+good[3]:]
		for what, signature := range map[string][]byte{
			"nothing":              nil,
			"an empty sequence":    {0x30, 0},
			"a set":                append([]byte{0x31, good[1]}, body...),
			"trailing byte":        append(slices.Clone(good), 0),
			"trailing null":        append(slices.Clone(good), 5, 0),
			"byte within":          sequence(body, []byte{0}),
			"third number":         sequence(body, []byte{2, 1, 1}),
			"no s":                 sequence(first),
			"long length":          append([]byte{0x30, 0x81, good[1]}, body...),
			"longer length":        append([]byte{0x30, 0x82, 0, good[1]}, body...),
			"indefinite length":    append(append([]byte{0x30, 0x80}, body...), 0, 0),
			"length of 2^32":       append([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, body...),
			"length too small":     append([]byte{0x30, good[1] - 1}, body...),
			"length too great":     append([]byte{0x30, good[1] + 1}, body...),
			"r with zeros":         sequence(padded(r), second),
			"s with zeros":         sequence(first, padded(v)),
			"r of no bytes":        sequence([]byte{2, 0}, second),
			"s of no bytes":        sequence(first, []byte{2, 0}),
			"s as bit string":      sequence(first, append([]byte{3}, second[1:]...)),
			"s as octet string":    sequence(first, append([]byte{4}, second[1:]...)),
			"r and s without DER":  slices.Concat(r.Bytes(), v.Bytes()),
			"the sequence in one":  sequence(good),
			"r and s exchanged":    sequence(second, first),
			"the first byte":       good[:1],
			"without the last one": good[:len(good)-1],
		} {
			s.expect(t, what, digest, signature, false)
		}
	}
}
