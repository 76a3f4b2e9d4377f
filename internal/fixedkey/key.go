package fixedkey

import (
	"crypto/elliptic"
	"math/big"
	"sync"

	"filippo.io/nistec"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// point is what nistec offers of a group. Its Add is right for all points: that
// of P-384 is a complete formula, and that of P-256 looks for infinity and for
// equal points; for opposite ones its formula gives infinity by itself.
type point[T any] interface {
	*T
	Set(p *T) *T
	SetGenerator() *T
	SetBytes(encoded []byte) (*T, error)
	Add(p, q *T) *T
	Double(p *T) *T
	Negate(p *T) *T
	ScalarBaseMult(scalar []byte) (*T, error)
	BytesX() ([]byte, error)
}

// curve is a group of prime order. Orders and coordinates are of the same size,
// which is a multiple of eight bits.
type curve[T any, P point[T]] struct {
	identity func() P
	order    *big.Int
	size     int
	// width is that of a window in bits. Another bit saves an addition in eight,
	// and doubles the memory, until it no longer fits the cache of a core.
	width int
	// base has the multiples of the generator, or is nil where nistec is faster.
	base *table[T, P]
}

// p256 leaves the generator to nistec, which has affine multiples of it in the
// binary, and a shorter formula to add them.
var p256 = &curve[nistec.P256Point, *nistec.P256Point]{
	identity: nistec.NewP256Point,
	order:    elliptic.P256().Params().N,
	size:     32,
	width:    8,
}

// p384 has a table for the generator too: the windows of nistec's have four bits,
// and it reads all of a window to hide which entry it needs, as one who signs
// must. Entries are on the heap, three objects each, and the garbage collector
// marks them: hence the narrower window.
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

// tables is a public key with its multiples.
type tables[T any, P point[T]] struct {
	*curve[T, P]
	key       *table[T, P]
	scratches sync.Pool
}

// scratch is what one verification needs, and would allocate. Nothing in it is
// secret, and each field is set before it is read.
type scratch[T any, P point[T]] struct {
	r, s, e, w             big.Int
	product, quotient, mod big.Int
	scalar                 []byte
	sum, negative          P
}

func newTables[T any, P point[T]](c *curve[T, P], encoded []byte) (*tables[T, P], error) {
	q, err := c.identity().SetBytes(encoded)
	if err != nil {
		return nil, err
	}
	t := &tables[T, P]{curve: c, key: newTable(c, q)}
	t.scratches.New = func() any {
		return &scratch[T, P]{scalar: make([]byte, c.size), sum: c.identity(), negative: c.identity()}
	}
	return t, nil
}

// verify takes the steps of FIPS 186-5, Section 6.4.2.
func (t *tables[T, P]) verify(digest, signature []byte) bool {
	x := t.scratches.Get().(*scratch[T, P]) //nolint:errcheck // nothing else is put there
	defer t.scratches.Put(x)

	if !parse(signature, &x.r, &x.s) || !t.inRange(&x.r) || !t.inRange(&x.s) {
		return false
	}
	x.e.SetBytes(digest[:min(len(digest), t.size)])
	x.w.ModInverse(&x.s, t.order)
	// R = (e/s)*G + (r/s)*Q
	if !t.setToBase(x, t.multiply(x, &x.e, &x.w)) {
		return false
	}
	t.key.addTo(x.sum, x.negative, t.multiply(x, &x.r, &x.w))
	coordinate, err := x.sum.BytesX()
	if err != nil { // infinity, which has none
		return false
	}
	v := x.e.SetBytes(coordinate)
	if v.Cmp(t.order) >= 0 { // it is below twice the order
		v.Sub(v, t.order)
	}
	return v.Cmp(&x.r) == 0
}

func (c *curve[T, P]) inRange(v *big.Int) bool {
	return v.Sign() > 0 && v.Cmp(c.order) < 0
}

// multiply returns a*b modulo the order, in x.scalar.
func (c *curve[T, P]) multiply(x *scratch[T, P], a, b *big.Int) []byte {
	x.product.Mul(a, b)
	x.quotient.QuoRem(&x.product, c.order, &x.mod)
	return x.mod.FillBytes(x.scalar)
}

// setToBase sets x.sum to scalar*G.
func (c *curve[T, P]) setToBase(x *scratch[T, P], scalar []byte) bool {
	if c.base == nil {
		_, err := x.sum.ScalarBaseMult(scalar)
		return err == nil
	}
	x.sum.Set(c.identity())
	c.base.addTo(x.sum, x.negative, scalar)
	return true
}

// parse reads a signature as strictly as crypto/ecdsa. Whether the numbers are in
// range, and positive, remains to be seen.
//
//	ECDSA-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
func parse(signature []byte, r, s *big.Int) bool {
	input := cryptobyte.String(signature)
	var inner cryptobyte.String
	return input.ReadASN1(&inner, asn1.SEQUENCE) && input.Empty() &&
		inner.ReadASN1Integer(r) && inner.ReadASN1Integer(s) && inner.Empty()
}
