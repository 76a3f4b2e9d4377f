package ca

import (
	"errors"
	"math/big"
	"slices"
	"sync"
)

// edwards holds the constants of edwards25519 that the checks need:
//
//	-x^2 + y^2 = 1 + d x^2 y^2   over the field of p = 2^255 - 19
type edwards struct {
	p, d *big.Int
	// torsion are the y coordinates of the eight points whose order divides 8:
	// 1 (the neutral element), -1 (order 2), 0 (order 4, twice) and the two of
	// the four points of order 8.
	torsion [5]*big.Int
}

var curve25519 = sync.OnceValue(func() edwards {
	one := big.NewInt(1)
	p := new(big.Int).Lsh(one, 255)
	p.Sub(p, big.NewInt(19))
	// RFC 8032, Section 5.1: d = -121665/121666.
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	// Doubling a point of order 8 gives one with y = 0; so x^2 = -y^2, and the
	// curve's equation becomes d y^4 + 2 y^2 - 1 = 0, whose solution is
	// y^2 = (-1 +- sqrt(1 + d)) / d. One of the two is a square.
	root := new(big.Int).ModSqrt(new(big.Int).Add(one, d), p)
	y8 := new(big.Int)
	for _, r := range []*big.Int{root, new(big.Int).Neg(root)} {
		y2 := new(big.Int).Sub(r, one)
		y2.Mul(y2, new(big.Int).ModInverse(d, p)).Mod(y2, p)
		if big.Jacobi(y2, p) == 1 {
			y8.ModSqrt(y2, p)
		}
	}
	return edwards{p: p, d: d, torsion: [5]*big.Int{
		new(big.Int), one, new(big.Int).Sub(p, one), y8, new(big.Int).Sub(p, y8),
	}}
})

// checkEd25519 refuses what is no public key of an honest signer: encodings
// that are not canonical, that are no point of the curve, and the eight points
// of small order, for which one signature fits many messages.
//
// Points with a component of small order pass: their signatures are as hard to
// forge as any, and telling them costs a scalar multiplication.
func checkEd25519(key [32]byte) error {
	c := curve25519()
	// RFC 8032, Section 5.1.2: y as 255-bit little-endian integer, the sign of
	// x in the most significant bit of the final octet.
	key[31] &= 0x7f
	slices.Reverse(key[:])
	y := new(big.Int).SetBytes(key[:])
	if y.Cmp(c.p) >= 0 {
		return errors.New("encoding is not canonical")
	}
	// Matching y alone covers both signs of x, and with them the encodings of
	// x = 0 with the sign set, which Section 5.1.3 forbids.
	for _, t := range c.torsion {
		if y.Cmp(t) == 0 {
			return errors.New("point of small order")
		}
	}
	// Section 5.1.3: x^2 = (y^2 - 1) / (d y^2 + 1) must have a root. The
	// quotient is a square exactly when the product is.
	y2 := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(y2, big.NewInt(1))
	v := y2.Mul(y2, c.d).Add(y2, big.NewInt(1))
	if u.Mul(u, v); !isSquare(u.Mod(u, c.p), c.p) {
		return errors.New("not a point of the curve")
	}
	return nil
}
