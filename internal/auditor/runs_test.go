package auditor

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"
)

// What was added is found, by each way of looking, and nothing else.
func TestRunsFindWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	x, err := openRuns(dir)
	if err != nil {
		t.Fatal(err)
	}
	numberedHash := func(n int) hash { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	at := func(n int) time.Time { return began.Add(time.Duration(n) * time.Second) }
	const runsOf, total = 3000, 9000
	for n := range total {
		x.add(numberedHash(n), at(n))
		if n%runsOf == runsOf-1 {
			if err := x.flush(string(rune('a'+n/runsOf)), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if x, err = openRuns(dir); err != nil {
		t.Fatal(err)
	}
	x.add(numberedHash(total), at(total))
	check := func(what string, look func(hash, int) (bool, error), n int, want bool) {
		t.Helper()
		if got, err := look(numberedHash(n), n); err != nil || got != want {
			t.Fatalf("%s finds %d: %v, %v, want %v", what, n, got, err, want)
		}
	}
	for n := range total + 1 {
		check("within", func(h hash, n int) (bool, error) { return x.within(h, at(n), 0) }, n, true)
		check("within some time", func(h hash, n int) (bool, error) { return x.within(h, at(n).Add(closeBy), closeBy) }, n, true)
		check("has", func(h hash, _ int) (bool, error) { return x.has(h) }, n, true)
	}
	for n := total + 1; n < total+1000; n++ {
		check("within", func(h hash, n int) (bool, error) { return x.within(h, at(n-total), closeBy) }, n, false)
		check("has", func(h hash, _ int) (bool, error) { return x.has(h) }, n, false)
	}
	// The smallest and the largest hash there can be.
	for _, h := range []hash{{}, hash(slicesOf(0xff))} {
		if got, err := x.has(h); got || err != nil {
			t.Errorf("has finds %x: %v, %v", h, got, err)
		}
	}
}

func slicesOf(b byte) []byte {
	s := make([]byte, 32)
	for i := range s {
		s[i] = b
	}
	return s
}
