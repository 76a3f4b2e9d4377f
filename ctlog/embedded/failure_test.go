package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk/disktest"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// faultyLog opens a log whose disk can fail.
func faultyLog(t testing.TB, change func(*Config)) (*Log, Config, *disktest.Faulty) {
	t.Helper()
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	faulty := &disktest.Faulty{}
	c.fs = faulty
	if change != nil {
		change(&c)
	}
	return openLog(t, c), c, faulty
}

func isSegment(path string) bool {
	return strings.HasSuffix(path, ".seq") || strings.HasSuffix(path, "/spare")
}

// errUnsynced is how a sync reports that it failed.
var errUnsynced = fmt.Errorf("%w: %w", disk.ErrUnsynced, syscall.EIO)

// fail makes one kind of operation fail, where it is asked to.
func fail(op disktest.Op, where func(path string) bool, err error) disktest.Fault {
	return func(o disktest.Op, path string) error {
		if o == op && where(path) {
			return err
		}
		return nil
	}
}

// Both faults of a write: it did not happen, and it happened but was reported as
// failed. Neither may yield an SCT, and both stop the log until it is opened
// again, which finds out.
func TestAnErrorOfTheSequenceFileStopsTheLogUntilItIsReopened(t *testing.T) {
	for name, fault := range map[string]struct {
		before, after disktest.Fault
		size          int64 // after the log is opened again
	}{
		"no write":          {fail(disktest.Write, isSegment, syscall.EIO), nil, 0},
		"read-only":         {fail(disktest.Write, isSegment, syscall.EROFS), nil, 0},
		"write, then error": {nil, fail(disktest.Write, isSegment, syscall.EIO), 1},
		"no sync":           {fail(disktest.Datasync, isSegment, errUnsynced), nil, 1},
		"sync, then error":  {nil, fail(disktest.Datasync, isSegment, errUnsynced), 1},
		"an issuer's sync": {fail(disktest.SyncDir, func(path string) bool {
			return filepath.Base(path) == issuerDir
		}, errUnsynced), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ca := testca.New(t)
			l, c, faulty := faultyLog(t, nil)
			faulty.Set(fault.before, fault.after)
			if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Fatalf("Submit: %+v, %v; want ErrUnavailable", sct, err)
			}
			<-l.Stopped()
			if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !strings.Contains(err.Error(), "stopped") {
				t.Fatalf("Ready: %v, want ErrUnavailable because it stopped", err)
			}
			faulty.Set(nil, nil)
			if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Fatalf("Submit to the stopped log: %+v, %v; want ErrUnavailable", sct, err)
			}
			closeLog(t, l)
			l = openLog(t, c)
			if sct := submit(t, l, ca.Precertificate(t)); sct.Index != fault.size {
				t.Fatalf("the first SCT after opening again has index %d, want %d", sct.Index, fault.size)
			}
			closeLog(t, l)
			checkWithFsck(t, c.Dir)
		})
	}
}

// What was promised before the log stopped is published all the same.
func TestAStoppedLogPublishesWhatItHasPromised(t *testing.T) {
	ca := testca.New(t)
	l, _, faulty := faultyLog(t, nil)
	noCheckpoint := fail(disktest.Rename, func(path string) bool { return filepath.Base(path) == "checkpoint" }, syscall.ENOSPC)
	faulty.Set(noCheckpoint, nil)
	submit(t, l, ca.Precertificate(t))
	faulty.Set(fail(disktest.Datasync, isSegment, errUnsynced), nil)
	if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); err == nil {
		t.Fatalf("Submit gave %+v although the sync failed", sct)
	}
	<-l.Stopped()
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
}

// An error of a sync while publishing stops the log too: what readers see, or
// the record holds, is not known any more.
func TestAFailedSyncOfTheTreeStopsTheLog(t *testing.T) {
	inTree := func(path string) bool { return strings.Contains(path, "/tree/") }
	for name, before := range map[string]disktest.Fault{
		"file":      fail(disktest.Sync, inTree, errUnsynced),
		"directory": fail(disktest.SyncDir, inTree, errUnsynced),
		"record": fail(disktest.Sync, func(path string) bool {
			return strings.HasSuffix(path, "record.json.tmp")
		}, errUnsynced),
	} {
		t.Run(name, func(t *testing.T) {
			ca := testca.New(t)
			record := filepath.Join(t.TempDir(), "record.json")
			l, c, faulty := faultyLog(t, func(c *Config) { c.CheckpointRecord = record })
			submit(t, l, ca.Precertificate(t)) // the issuers are stored
			eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
			faulty.Set(before, nil)
			submit(t, l, ca.Precertificate(t))
			<-l.Stopped()
			faulty.Set(nil, nil)
			if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Errorf("Submit to the stopped log: %v, want ErrUnavailable", err)
			}
			_ = l.Close(t.Context()) // says that the last checkpoint was not published
			if sct := fill(t, c, ca, 1)[0]; sct.Index != 2 {
				t.Errorf("after opening again: index %d, want 2", sct.Index)
			}
			checkWithFsck(t, c.Dir)
		})
	}
}

