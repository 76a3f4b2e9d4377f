package audit

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkIntent is one intent and its outcome, on a real disk.
func BenchmarkIntent(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			j := openJournal(b, config(newDir(b)))
			i := intent(b, 0)
			var next atomic.Uint64
			done := make(chan error, callers)
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				go func() {
					for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
						i := i
						i.Serial = serial(n)
						seq, err := j.Intent(context.Background(), i)
						if err == nil {
							err = j.Outcome(context.Background(), issued(seq, n))
						}
						if err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerify is a start: every record is read.
func BenchmarkVerify(b *testing.B) {
	dir := newDir(b)
	j := openJournal(b, config(dir))
	done := make(chan error)
	const n = 2000
	for i := range uint64(n) {
		go func() {
			_, err := j.Intent(context.Background(), intent(b, i))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	closeJournal(b, j)
	var size int64
	for _, file := range segmentFiles(b, dir) {
		size += int64(len(readFile(b, file)))
	}
	b.SetBytes(size)
	for b.Loop() {
		mustVerify(b, dir)
	}
}
