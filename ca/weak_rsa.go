package ca

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"math"
	"math/big"
	"sync"

	"github.com/titanous/rocacheck"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// rsaExponent is the only public exponent accepted. Small ones have a history
// of forgeries and larger ones cost every verifier.
const rsaExponent = 65537

// rsaKinds tells the kind of a modulus by its length in bits.
var rsaKinds = map[int]KeyKind{2048: KeyRSA2048, 3072: KeyRSA3072, 4096: KeyRSA4096}

// parseRSA reads an RSA key and refuses weak ones:
//
//	RSAPublicKey ::= SEQUENCE {
//	    modulus         INTEGER,  -- n
//	    publicExponent  INTEGER } -- e
//
// RFC 3279, Section 2.3.1: "The parameters field MUST have ASN.1 type NULL for
// this algorithm identifier."
func parseRSA(params cryptobyte.String, bits []byte) (crypto.PublicKey, KeyKind, *Refusal) {
	in := cryptobyte.String(bits)
	var null, seq cryptobyte.String
	n, e := new(big.Int), new(big.Int)
	if !params.ReadASN1(&null, cryptobyte_asn1.NULL) || !null.Empty() || !params.Empty() ||
		!in.ReadASN1(&seq, cryptobyte_asn1.SEQUENCE) || !in.Empty() ||
		!seq.ReadASN1Integer(n) || !seq.ReadASN1Integer(e) || !seq.Empty() ||
		n.Sign() <= 0 || e.Sign() <= 0 {
		return nil, "", Refuse(KindInvalid, ReasonKeyMalformed, "RSA key is not an RSAPublicKey of positive numbers")
	}
	// Up to here the numbers were only copied. Lengths come before arithmetic:
	// with a modulus or exponent of the client's length, the client would choose
	// how long we compute.
	kind, ok := rsaKinds[n.BitLen()]
	switch {
	case n.BitLen() < 2048:
		return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "RSA modulus of %d bits", n.BitLen())
	case !ok:
		return nil, "", Refuse(KindInvalid, ReasonKeyUnsupported, "RSA modulus of %d bits, not 2048, 3072 or 4096", n.BitLen())
	case e.Cmp(big.NewInt(rsaExponent)) != 0:
		return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "RSA exponent, of %d bits, is not %d", e.BitLen(), rsaExponent)
	}
	if !bytes.Equal(bits, encodeRSA(n)) {
		return nil, "", Refuse(KindInvalid, ReasonKeyMalformed, "RSA key is not in canonical DER")
	}
	pub := &rsa.PublicKey{N: n, E: rsaExponent}
	if err := checkRSA(pub); err != nil {
		return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "RSA key: %w", err)
	}
	return pub, kind, nil
}

// encodeRSA returns the RSAPublicKey of a modulus whose length is a multiple of
// eight bits, so that DER puts a zero before it.
func encodeRSA(n *big.Int) []byte {
	octets := n.BitLen() / 8
	b := make([]byte, 1+octets, octets+24)
	n.FillBytes(b[1:])
	b = enclose(b, 0, cryptobyte_asn1.INTEGER)
	b = append(b, byte(cryptobyte_asn1.INTEGER), 3, 1, 0, 1) // rsaExponent
	return enclose(b, 0, cryptobyte_asn1.SEQUENCE)
}

// checkRSA refuses moduli that are known to be easy to factor. It trusts that
// the length of the modulus was checked.
func checkRSA(pub *rsa.PublicKey) error {
	switch {
	case pub.N.Bit(0) == 0:
		return errors.New("modulus is even")
	case hasSmallFactor(words(pub.N)):
		return errors.New("modulus has a small prime factor")
	case rocacheck.IsWeak(pub):
		return errors.New("modulus bears the mark of CVE-2017-15361 (ROCA)")
	case fermatClose(pub.N):
		return errors.New("factors of the modulus are too close (CVE-2022-26320)")
	}
	return nil
}