// What passes by itself does not stop the log, and loses nothing.
func TestALogOutlivesWhatPasses(t *testing.T) {
	anything := func(path string) bool { return !isSegment(path) }
	for name, before := range map[string]disktest.Fault{
		"disk full":      fail(disktest.Write, anything, syscall.ENOSPC),
		"no inodes":      fail(disktest.Open, anything, syscall.ENOSPC),
		"no descriptors": fail(disktest.Open, func(string) bool { return true }, syscall.EMFILE),
		"read-only":      fail(disktest.Rename, anything, syscall.EROFS),
		"no directories": fail(disktest.Mkdir, anything, syscall.EDQUOT),
		"no removal":     fail(disktest.Remove, anything, syscall.EACCES),
	} {
		t.Run(name, func(t *testing.T) {
			ca := testca.New(t)
			l, c, faulty := faultyLog(t, nil)
			submit(t, l, ca.Precertificate(t))
			eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
			faulty.Set(before, nil)
			const n = 300
			var wg sync.WaitGroup
			for range n {
				s := ca.Precertificate(t)
				wg.Go(func() { submit(t, l, s) })
			}
			wg.Wait()
			eventually(t, func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.unpublished != nil || l.publisher.head.Load().size == n+1
			})
			faulty.Set(nil, nil)
			eventually(t, func() bool { return l.publisher.head.Load().size == n+1 })
			if err := l.Ready(); err != nil {
				t.Errorf("Ready: %v", err)
			}
			closeLog(t, l)
			checkWithFsck(t, c.Dir)
			if left, err := filepath.Glob(filepath.Join(c.Dir, treeDir, tempDir, "*")); err != nil || len(left) > 0 {
				t.Errorf("temporary files are left: %q, %v", left, err)
			}
		})
	}
}

// A new segment that cannot be made refuses only those who ask meanwhile.
func TestWantOfSpaceForASegmentPasses(t *testing.T) {
	ca := testca.New(t)
	l, c, faulty := faultyLog(t, nil)
	isSpare := func(path string) bool { return strings.Contains(path, "/sequence/spare") }
	faulty.Set(fail(disktest.Open, isSpare, syscall.ENOSPC), nil)
	e := ca.Precertificate(t)
	refusedAt := -1
	for i := range 5000 {
		_, err := l.Submit(t.Context(), e)
		if err != nil {
			if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, ctlog.ErrUnavailable) {
				t.Fatalf("entry %d: %v, want ErrUnavailable for want of space", i, err)
			}
			refusedAt = i
			break
		}
	}
	if refusedAt < 0 {
		t.Fatal("the segment was never full")
	}
	faulty.Set(nil, nil)
	if sct := submit(t, l, e); sct.Index != int64(refusedAt) {
		t.Fatalf("after there is space: index %d, want %d", sct.Index, refusedAt)
	}
	closeLog(t, l)
	closeLog(t, openLog(t, c))
	checkWithFsck(t, c.Dir)
}

// hang makes the next datasync wait, and says when it is there.
func hang(faulty *disktest.Faulty) (reached <-chan struct{}, resolve chan<- struct{}) {
	at, on := make(chan struct{}), make(chan struct{})
	var once sync.Once
	faulty.Set(func(op disktest.Op, _ string) error {
		if op == disktest.Datasync {
			once.Do(func() { close(at) })
			<-on
		}
		return nil
	}, nil)
	return at, on
}

func TestADiskThatHangsHoldsNobody(t *testing.T) {
	ca := testca.New(t)
	l, c, faulty := faultyLog(t, func(c *Config) { c.Queue = 2 })
	reached, resolve := hang(faulty)
	// One submission in the disk's hands, two in the queue.
	ctx, leave := context.WithCancel(t.Context())
	results := make(chan error, 3)
	for i := range 3 {
		s := ca.Precertificate(t)
		go func() {
			_, err := l.Submit(ctx, s)
			results <- err
		}()
		if i == 0 {
			<-reached
		}
	}
	eventually(t, func() bool { return len(l.queue) == 2 })
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Errorf("Submit with a full queue: %v, want ErrOverloaded at once", err)
	}
	if err := l.Ready(); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Errorf("Ready with a full queue: %v, want ErrOverloaded", err)
	}
	if !l.stalled(time.Now().Add(time.Minute)) || l.stalled(time.Now()) {
		t.Error("a group outstanding for a minute does not count as stalled, or a new one does")
	}
	leave()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("Submit after its caller left: %v, want context.Canceled", err)
		}
	}
	expired, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(expired); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a group outstanding: %v, want the deadline", err)
	}
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Submit after Close: %v, want ErrUnavailable", err)
	}
	// The write may still land, so nobody else may have the directory.
	refused(t, c, "open already")
	close(resolve)
	closeLog(t, l)
	closeLog(t, openLog(t, c))
}

