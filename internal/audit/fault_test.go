package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ca"
)

// faults is a disk that fails on order. A failure may have happened or not:
// both are what disks do.
type faults struct {
	disk
	mu sync.Mutex
	// mu guards what follows.
	writeErr, syncErr, createErr error
	writeAnyway                  bool // the write happens, and fails
	short                        int  // bytes that a failing write writes
	syncs                        int
	freeBytes                    *int64
	freeErr                      error
	gate                         chan struct{} // syncs wait for it
}

func (f *faults) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// syncCount is how many syncs there were.
func (f *faults) syncCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncs
}

func (f *faults) create(seq uint64) (segment, error) {
	f.mu.Lock()
	err := f.createErr
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s, err := f.disk.create(seq)
	if err != nil {
		return nil, err
	}
	return &faultySegment{segment: s, f: f}, nil
}

func (f *faults) free() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.freeErr != nil {
		return 0, f.freeErr
	}
	if f.freeBytes != nil {
		return *f.freeBytes, nil
	}
	return f.disk.free()
}

type faultySegment struct {
	segment
	f *faults
}

func (s *faultySegment) Write(p []byte) (int, error) {
	s.f.mu.Lock()
	err, anyway, short := s.f.writeErr, s.f.writeAnyway, s.f.short
	s.f.mu.Unlock()
	if err == nil || anyway {
		n, werr := s.segment.Write(p)
		return n, errors.Join(err, werr)
	}
	n, werr := s.segment.Write(p[:min(short, len(p))])
	return n, errors.Join(err, werr)
}

func (s *faultySegment) sync() error {
	s.f.mu.Lock()
	err, gate := s.f.syncErr, s.f.gate
	s.f.syncs++
	s.f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return errors.Join(err, s.segment.sync())
}

func faulty(dir string) (Config, *faults) {
	f := &faults{}
	c := config(dir)
	c.disk = func(d disk) disk {
		f.disk = d
		return f
	}
	return c, f
}

func TestAFailureOfTheDiskStopsTheJournalForGood(t *testing.T) {
	broken := errors.New("input/output error")
	for name, fail := range map[string]func(f *faults){
		"write that did not happen": func(f *faults) { f.writeErr = broken },
		"write that half happened":  func(f *faults) { f.writeErr, f.short = unix.ENOSPC, 700 },
		"write that happened":       func(f *faults) { f.writeErr, f.writeAnyway = broken, true },
		"sync":                      func(f *faults) { f.syncErr = broken },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			c, f := faulty(dir)
			j := openJournal(t, c)
			first := mustIntent(t, j, 1)
			headBefore, _ := j.Head()
			f.set(func() { fail(f) })
			if seq, err := j.Intent(t.Context(), intent(t, 2)); err == nil {
				t.Fatalf("Intent on a broken disk = %d, nil", seq)
			}
			// The disk recovers; the journal must not believe it.
			f.set(func() { f.writeErr, f.syncErr, f.short, f.writeAnyway = nil, nil, 0, false })
			if _, err := j.Intent(t.Context(), intent(t, 3)); err == nil {
				t.Error("Intent after the disk recovered succeeded")
			}
			if err := j.Outcome(t.Context(), issued(first, 1)); err == nil {
				t.Error("Outcome after the disk recovered succeeded")
			}
			if err := j.Event(t.Context(), "x"); err == nil {
				t.Error("Event after the disk recovered succeeded")
			}
			if err := j.Ready(); err == nil || !strings.Contains(err.Error(), "until a restart") {
				t.Errorf("Ready() = %v, want that a restart is needed", err)
			}
			if seq, _ := j.Head(); seq != headBefore {
				t.Errorf("Head() moved to %d over a failure, want %d", seq, headBefore)
			}
			if err := j.Close(t.Context()); err == nil {
				t.Error("Close of a failed journal = nil, want its failure")
			}
			// A restart finds the acknowledged intent, and explains it.
			j = openJournal(t, config(dir))
			mustOutcome(t, j, issued(mustIntent(t, j, 4), 4))
			closeJournal(t, j)
			r := mustVerify(t, dir)
			if r.Issued != 1 || r.Unknown < 1 || len(r.Open) != 0 {
				t.Errorf("report after the restart %+v, want 1 issued, the rest unknown", r)
			}
		})
	}
}

func TestASegmentThatCannotBeMadeStopsTheJournal(t *testing.T) {
	dir := newDir(t)
	c, f := faulty(dir)
	c.SegmentBytes = 100
	j := openJournal(t, c)
	f.set(func() { f.createErr = unix.ENOSPC })
	if _, err := j.Intent(t.Context(), intent(t, 1)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Intent without a segment: %v, want ENOSPC", err)
	}
	f.set(func() { f.createErr = nil })
	if err := j.Ready(); err == nil {
		t.Error("Ready() = nil, want the failure")
	}
	_ = j.Close(t.Context())
	closeJournal(t, openJournal(t, config(dir)))
	mustVerify(t, dir)
}

