package ca

import (
	"encoding/binary"
	"math/big"
	"math/bits"
)

// maxWords is the length of the longest number that is looked at here, an RSA
// modulus of 4096 bits, in words of 64 bits.
const maxWords = 4096 / 64

// words returns n in words, the least significant first. It panics when n is
// longer than maxWords, which every caller has ruled out.
func words(n *big.Int) []uint64 {
	var buf [maxWords * 8]byte
	n.FillBytes(buf[:])
	out := make([]uint64, 0, maxWords)
	for end := len(buf); len(out)*64 < n.BitLen(); end -= 8 {
		out = append(out, binary.BigEndian.Uint64(buf[end-8:end]))
	}
	return out
}

// divisor divides long numbers by a number of one word. It knows the powers of
// 2^64 modulo that number, so that a division is a sum of products, which
// processors compute side by side, instead of one hardware division for each
// word that waits for the one before.
type divisor struct {
	n      uint64
	powers [maxWords]uint64 // powers[i] is 2^(64 i) mod n
}

func newDivisor(n uint64) *divisor {
	d := &divisor{n: n}
	power := 1 % n
	for i := range d.powers {
		d.powers[i] = power
		power = bits.Rem64(power, 0, n)
	}
	return d
}

// mod returns the remainder of a number of at most maxWords.
func (d *divisor) mod(words []uint64) uint64 {
	// The sum of maxWords products is less than 2^134, and has three words.
	var high, middle, low uint64
	powers := d.powers[:len(words)]
	for i, w := range words {
		h, l := bits.Mul64(w, powers[i])
		var carry uint64
		low, carry = bits.Add64(low, l, 0)
		middle, carry = bits.Add64(middle, h, carry)
		high += carry
	}
	return bits.Rem64(bits.Rem64(high, middle, d.n), low, d.n)
}

// squareRoot returns the root of a positive number, rounded down. It doubles the
// number of correct bits with each division, beginning with one, so that all but
// the last divide short numbers; [big.Int.Sqrt] begins with a guess and divides
// the whole number each time.
//
// The algorithm and its proof are those of Python's math.isqrt (CPython,
// Modules/mathmodule.c): before each step (a-1)^2 < n>>2(c-d) < (a+1)^2.
func squareRoot(n *big.Int) *big.Int {
	c := (n.BitLen() - 1) / 2
	a, quotient := big.NewInt(1), new(big.Int)
	d := 0
	for shift := bits.Len(uint(c)) - 1; shift >= 0; shift-- {
		e := d
		d = c >> shift
		quotient.Rsh(n, uint(2*c-e-d+1))
		quotient.Quo(quotient, a)
		a.Lsh(a, uint(d-e-1)).Add(a, quotient)
	}
	if quotient.Mul(a, a).Cmp(n) > 0 {
		a.Sub(a, big.NewInt(1))
	}
	return a
}
