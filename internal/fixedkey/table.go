package fixedkey

import "math/big"

// table holds multiples of a point B, so that any multiple of it is a sum of one
// entry for each window of the scalar: d*2^(width*i)*B is in row i at d-1, for d
// in [1, 2^(width-1)]. Digits are signed, which halves it: a negative one adds the
// negative of an entry.
type table[T any, P point[T]] struct {
	identity func() P
	width    int
	rows     [][]T
}

func newTable[T any, P point[T]](c *curve[T, P], b P) *table[T, P] {
	half := 1 << (c.width - 1)
	// The last row is for the carry too.
	t := &table[T, P]{identity: c.identity, width: c.width, rows: make([][]T, c.order.BitLen()/c.width+1)}
	for i := range t.rows {
		row := make([]T, half)
		row[0] = *c.identity().Add(c.identity(), b)
		for d := 1; d < half; d++ {
			row[d] = *c.identity().Add(&row[d-1], b)
		}
		t.rows[i] = row
		// The last entry is 2^(width-1)*b.
		b = c.identity().Double(&row[half-1])
	}
	return t
}

// addTo adds scalar*B to sum, for a scalar below the order of the group.
func (t *table[T, P]) addTo(sum P, scalar *big.Int) {
	negative := t.identity()
	carry := 0
	for i, row := range t.rows {
		digit := carry + t.window(scalar, i)
		carry = 0
		if digit > len(row) {
			digit -= 2 * len(row)
			carry = 1
		}
		switch {
		case digit > 0:
			sum.Add(sum, &row[digit-1])
		case digit < 0:
			sum.Add(sum, negative.Negate(&row[-digit-1]))
		}
	}
}

// window returns the bits of the scalar that belong to row i.
func (t *table[T, P]) window(scalar *big.Int, i int) int {
	bits := 0
	for j := t.width - 1; j >= 0; j-- {
		bits = bits<<1 | int(scalar.Bit(i*t.width+j))
	}
	return bits
}