func TestOpenFailsOnABrokenDisk(t *testing.T) {
	for name, fail := range map[string]func(f *faults){
		"write":  func(f *faults) { f.writeErr = unix.EIO },
		"sync":   func(f *faults) { f.syncErr = unix.EIO },
		"create": func(f *faults) { f.createErr = unix.EIO },
	} {
		dir := newDir(t)
		c, f := faulty(dir)
		fail(f)
		if j, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: Open on a broken disk succeeded", name)
			_ = j.Close(t.Context())
		}
		// The lock was given back, and what is left can be opened.
		closeJournal(t, openJournal(t, config(dir)))
		mustVerify(t, dir)
	}
}

func TestSpaceIsKeptForIntents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		c, f := faulty(dir)
		c.RefusalInterval = time.Hour
		free := int64(100 << 20)
		f.freeBytes = &free
		j := openJournal(t, c)
		refuse := func() {
			t.Helper()
			if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); err != nil {
				t.Errorf("Refused: %v", err)
			}
		}
		setFree := func(n int64) {
			f.set(func() { free = n })
			time.Sleep(checkInterval) // in the bubble's time
			synctest.Wait()
		}
		refuse()
		setFree(c.ReserveBytes - 1)
		refuse()
		refuse()
		seq := mustIntent(t, j, 1)
		if err := j.Ready(); err != nil {
			t.Errorf("Ready() below the reserve = %v, want nil", err)
		}
		setFree(c.FloorBytes - 1)
		size := len(readFile(t, filepath.Join(dir, segmentName(0))))
		if _, err := j.Intent(t.Context(), intent(t, 2)); !errors.Is(err, errNoSpace) {
			t.Errorf("Intent below the floor: %v, want %v", err, errNoSpace)
		}
		if err := j.Ready(); !errors.Is(err, errNoSpace) {
			t.Errorf("Ready() below the floor = %v, want %v", err, errNoSpace)
		}
		if got := len(readFile(t, filepath.Join(dir, segmentName(0)))); got != size {
			t.Errorf("below the floor an intent wrote %d bytes", got-size)
		}
		mustOutcome(t, j, issued(seq, 1)) // what was signed is still recorded
		setFree(c.ReserveBytes)
		if err := j.Ready(); err != nil {
			t.Errorf("Ready() with space again = %v, want nil", err)
		}
		refuse()
		mustOutcome(t, j, issued(mustIntent(t, j, 3), 3))
		f.set(func() { f.freeErr = unix.EIO })
		time.Sleep(checkInterval)
		synctest.Wait()
		if err := j.Ready(); !errors.Is(err, errNoSpace) {
			t.Errorf("Ready() with unknown space = %v, want %v", err, errNoSpace)
		}
		closeJournal(t, j)
		rs := records(t, dir)
		if got := len(ofType(rs, typeRefused)); got != 2 {
			t.Errorf("%d refusals recorded, want 2: none below the reserve", got)
		}
		if got := ofType(rs, typeRefusals); len(got) != 1 || at(got[0].Body, "dropped.policy") != 2.0 {
			t.Errorf("counts recorded: %v, want 2 dropped by policy", got)
		}
	})
}

// A space check between Ready and the write must not let an intent slip through.
func TestIntentIsRefusedWhenSpaceRunsOutMeanwhile(t *testing.T) {
	dir := newDir(t)
	c, f := faulty(dir)
	j := openJournal(t, c)
	f.set(func() { f.freeBytes = new(int64(1)) })
	if _, err := j.Intent(t.Context(), intent(t, 1)); !errors.Is(err, errNoSpace) {
		t.Errorf("Intent = %v, want %v", err, errNoSpace)
	}
	closeJournal(t, j)
	if r := mustVerify(t, dir); r.Intents != 0 {
		t.Errorf("%d intents recorded, want none", r.Intents)
	}
}

func TestCountsAreWrittenEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		c := config(dir)
		c.Clock = time.Now
		j := openJournal(t, c)
		for range 3 {
			for range 1000 {
				j.CountRefusal(ca.ReasonBadSignature)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		time.Sleep(10 * time.Minute) // nothing to count, nothing to write
		synctest.Wait()
		counts := ofType(records(t, dir), typeRefusals)
		if len(counts) != 3 {
			t.Fatalf("%d records of counts after three busy minutes, want 3", len(counts))
		}
		for _, r := range counts {
			if got := at(r.Body, "unverified.bad_signature"); got != 1000.0 {
				t.Errorf("record counts %v, want 1000", got)
			}
		}
		closeJournal(t, j)
	})
}

func TestReasonsCannotGrowTheTally(t *testing.T) {
	j := openJournal(t, config(newDir(t)))
	for i := range 10 * maxReasons {
		j.CountRefusal(ca.Reason(strings.Repeat("x", i)))
	}
	if got := len(j.tally.unverified); got > maxReasons+1 {
		t.Errorf("tally holds %d reasons, want at most %d", got, maxReasons+1)
	}
}

