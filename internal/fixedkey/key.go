package fixedkey

import (
	"crypto/elliptic"
	"math/big"
	"sync"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// point is what a group of nistec offers. Its Add is right for all points: that
// of P-384 is a complete formula, and that of P-256 looks for infinity and for
// equal points; for opposite ones its formula gives infinity by itself.
type point[T any] interface {
	*T
	Add(p, q *T) *T
	Double(p *T) *T
	Negate(p *T) *T
	SetGenerator() *T
	ScalarBaseMult(scalar []byte) (*T, error)
	BytesX() ([]byte, error)
}

// curve is a group of prime order.
type curve[T any, P point[T]] struct {
	identity func() P
	order    *big.Int
	size     int // of the order and of a coordinate, in bytes
	width    int // of the window of a table
	// base holds multiples of the generator, or is nil where nistec multiplies it
	// faster than additions of ours.
	base *table[T, P]
}

// p256 leaves the generator to nistec, whose tables for it are affine points in
// the binary, which it adds by a shorter formula.
var p256 = &curve[nistec.P256Point, *nistec.P256Point]{
	identity: nistec.NewP256Point,
	order:    elliptic.P256().Params().N,
	size:     32,
	width:    8,
}

// p384 has a table for the generator: that of nistec has windows of four bits,
// and is read in constant time, which signing needs and verifying does not.
var p384 = sync.OnceValue(func() *curve[nistec.P384Point, *nistec.P384Point] {
	c := &curve[nistec.P384Point, *nistec.P384Point]{
		identity: nistec.NewP384Point,
		order:    elliptic.P384().Params().N,
		size:     48,
		width:    7,
	}
	c.base = newTable(c, c.identity().SetGenerator())
	return c
})

// key is a public key with its multiples.
type key[T any, P point[T]] struct {
	*curve[T, P]
	multiples *table[T, P]
}

func newKey[T any, P point[T]](c *curve[T, P], q P) *key[T, P] {
	return &key[T, P]{c, newTable(c, q)}
}

// verify takes the steps of FIPS 186-5, Section 6.4.2.
func (k *key[T, P]) verify(digest, signature []byte) bool {
	r, s, ok := parse(signature)
	if !ok || !k.inRange(r) || !k.inRange(s) {
		return false
	}
	// The order is a multiple of eight bits, so the leftmost bits are bytes.
	e := new(big.Int).SetBytes(digest[:min(len(digest), k.size)])
	w := new(big.Int).ModInverse(s, k.order)
	u1 := e.Mod(e.Mul(e, w), k.order)
	u2 := w.Mod(w.Mul(w, r), k.order)

	sum, err := k.timesBase(u1)
	if err != nil {
		return false
	}
	k.multiples.addTo(sum, u2)
	// Infinity has no x: step 6 rejects it.
	x, err := sum.BytesX()
	if err != nil {
		return false
	}
	v := e.SetBytes(x)
	if v.Cmp(k.order) >= 0 { // x is below 2n
		v.Sub(v, k.order)
	}
	return v.Cmp(r) == 0
}

func (k *key[T, P]) inRange(v *big.Int) bool {
	return v.Sign() > 0 && v.Cmp(k.order) < 0
}

// timesBase returns scalar*G in a new point.
func (c *curve[T, P]) timesBase(scalar *big.Int) (P, error) {
	sum := c.identity()
	if c.base != nil {
		c.base.addTo(sum, scalar)
		return sum, nil
	}
	return sum.ScalarBaseMult(scalar.FillBytes(make([]byte, c.size)))
}

// parse reads a signature as strictly as crypto/ecdsa: whether its numbers are in
// range remains to be seen.
//
//	ECDSA-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
func parse(signature []byte) (r, s *big.Int, ok bool) {
	input := cryptobyte.String(signature)
	var inner cryptobyte.String
	r, s = new(big.Int), new(big.Int)
	ok = input.ReadASN1(&inner, asn1.SEQUENCE) && input.Empty() &&
		inner.ReadASN1Integer(r) && inner.ReadASN1Integer(s) && inner.Empty()
	return r, s, ok
}