// smallPrimeLimit bounds the primes that a modulus is tried for. No correct
// generator makes a key with such a factor; keys that were damaged or invented
// have one with a probability of about 0.9.
const smallPrimeLimit = 2048

// primeGroup are some primes and their product, which fits in a word: what is
// left of a modulus after one division by the product tells about all of them.
type primeGroup struct {
	product *divisor
	primes  []uint64
}

// smallPrimes are the odd primes below smallPrimeLimit in groups.
var smallPrimes = sync.OnceValue(func() (groups []primeGroup) {
	product, primes := uint64(1), []uint64(nil)
	for p := uint64(3); p < smallPrimeLimit; p += 2 {
		// ProbablyPrime(0) is exact below 2^64.
		if !new(big.Int).SetUint64(p).ProbablyPrime(0) {
			continue
		}
		if product > math.MaxUint64/p {
			groups = append(groups, primeGroup{newDivisor(product), primes})
			product, primes = 1, nil
		}
		product, primes = product*p, append(primes, p)
	}
	return append(groups, primeGroup{newDivisor(product), primes})
})

// hasSmallFactor reports that one of the odd primes below smallPrimeLimit divides
// the number.
func hasSmallFactor(words []uint64) bool {
	for _, g := range smallPrimes() {
		rest := g.product.mod(words)
		for _, p := range g.primes {
			if rest%p == 0 {
				return true
			}
		}
	}
	return false
}

// fermatRounds is what public CAs use (CA/Browser Forum Baseline Requirements,
// Section 6.1.1.3 (5)(c): "at least 100 rounds of Fermat's factorization
// method").
const fermatRounds = 100

// fermatClose reports whether Fermat's method factors n within fermatRounds.
//
// With n = pq odd, a = (p+q)/2 and b = (p-q)/2, n = a^2 - b^2: beginning at the
// square root of n, rounded up, the method tries each a and asks whether a^2 - n
// is a square. A square root of that size costs microseconds, so the numbers
// that are no square modulo a few small numbers, which are nearly all, are
// dismissed in machine words first.
func fermatClose(n *big.Int) bool {
	a := squareRoot(n)
	if new(big.Int).Mul(a, a).Cmp(n) == 0 {
		return true // p = q
	}
	a.Add(a, big.NewInt(1))

	aRest, nRest := squareModulus().mod(words(a)), squareModulus().mod(words(n))
	var aMod, nMod [len(squareModuli)]int
	for i, m := range squareModuli {
		aMod[i], nMod[i] = int(aRest%uint64(m)), int(nRest%uint64(m))
	}
	tables := squares()
	b, b2 := new(big.Int), new(big.Int)
	for round := range fermatRounds {
		maybe := true
		for i, m := range squareModuli {
			r := (aMod[i] + round) % m
			if !tables[i][(r*r+m-nMod[i])%m] {
				maybe = false
				break
			}
		}
		if !maybe {
			continue
		}
		b2.Add(a, big.NewInt(int64(round)))
		b2.Mul(b2, b2).Sub(b2, n)
		b.Sqrt(b2)
		if b.Mul(b, b).Cmp(b2) == 0 {
			return true
		}
	}
	return false
}

// squareModuli are pairwise coprime; one number in a few hundred that is no
// square is a square modulo each of them.
var squareModuli = [...]int{64, 63, 65, 11, 17, 19, 23, 31}

// squareModulus divides by the product of all of them.
var squareModulus = sync.OnceValue(func() *divisor {
	product := uint64(1)
	for _, m := range squareModuli {
		product *= uint64(m)
	}
	return newDivisor(product)
})

// squares tells for each of squareModuli which remainders a square can have.
var squares = sync.OnceValue(func() (tables [len(squareModuli)][]bool) {
	for i, m := range squareModuli {
		tables[i] = make([]bool, m)
		for r := range m {
			tables[i][r*r%m] = true
		}
	}
	return tables
})
