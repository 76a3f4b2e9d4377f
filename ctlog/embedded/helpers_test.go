package embedded

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const testOrigin = "log.example.com/2026"

// initLog makes a log in a fresh directory.
func initLog(t testing.TB) (string, Info) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	info, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin})
	if err != nil {
		t.Fatalf("Init(%s): %v", dir, err)
	}
	return dir, info
}

func testConfig(t testing.TB, dir string) Config {
	return Config{
		Dir: dir, Name: "test", MinFreeBytes: 1, PublishInterval: 100 * time.Millisecond, segmentBytes: 5 << 20,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

// testWriter sends the log's messages to the test's, until the test is over.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

func openLog(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open(%s): %v", c.Dir, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = l.Close(ctx)
	})
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func submit(t testing.TB, l *Log, s ctlog.Submission) ctlog.SCT {
	t.Helper()
	sct, err := l.Submit(t.Context(), s)
	if err != nil {
		t.Fatalf("Submit: %v", err)
	}
	return sct
}

// testClock stands still until it is told to step.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// eventually waits for what another goroutine is about to do and cannot announce.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatal("the condition has not come true within 10 s")
		}
	}
}

type testEntry struct {
	s   ctlog.Submission
	sct ctlog.SCT
}

// libraryTree hashes with transparency-dev/merkle.
type libraryTree struct{ r *compact.Range }

func newLibraryTree() libraryTree {
	return libraryTree{(&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)}
}

func (l libraryTree) append(t testing.TB, hash [32]byte) {
	t.Helper()
	if err := l.r.Append(hash[:], nil); err != nil {
		t.Fatal(err)
	}
}

func (l libraryTree) root(t testing.TB) [32]byte {
	t.Helper()
	root, err := l.r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(root)
}