// An outcome is on disk a tenth of a second after it was written, with no other
// record to carry it.
func TestOutcomeBecomesDurableByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := faulty(newDir(t))
		j := openJournal(t, c)
		seq := mustIntent(t, j, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		before := f.syncCount()
		mustOutcome(t, j, issued(seq, 1))
		synctest.Wait()
		if f.syncCount() != before {
			t.Errorf("Outcome synced by itself")
		}
		if head, _ := j.Head(); head != seq {
			t.Errorf("Head() = %d before the sync, want %d", head, seq)
		}
		time.Sleep(flushInterval)
		synctest.Wait()
		if f.syncCount() != before+1 {
			t.Errorf("%d syncs within %v, want 1", f.syncCount()-before, flushInterval)
		}
		if head, _ := j.Head(); head != seq+1 {
			t.Errorf("Head() = %d after the sync, want %d", head, seq+1)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.syncCount() != before+1 {
			t.Errorf("an idle journal made %d syncs, want none", f.syncCount()-before-1)
		}
		closeJournal(t, j)
	})
}

func TestIntentsShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := faulty(newDir(t))
		j := openJournal(t, c)
		gate := make(chan struct{})
		f.set(func() { f.gate = gate })
		before := f.syncCount()
		var wg sync.WaitGroup
		for n := range uint64(65) {
			wg.Go(func() {
				if _, err := j.Intent(t.Context(), intent(t, n)); err != nil {
					t.Errorf("Intent %d: %v", n, err)
				}
			})
			if n == 0 {
				synctest.Wait() // the first is in its sync; 64 gather behind it
			}
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if got := f.syncs - before; got != 2 {
			t.Errorf("65 intents took %d syncs, want 2", got)
		}
		closeJournal(t, j)
	})
}

// A disk that hangs costs nobody more than a deadline, and is not ready.
func TestAHangingDiskHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		c, f := faulty(dir)
		j := openJournal(t, c)
		seq := mustIntent(t, j, 1)
		gate := make(chan struct{})
		f.set(func() { f.gate = gate })

		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := j.Intent(ctx, intent(t, 2)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Intent on a hanging disk: %v, want the deadline", err)
		}
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("Intent on a hanging disk took %v, want 4s", took)
		}
		if err := j.Ready(); err == nil || !strings.Contains(err.Error(), "has not answered") {
			t.Errorf("Ready() with a hanging disk = %v, want that it does not answer", err)
		}
		start = time.Now()
		if err := j.Outcome(context.WithoutCancel(ctx), issued(seq, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Outcome on a hanging disk: %v, want the deadline", err)
		}
		if took := time.Since(start); took != writeTimeout {
			t.Errorf("Outcome on a hanging disk took %v, want %v", took, writeTimeout)
		}
		short, cancelClose := context.WithTimeout(t.Context(), time.Second)
		defer cancelClose()
		if err := j.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close with a hanging disk: %v, want the deadline", err)
		}

		close(gate)
		closeJournal(t, j)
		// Intent 2 was written after its caller left: the journal closed it.
		// Outcome 1 was given up before it was written: the intent stays open.
		r := mustVerify(t, dir)
		if r.Intents != 2 || r.NotIssued != 1 || len(r.Open) != 1 || r.Open[0] != seq {
			t.Errorf("report %+v, want intent %d open and the other not issued", r, seq)
		}
		closeJournal(t, openJournal(t, config(dir)))
		if r := mustVerify(t, dir); r.Unknown != 1 || len(r.Open) != 0 {
			t.Errorf("report after the restart %+v, want 1 unknown, none open", r)
		}
	})
}

// An intent whose caller leaves before the writer takes it is never written.
func TestAnAbandonedIntentIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newDir(t)
		c, f := faulty(dir)
		j := openJournal(t, c)
		gate := make(chan struct{})
		f.set(func() { f.gate = gate })
		first := make(chan error, 1)
		go func() {
			_, err := j.Intent(t.Context(), intent(t, 1))
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := j.Intent(ctx, intent(t, 2)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Intent behind a hanging one: %v, want the deadline", err)
		}
		close(gate)
		if err := <-first; err != nil {
			t.Errorf("the first Intent: %v", err)
		}
		closeJournal(t, j)
		if r := mustVerify(t, dir); r.Intents != 1 {
			t.Errorf("%d intents recorded, want 1", r.Intents)
		}
	})
}

// A journal that someone deletes or moves is written where nobody looks.
func TestAJournalThatDisappearsStops(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, file string){
		"deleted": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"replaced": func(t *testing.T, file string) {
			text := readFile(t, file)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			writeFile(t, file, text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := newDir(t)
				j := openJournal(t, config(dir))
				// The file that keeps the inode number from being used again.
				writeFile(t, filepath.Join(dir, "spare"), []byte("x"))
				lose(t, filepath.Join(dir, segmentName(0)))
				time.Sleep(checkInterval)
				synctest.Wait()
				if err := j.Ready(); err == nil {
					t.Error("Ready() = nil, want that the journal is gone")
				}
				if err := j.Close(t.Context()); err == nil {
					t.Error("Close() = nil, want that the journal is gone")
				}
			})
		})
	}
}
