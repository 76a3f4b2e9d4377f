package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/floor"
)

// scaleVariable says how many certificates the larger log of BenchmarkScale has. A
// million takes some minutes and 3 GB:
//
//	MAYFLY_SCALE_ENTRIES=1000000 go test -run '^$' -bench Scale -timeout 1h ./cmd/internal/stack
const (
	scaleVariable = "MAYFLY_SCALE_ENTRIES"
	scaleDefault  = 100_000
)

// BenchmarkScale is BenchmarkIssuance with a log in the box that is empty, and with
// one that has taken many certificates. Beside what that one reports there are
//
//	start-ms        until the service could issue
//	heap-MB         live memory after the start and the audit of the log
//	rss-MB          resident memory of the process, the benchmark's included
//	log-B           what a certificate takes in the log's directory for good
//	state-B         what one more took in the state directory: journal and log with
//	                what is not compacted yet
func BenchmarkScale(b *testing.B) {
	many := scaleDefault
	if text := os.Getenv(scaleVariable); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil {
			b.Fatalf("%s=%q: %v", scaleVariable, text, err)
		}
	}
	arithmetic := newFloor(b, floor.Spec{})
	for _, entries := range []int{0, many} {
		s := newSite(b)
		s.initLog()
		dir := LogDir(filepath.Join(s.dir, "state"), "local")
		s.fill(b, dir, entries)
		filled := diskUse(b, dir)
		begin := time.Now()
		r := s.loaded()
		started := time.Since(begin)
		s.audited(b, r, uint64(entries))
		heap, resident := memoryUse(b)
		ask := inProcess(b, r.server.Handler(), s.calls(apiV2, ""))
		b.Run(fmt.Sprintf("entries=%d", entries), func(b *testing.B) {
			before := diskUse(b, s.dir)
			measure(b, growthClients, arithmetic, ask)
			b.ReportMetric(started.Seconds()*1e3, "start-ms")
			b.ReportMetric(heap/1e6, "heap-MB")
			b.ReportMetric(resident/1e6, "rss-MB")
			b.ReportMetric((diskUse(b, s.dir)-before)/float64(b.N), "state-B")
			if entries > 0 {
				b.ReportMetric(filled/float64(entries), "log-B")
			}
		})
		s.must(r.stop())
		s.must(os.RemoveAll(s.dir))
	}
}

// fill adds certificates of another CA to the log, by its own interface: of its
// own, the audit would ask for the journal's records.
func (s *site) fill(b *testing.B, dir string, entries int) {
	b.Helper()
	if entries == 0 {
		return
	}
	other := newSite(b).behindTheBack()
	l, err := embedded.Open(b.Context(), embedded.Config{Dir: dir, Name: "local", MinFreeBytes: 1})
	s.must(err)
	e := embedded.Entry{Certificate: other.TBS, Precertificate: other.Precertificate, IssuerKeyHash: other.IssuerKeyHash, Issuers: other.Issuers}
	spread(entries, 512, func(int) time.Duration {
		_, err := l.Add(b.Context(), e)
		for errors.Is(err, ctlog.ErrOverloaded) {
			<-time.After(20 * time.Millisecond) // for the publisher
			_, err = l.Add(b.Context(), e)
		}
		if err != nil {
			b.Error(err)
		}
		return 0
	})
	s.must(l.Close(b.Context()))
}

// audited waits until the audit has read so many entries of the log, which happens
// once, in the background.
func (s *site) audited(b *testing.B, r *running, entries uint64) {
	b.Helper()
	deadline := time.After(auditedWithin)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if a := r.auditing.Load(); a != nil {
			if report := a.Round(b.Context()); len(report.Logs) == 1 && report.Logs[0].Size >= entries {
				return
			}
		}
		select {
		case <-deadline:
			b.Fatalf("the audit has not read %d entries in %v", entries, auditedWithin)
		case <-tick.C:
		}
	}
}

// auditedWithin is enough for a few million entries.
const auditedWithin = 10 * time.Minute

// diskUse is what the files below a directory occupy.
func diskUse(b *testing.B, dir string) (bytes float64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the log has just replaced it
		}
		if err == nil {
			bytes += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	return bytes
}

// memoryUse collects garbage, and returns what lives and what is resident.
func memoryUse(t testing.TB) (heap, resident float64) {
	t.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(data))[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return float64(m.HeapAlloc), pages * float64(os.Getpagesize())
}
