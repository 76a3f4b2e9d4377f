package embedded

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// entriesVariable says how many entries the log of BenchmarkSubmit has when it
// begins. A million takes about a minute and 3 GB to make:
//
//	MAYFLY_EMBEDDED_BENCH_ENTRIES=1000000 go test -run '^$' -bench Submit ./ctlog/embedded
const entriesVariable = "MAYFLY_EMBEDDED_BENCH_ENTRIES"

// BenchmarkSubmit measures SCTs a second and latency, to the disk and back, for
// clients that each wait for their SCT, beside what one fdatasync costs on the
// same disk in the same run. It also reports
//
//	cpu-us        CPU time of the process for one SCT, publishing included
//	arithmetic-us that of what cannot be spared: signing it with the standard library
//	              and verifying it with the log's own verifier
//	syncs/SCT     how often the sequence was synced for one SCT
func BenchmarkSubmit(b *testing.B) {
	entries := 0
	if s := os.Getenv(entriesVariable); s != "" {
		var err error
		if entries, err = strconv.Atoi(s); err != nil {
			b.Fatalf("%s=%q: %v", entriesVariable, s, err)
		}
	}
	ca := testca.New(b)
	submissions := make([]ctlog.Submission, 512)
	for i := range submissions {
		submissions[i] = ca.Precertificate(b)
	}
	dir, _ := initLog(b)
	c := Config{Dir: dir, Name: "bench", MinFreeBytes: 1, fs: &countingFS{FS: disk.OS{}}}
	l := openLog(b, c)
	top := b // closes the log, after all
	bulkFill(b, l, submissions, entries)
	b.Run(fmt.Sprintf("entries=%d/start", entries), func(b *testing.B) {
		var took time.Duration
		var memory uint64
		for b.Loop() {
			closeLog(b, l)
			l = nil
			before, start := heap(), time.Now()
			l = openLog(top, c)
			took += time.Since(start)
			memory += heap() - before
		}
		b.ReportMetric(milliseconds(took)/float64(b.N), "start-ms")
		b.ReportMetric(float64(memory)/1024/float64(b.N), "kB-memory")
		if entries > 0 {
			b.ReportMetric(float64(treeBytes(b, dir))/float64(entries), "B/entry")
		}
	})
	for _, clients := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("entries=%d/clients=%d", entries, clients), func(b *testing.B) {
			sync50, sync99 := syncCost(b, filepath.Dir(dir))
			arithmetic := arithmetic(b, l)
			b.ReportAllocs()
			syncs, cpu := c.fs.(*countingFS).syncs.Load(), processCPU(b)
			latencies := measure(b, l, submissions, clients)
			cpu = processCPU(b) - cpu
			b.ReportMetric(float64(c.fs.(*countingFS).syncs.Load()-syncs)/float64(b.N), "syncs/SCT")
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us")
			b.ReportMetric(float64(arithmetic.Nanoseconds())/1000, "arithmetic-us")
			p50, p99 := quantiles(latencies)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "SCTs/s")
			b.ReportMetric(milliseconds(p50), "p50-ms")
			b.ReportMetric(milliseconds(p99), "p99-ms")
			b.ReportMetric(milliseconds(sync50), "fdatasync-p50-ms")
			b.ReportMetric(milliseconds(sync99), "fdatasync-p99-ms")
		})
	}
}

// countingFS counts how often a file's data was synced, which only the sequence
// asks for.
type countingFS struct {
	disk.FS
	syncs atomic.Int64
}

type countingFile struct {
	disk.File
	syncs *atomic.Int64
}

func (f *countingFS) OpenFile(path string, flag int, perm os.FileMode) (disk.File, error) {
	file, err := f.FS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return countingFile{file, &f.syncs}, nil
}

func (f countingFile) Datasync() error {
	f.syncs.Add(1)
	return f.File.Datasync()
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// arithmetic is the CPU time of a signature of the log's key and its verification.
func arithmetic(b *testing.B, l *Log) time.Duration {
	b.Helper()
	const rounds = 300
	digest := sha256.Sum256([]byte("an entry"))
	start := processCPU(b)
	for range rounds {
		signature, err := l.key.Sign(b.Context(), digest[:], crypto.SHA256)
		if err != nil || !l.verifier.verify(digest[:], signature) {
			b.Fatalf("signature does not verify: %v", err)
		}
	}
	return (processCPU(b) - start) / rounds
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantiles(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}

func measure(b *testing.B, l *Log, submissions []ctlog.Submission, clients int) []time.Duration {
	latencies := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				start := time.Now()
				if _, err := l.Submit(context.Background(), submissions[i%int64(len(submissions))]); err != nil {
					b.Errorf("Submit: %v", err)
					return
				}
				latencies[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	return latencies
}

// syncCost is what writing a block into a file that has room for it, and a
// fdatasync, takes on this disk now.
func syncCost(b *testing.B, dir string) (p50, p99 time.Duration) {
	f, err := os.CreateTemp(dir, "fdatasync")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.Remove(f.Name()); _ = f.Close() }()
	const n = 200
	if _, err := f.Write(make([]byte, n*4096)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		if _, err := f.WriteAt(make([]byte, 4096), int64(i)*4096); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(start)
	}
	return quantiles(took)
}

// bulkFill adds entries by the way that submissions go, without signing SCTs
// that nobody waits for.
func bulkFill(b *testing.B, l *Log, submissions []ctlog.Submission, entries int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 512 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(entries); i = next.Add(1) - 1 {
				s := submissions[i%int64(len(submissions))]
				e := Entry{Certificate: s.TBS, Precertificate: s.Precertificate, IssuerKeyHash: s.IssuerKeyHash, Issuers: s.Issuers}
				for {
					if _, err := l.enqueue(context.Background(), e); err == nil {
						break
					} else if !errors.Is(err, ctlog.ErrOverloaded) {
						b.Errorf("enqueue: %v", err)
						return
					}
					<-time.After(20 * time.Millisecond) // for the publisher
				}
			}
		})
	}
	wg.Wait()
}

// treeBytes is what readers can fetch.
func treeBytes(b *testing.B, dir string) (size int64) {
	err := filepath.WalkDir(filepath.Join(dir, treeDir), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return size
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
