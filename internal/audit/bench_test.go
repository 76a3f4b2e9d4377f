package audit

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRecord is what a certificate costs here: one intent and its outcome, on a
// real disk. Beside the usual figures it reports
//
//	cpu-us             CPU time of the process for one certificate
//	syncs/certificate  how often the journal was synced for one
func BenchmarkRecord(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkRecord(b, callers) })
	}
}

func benchmarkRecord(b *testing.B, callers int) {
	var syncs atomic.Int64
	c := config(newDir(b))
	c.disk = func(d disk) disk { return countingDisk{d, &syncs} }
	j := openJournal(b, c)
	i := intent(b, 0)
	var next atomic.Uint64
	done := make(chan error, callers)
	b.ReportAllocs()
	b.ResetTimer()
	syncs.Store(0)
	start := processCPU(b)
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
	b.ReportMetric(float64((processCPU(b)-start).Microseconds())/float64(b.N), "cpu-us")
	b.ReportMetric(float64(syncs.Load())/float64(b.N), "syncs/certificate")
}

// countingDisk counts the syncs of its segments.
type countingDisk struct {
	disk
	syncs *atomic.Int64
}

type countingSegment struct {
	segment
	syncs *atomic.Int64
}

func (d countingDisk) create(seq uint64) (segment, error) {
	s, err := d.disk.create(seq)
	return countingSegment{s, d.syncs}, err
}

func (s countingSegment) sync() error {
	s.syncs.Add(1)
	return s.segment.sync()
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
