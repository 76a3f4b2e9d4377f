package auditor

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/audit"
)

// TestNoFalseAlarm has three replicas issue into a log, which is rotated on the way,
// while the audit runs on one of them with copies of the others' journals that lag.
// MAYFLY_AUDITED_CERTIFICATES says how many certificates; docs/log-audit.md has the
// figures for a million.
func TestNoFalseAlarm(t *testing.T) {
	total := uint64(10_000)
	if text := os.Getenv("MAYFLY_AUDITED_CERTIFICATES"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		total = n
	}
	f := newFleet(t, total)
	start, heap := time.Now(), uint64(0)
	var auditing time.Duration
	const steps = 20
	for step := range uint64(steps) {
		f.issue(step*total/steps, (step+1)*total/steps)
		// Copies are made after each step, but of the third replica after each fourth.
		f.copy(1)
		if step%4 == 3 {
			f.copy(2)
		}
		if step == 7 {
			f.restart()
		}
		began := time.Now()
		r := f.round()
		for range 20 {
			if r.CaughtUp {
				break
			}
			r = f.round() // a round has a bound, which a slow machine meets
		}
		auditing += time.Since(began)
		heap = max(heap, heapInUse())
		if r.Promised != 0 || !r.CaughtUp {
			t.Fatalf("step %d: %d promises are not kept, caught up: %v", step, r.Promised, r.CaughtUp)
		}
	}
	f.clock.advance(time.Minute)
	f.grow()
	f.mark()
	f.copy(1)
	f.copy(2)
	r := f.round()
	var ours uint64
	for _, l := range r.Logs {
		ours += l.Size
	}
	if ours != total || r.Pending != 0 {
		t.Errorf("%d of %d entries were proven, %d wait", ours, total, r.Pending)
	}
	t.Logf("%d certificates: audit %v, in all %v, heap at most %d MiB, state %d MiB", total, auditing.Round(time.Millisecond),
		time.Since(start).Round(time.Millisecond), heap>>20, sizeOf(t, f.config.Dir)>>20)

	// Among them all, the one that nobody issued is found.
	f.unknown()
	f.mark()
	f.copy(1)
	f.copy(2)
	f.round(Unexplained)
}

// fleet is three replicas and two shards of a log.
type fleet struct {
	*office
	total    uint64
	journals []*audit.Journal
	logs     []*testLog
}

func newFleet(t *testing.T, total uint64) *fleet {
	f := &fleet{office: newOffice(t), total: total}
	f.journals = []*audit.Journal{f.journal}
	for _, name := range []string{"second", "third"} {
		f.journals = append(f.journals, openJournal(t, f.path(name), f.clock, 2<<20))
		f.targets.Journals = append(f.targets.Journals, Journal{Name: name, Dir: f.path("copy of " + name)})
	}
	for i, name := range []string{"2026", "2027"} {
		l := newTestLog(t, name, f.clock, func(n uint64) item { return numbered(uint64(i)*f.rotation() + n) })
		f.logs = append(f.logs, l)
		f.targets.Logs = append(f.targets.Logs, l.target())
	}
	f.copy(1)
	f.copy(2)
	f.open()
	return f
}

// rotation is the first certificate that goes into the second log.
func (f *fleet) rotation() uint64 { return f.total * 3 / 5 }

// issue has the replicas issue certificates [from, to) in turns, many at once, and
// publishes them.
func (f *fleet) issue(from, to uint64) {
	f.t.Helper()
	f.clock.advance(max(30*time.Second, time.Duration(to-from)*time.Millisecond)) // see numbered
	const workers = 256
	var all sync.WaitGroup
	for w := range uint64(workers) {
		all.Go(func() {
			for n := from + w; n < to; n += workers {
				j, l, index := f.journals[n%3], f.logs[0], n
				if n >= f.rotation() {
					l, index = f.logs[1], n-f.rotation()
				}
				promiseIn(f.t, j, intend(f.t, j, n, numbered(n)), n, l, numbered(n), int64(index))
			}
		})
	}
	all.Wait()
	first := min(to, f.rotation()) - min(from, f.rotation())
	f.logs[0].grow(first)
	f.logs[1].grow(to - from - first)
	f.mark()
}

func (f *fleet) grow() {
	for _, l := range f.logs {
		l.grow(0)
	}
}

// unknown puts an entry into the second log that no replica knows.
func (f *fleet) unknown() {
	f.clock.advance(30 * time.Second)
	f.logs[0].grow(0) // the second goes on with certificates that nobody has issued
	f.logs[1].grow(1)
	f.clock.advance(30 * time.Second)
	f.auditor.Round(f.t.Context())
	f.clock.advance(30 * time.Second)
	f.grow()
}

func (f *fleet) mark() {
	f.t.Helper()
	for _, j := range f.journals {
		if err := j.Mark(); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fleet) copy(replica int) {
	f.t.Helper()
	name := []string{"journal", "second", "third"}[replica]
	copyJournal(f.t, f.path(name), f.path("copy of "+name))
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func sizeOf(t *testing.T, dir string) (sum int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			sum += sizeOf(t, fmt.Sprintf("%s/%s", dir, e.Name()))
			continue
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
