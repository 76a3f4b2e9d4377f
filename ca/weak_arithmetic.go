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

// isSquare reports whether the Legendre symbol of a number below a prime is one:
// whether it is a square modulo the prime, and not zero. The prime has at most
// 256 bits.
//
// It is the binary algorithm for the Jacobi symbol in four words; [big.Jacobi]
// takes a division, with several allocations, where this takes a subtraction.
// What it says follows from (2/n) = -1 exactly for n = 3 or 5 mod 8, from
// quadratic reciprocity, and from (a/n) = (a-n/n).
func isSquare(number, prime *big.Int) bool {
	a, n := fourWords(number), fourWords(prime)
	negative := false
	for a != [4]uint64{} {
		for a[0] == 0 {
			a = [4]uint64{a[1], a[2], a[3], 0} // 64 twos, an even number of them
		}
		if twos := bits.TrailingZeros64(a[0]); twos > 0 {
			for i := range 3 {
				a[i] = a[i]>>twos | a[i+1]<<(64-twos)
			}
			a[3] >>= twos
			if twos%2 == 1 && (n[0]%8 == 3 || n[0]%8 == 5) {
				negative = !negative
			}
		}
		rest, borrow := subtract(a, n)
		if borrow {
			rest, _ = subtract(n, a)
			a, n = n, a
			if a[0]%4 == 3 && n[0]%4 == 3 {
				negative = !negative
			}
		}
		a = rest
	}
	return n == [4]uint64{1} && !negative
}

func subtract(a, b [4]uint64) (rest [4]uint64, below bool) {
	var borrow uint64
	for i := range rest {
		rest[i], borrow = bits.Sub64(a[i], b[i], borrow)
	}
	return rest, borrow == 1
}

// fourWords returns a number below 2^256, the least significant word first.
func fourWords(n *big.Int) (out [4]uint64) {
	var buf [32]byte
	n.FillBytes(buf[:])
	for i := range out {
		out[i] = binary.BigEndian.Uint64(buf[24-8*i:])
	}
	return out
}
