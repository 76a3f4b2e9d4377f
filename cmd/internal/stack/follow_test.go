package stack

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/mayfly-ca/mayfly/config"
)

// following is a follower whose events and polls the test makes, in a bubble of
// its own time.
type following struct {
	events                  chan fsnotify.Event
	failures                chan error
	poll                    chan time.Time
	changed, refused        atomic.Bool
	looks, reloads, watches atomic.Int64
	stop                    context.CancelFunc
}

func follow(t *testing.T) *following {
	f := &following{events: make(chan fsnotify.Event), failures: make(chan error), poll: make(chan time.Time)}
	ctx, cancel := context.WithCancel(t.Context())
	f.stop = cancel
	c := &changes{
		changed: func() bool { f.looks.Add(1); return f.changed.Load() },
		reload:  func() { f.reloads.Add(1); f.changed.Store(f.refused.Load()) },
		watch:   func() { f.watches.Add(1) },
	}
	go c.follow(ctx, f.events, f.failures, f.poll)
	time.Sleep(settle) // of the bubble
	f.want(t, "at the start", 1, 0)
	return f
}

func (f *following) want(t *testing.T, when string, looks, reloads int64) {
	t.Helper()
	synctest.Wait()
	if f.looks.Load() != looks || f.reloads.Load() != reloads {
		t.Errorf("%s: got %d looks and %d reloads, want %d and %d", when, f.looks.Load(), f.reloads.Load(), looks, reloads)
	}
}

func TestFilesAreReadWhenTheyAreQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		defer f.stop()
		f.changed.Store(true)
		for range 3 {
			f.events <- fsnotify.Event{}
			time.Sleep(settle / 2) // of the bubble
		}
		f.want(t, "while files change", 1, 0)
		time.Sleep(settle)
		f.want(t, "when they are quiet", 2, 1)
		f.events <- fsnotify.Event{}
		time.Sleep(settle)
		f.want(t, "after a change of something else", 3, 1)
		f.failures <- fsnotify.ErrEventOverflow
		time.Sleep(settle)
		f.want(t, "after events were lost", 4, 1)
	})
}

func TestDirectoryThatIsNeverQuietIsReadAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		defer f.stop()
		f.changed.Store(true)
		start := time.Now()
		for f.reloads.Load() == 0 && time.Since(start) < time.Minute {
			f.events <- fsnotify.Event{}
			time.Sleep(settle / 5)
			synctest.Wait()
		}
		if took := time.Since(start); f.reloads.Load() != 1 || took > maxSettle+settle {
			t.Errorf("got %d reloads after %v, want one within %v", f.reloads.Load(), took, maxSettle+settle)
		}
	})
}

func TestPollNoticesWhatNobodyTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		defer f.stop()
		f.poll <- time.Now()
		f.want(t, "nothing changed", 2, 0)
		f.changed.Store(true)
		f.refused.Store(true)
		f.poll <- time.Now()
		f.poll <- time.Now()
		f.want(t, "refused, and tried again", 4, 2)
		close(f.events) // the watcher has died
		close(f.failures)
		time.Sleep(settle)
		f.want(t, "once more for the watcher's end", 5, 3)
		f.poll <- time.Now()
		f.want(t, "without a watcher", 6, 4)
		if got := f.watches.Load(); got < 6 {
			t.Errorf("directories were watched %d times, want again after each look: they may have been replaced", got)
		}
	})
}

// Kubernetes keeps a mounted ConfigMap in a directory that a link names, and swaps
// the link.
func TestSymlinkSwapIsNoticed(t *testing.T) {
	s := newSite(t)
	s.initLog()
	loaded := make(chan string, 16)
	r := s.reloading(Options{Reloaded: func(f *config.File) { loaded <- f.Logging.Level }})
	text := s.mount()
	s.swap(text + "logging: {level: debug}\n")
	select {
	case level := <-loaded:
		if level != "debug" {
			t.Errorf("got level %q, want that of the second version", level)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the swap was not noticed within 30s")
	}
	// A broken version is refused, and the next good one taken.
	before := r.current.Load()
	s.swap(text + "nonsense: {}\n")
	eventually(t, "the broken version is refused", r.reloads.refused.Load)
	if r.current.Load() != before {
		t.Error("the broken version is in use")
	}
	s.swap(text + "logging: {level: warn}\n")
	select {
	case level := <-loaded:
		if level != "warn" {
			t.Errorf("got level %q, want that of the fourth version", level)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the correction was not noticed within 30s")
	}
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("within 30s it did not come about that %s", what)
		case <-tick.C:
		}
	}
}

// mount makes the configuration file what it is in a pod with a ConfigMap: a link
// into a directory that is itself named by a link. It returns the file's text.
func (s *site) mount() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "mayfly.yaml"))
	s.must(err)
	s.swap(string(text))
	s.link("..data/mayfly.yaml", "mayfly.yaml")
	return string(text)
}

// swap replaces the mounted directory by one with another text, as a whole.
func (s *site) swap(text string) {
	s.t.Helper()
	version, err := os.MkdirTemp(s.dir, "..2026_")
	s.must(err)
	s.must(os.WriteFile(filepath.Join(version, "mayfly.yaml"), []byte(text), 0o600))
	s.link(filepath.Base(version), "..data")
}

func (s *site) link(target, name string) {
	s.t.Helper()
	s.must(os.Symlink(target, filepath.Join(s.dir, "..next")))
	s.must(os.Rename(filepath.Join(s.dir, "..next"), filepath.Join(s.dir, name)))
}