func TestSubmitIsBoundedWithoutADeadline(t *testing.T) {
	ca := testca.New(t)
	l, _, faulty := faultyLog(t, func(c *Config) { c.StallAfter = 20 * time.Millisecond })
	_, resolve := hang(faulty)
	if _, err := l.Submit(context.Background(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Submit: %v, want ErrUnavailable when the disk stalls", err)
	}
	close(resolve)
	closeLog(t, l)
}

func TestCloseAnswersThoseWhoWait(t *testing.T) {
	ca := testca.New(t)
	l, _, faulty := faultyLog(t, nil)
	reached, resolve := hang(faulty)
	inHand, waiting := make(chan error, 1), make(chan error, 1)
	one, two := ca.Precertificate(t), ca.Precertificate(t)
	go func() {
		_, err := l.Submit(t.Context(), one)
		inHand <- err
	}()
	<-reached
	go func() {
		_, err := l.Submit(t.Context(), two)
		waiting <- err
	}()
	eventually(t, func() bool { return len(l.queue) == 1 })
	closed := make(chan error, 1)
	go func() { closed <- l.Close(t.Context()) }()
	<-l.quit
	close(resolve)
	if err := <-inHand; err != nil {
		t.Errorf("the group in hand: %v, want an SCT", err)
	}
	if err := <-waiting; !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("the submission in the queue: %v, want ErrUnavailable", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A checkpoint that would deny an earlier one is not signed, and the log stops.
func TestPublisherNeverContradictsItself(t *testing.T) {
	ca := testca.New(t)
	l, c, _ := faultyLog(t, nil)
	for range 3 {
		submit(t, l, ca.Precertificate(t))
	}
	closeLog(t, l)
	before, err := l.readPublished()
	if err != nil {
		t.Fatal(err)
	}
	for name, next := range map[string]checkpoint{
		"another root":   {size: 3, root: emptyRoot},
		"a smaller tree": {size: 2, root: before.root},
		"a larger tree":  {size: 4, root: before.root},
	} {
		if err := l.publisher.issue(t.Context(), next); err == nil {
			t.Errorf("%s: signed %+v after %+v", name, next, before)
		}
	}
	after, err := l.readPublished()
	if err != nil || string(after.raw) != string(before.raw) {
		t.Errorf("published %q after %q, %v", after.raw, before.raw, err)
	}
	l = openLog(t, c)
	l.publisher.mu.Lock()
	l.publisher.pending = append(l.publisher.pending, groupOf(t, ca, 7))
	l.publisher.mu.Unlock()
	<-l.Stopped()
	if err := l.Ready(); !errors.Is(err, errContradiction) {
		t.Errorf("Ready after a group out of order: %v, want a contradiction", err)
	}
}

func TestNoPublicationMakesTheLogUnready(t *testing.T) {
	ca := testca.New(t)
	l, _, faulty := faultyLog(t, nil)
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	faulty.Set(fail(disktest.Rename, func(string) bool { return true }, fs.ErrPermission), nil)
	submit(t, l, ca.Precertificate(t))
	now := time.Now()
	l.observe(now)
	if err := l.Ready(); err != nil {
		t.Fatalf("Ready at once: %v", err)
	}
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.unpublished != nil
	})
	l.observe(now.Add(31 * time.Second))
	if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("Ready after 31 s without a checkpoint: %v, want ErrUnavailable and why", err)
	}
}

// Entries that cannot be published do not fill the memory.
func TestWhatIsUnpublishedIsBounded(t *testing.T) {
	ca := testca.New(t)
	l, _, _ := faultyLog(t, nil)
	l.publisher.unpublished.Add(maxUnpublished + 1)
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Fatalf("Submit: %v, want ErrOverloaded", err)
	}
}

// A busy log has always something that is not published yet.
func TestABusyLogIsNotLate(t *testing.T) {
	l := newLog(Config{MaxPublicationDelay: 30 * time.Second, Clock: time.Now})
	l.publisher = &publisher{}
	var err error
	if l.metrics, err = newMetrics(nil, "test", l); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	second := func(published, sequenced uint64) error {
		now = now.Add(time.Second)
		l.publisher.head.Store(&checkpoint{size: published, time: now})
		l.sequenced.Store(sequenced)
		return l.checkPublication(now)
	}
	for i := range uint64(100) {
		if err := second(10*i, 10*i+25); err != nil {
			t.Fatalf("after %d s of work: %v", i, err)
		}
	}
	for range 30 {
		err = second(1000, 2000)
	}
	if err != nil {
		t.Fatalf("29 s behind: %v", err)
	}
	second(1000, 2001)
	if err = second(1000, 2002); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Fatalf("more than 30 s behind: %v, want ErrUnavailable", err)
	}
	if err = second(2002, 2002); err != nil {
		t.Fatalf("published: %v", err)
	}
	for range 100 {
		if err = second(2002, 2002); err != nil {
			t.Fatalf("quiet: %v", err)
		}
	}
	if err = second(2002, 2003); err != nil {
		t.Fatalf("the first entry after a while: %v", err)
	}
}
