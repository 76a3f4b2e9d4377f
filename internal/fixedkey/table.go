package fixedkey

// table holds multiples of a point B, so that any multiple of it is a sum of one
// entry for each window of the scalar: row i has d*2^(width*i)*B at d-1, for d in
// [1, 2^(width-1)]. A larger digit counts as what it lacks to the next window's
// one, and the negative of that entry is added; so half the entries do.
type table[T any, P point[T]] struct {
	width int
	rows  [][]T
}

func newTable[T any, P point[T]](c *curve[T, P], b P) *table[T, P] {
	half := 1 << (c.width - 1)
	// One row is for the carry out of the order's last bit.
	t := &table[T, P]{width: c.width, rows: make([][]T, c.order.BitLen()/c.width+1)}
	for i := range t.rows {
		row := make([]T, half)
		row[0] = *c.identity().Set(b)
		for d := 1; d < half; d++ {
			row[d] = *c.identity().Add(&row[d-1], b)
		}
		t.rows[i] = row
		b = c.identity().Double(&row[half-1])
	}
	return t
}

// addTo adds scalar*B to sum, for a big-endian scalar below the order. It computes
// in negative.
func (t *table[T, P]) addTo(sum, negative P, scalar []byte) {
	carry := 0
	for i, row := range t.rows {
		digit := carry + window(scalar, i*t.width, t.width)
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

// window returns some bits, at most eight, of a big-endian number, from the one
// with the value 2^offset upwards. Beyond the number are zeros.
func window(number []byte, offset, bits int) int {
	at := func(i int) int {
		if i >= len(number) {
			return 0
		}
		return int(number[len(number)-1-i])
	}
	i := offset / 8
	return (at(i) | at(i+1)<<8) >> (offset % 8) & (1<<bits - 1)
}
