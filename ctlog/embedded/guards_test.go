package embedded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// refused opens the log and expects a refusal that says want.
func refused(t *testing.T, c Config, want string) {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err == nil {
		closeLog(t, l)
		t.Fatalf("Open(%s) succeeded, want a refusal that says %q", c.Dir, want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("Open(%s): %v\nwant a refusal that says %q", c.Dir, err, want)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, keyFile)); err != nil {
		return
	}
	// CopyFS opens the key's mode to the umask.
	if err := os.Chmod(filepath.Join(to, keyFile), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, raw, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

// fill opens the log, adds n entries and closes it, and with that publishes.
func fill(t testing.TB, c Config, ca *testca.CA, n int) []ctlog.SCT {
	t.Helper()
	l := openLog(t, c)
	var out []ctlog.SCT
	for range n {
		out = append(out, submit(t, l, ca.Precertificate(t)))
	}
	closeLog(t, l)
	return out
}

func TestOpenNeverMakesALog(t *testing.T) {
	dir := t.TempDir()
	refused(t, testConfig(t, filepath.Join(dir, "missing")), "no initialised log")
	refused(t, testConfig(t, dir), "no initialised log")
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("Open left %v in an empty directory", entries)
	}
	log, _ := initLog(t)
	if err := os.RemoveAll(filepath.Join(log, treeDir)); err != nil {
		t.Fatal(err)
	}
	refused(t, testConfig(t, log), "the tree is gone")
}

func TestInitOverwritesNothing(t *testing.T) {
	dir, _ := initLog(t)
	before, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin}); err == nil ||
		!strings.Contains(err.Error(), "not empty") {
		t.Fatalf("second Init: %v, want a refusal", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil || string(after) != string(before) {
		t.Fatalf("the key changed: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v; want mode 0600", info.Mode(), err)
	}
}

func TestInitRefusesOriginsThatClientsSpellDifferently(t *testing.T) {
	for _, origin := range []string{"", "https://log.example", "Log.example", "log.example/", "/log", "log example",
		"log\nexample", "log.example/\u00e9", "a+b", strings.Repeat("a", 256)} {
		dir := filepath.Join(t.TempDir(), "log")
		if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: origin}); err == nil {
			t.Errorf("Init with origin %q succeeded", origin)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("Init with origin %q left a directory", origin)
		}
	}
}

func TestOneOpenerOnly(t *testing.T) {
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	refused(t, testConfig(t, dir), "open already")
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin}); err == nil {
		t.Error("Init on an open log succeeded")
	}
	// As somebody does who takes it for stale.
	if err := os.Remove(filepath.Join(dir, lockFile)); err != nil {
		t.Fatal(err)
	}
	refused(t, testConfig(t, dir), "open already")
	closeLog(t, l)
	closeLog(t, openLog(t, testConfig(t, dir)))
}

func TestOpenRefusesAnotherIdentity(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	other, _ := initLog(t)
	fill(t, testConfig(t, dir), ca, 3)
	for name, c := range map[string]struct {
		change func(dir string)
		want   string
	}{
		"another key": {func(dir string) {
			copyFile(t, filepath.Join(other, keyFile), filepath.Join(dir, keyFile))
		}, "is the key of log"},
		"another key pair": {func(dir string) {
			copyFile(t, filepath.Join(other, keyFile), filepath.Join(dir, keyFile))
			copyFile(t, filepath.Join(other, publicKeyFile), filepath.Join(dir, publicKeyFile))
		}, "is the key of log"},
		"another public key": {func(dir string) {
			copyFile(t, filepath.Join(other, publicKeyFile), filepath.Join(dir, publicKeyFile))
		}, "does not belong to"},
		"another instance with its keys": {func(dir string) {
			for _, f := range []string{keyFile, publicKeyFile, instanceFile} {
				copyFile(t, filepath.Join(other, f), filepath.Join(dir, f))
			}
		}, "verifying checkpoint"},
		"another origin": {func(dir string) {
			path := filepath.Join(dir, instanceFile)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(raw), testOrigin, "log.example.com/2027", 1)
			if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "verifying checkpoint"},
		"a key open to others": {func(dir string) {
			if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "open to others"},
		"no checkpoint": {func(dir string) {
			if err := os.Remove(filepath.Join(dir, treeDir, "checkpoint")); err != nil {
				t.Fatal(err)
			}
		}, "the tree is gone"},
		"no key": {func(dir string) {
			if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
				t.Fatal(err)
			}
		}, "the log's key is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := filepath.Join(t.TempDir(), "log")
			copyTree(t, dir, changed)
			c.change(changed)
			refused(t, testConfig(t, changed), c.want)
		})
	}
}

// An old copy that is consistent in itself can only be told by what lies
// outside: signing from it would be a second story about the same indices.
func TestOpenRefusesAnOldCopy(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(t.TempDir(), "record.json")
	fill(t, c, ca, 3)
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, dir, old)
	fill(t, c, ca, 3)

	t.Run("whole", func(t *testing.T) {
		rolledBack := c
		rolledBack.Dir = filepath.Join(t.TempDir(), "log")
		copyTree(t, old, rolledBack.Dir)
		refused(t, rolledBack, "old or foreign copy")
	})
	t.Run("sequence only", func(t *testing.T) {
		mixed := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, dir, mixed.Dir)
		copyTree(t, filepath.Join(old, sequenceDir), filepath.Join(mixed.Dir, sequenceDir))
		refused(t, mixed, "copy from another time")
	})
	t.Run("tree only, from before the sequence begins", func(t *testing.T) {
		mixed := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, dir, mixed.Dir)
		fill(t, mixed, ca, 1)
		copyTree(t, filepath.Join(old, treeDir), filepath.Join(mixed.Dir, treeDir))
		refused(t, mixed, "entries that were promised are missing")
	})
	t.Run("tree only, but the sequence has the rest", func(t *testing.T) {
		mixed := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, dir, mixed.Dir)
		copyTree(t, filepath.Join(old, treeDir), filepath.Join(mixed.Dir, treeDir))
		if sct := fill(t, mixed, ca, 1)[0]; sct.Index != 6 {
			t.Errorf("the next entry has index %d, want 6", sct.Index)
		}
		checkWithFsck(t, mixed.Dir)
	})
	t.Run("no sequence", func(t *testing.T) {
		mixed := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, dir, mixed.Dir)
		if err := os.RemoveAll(filepath.Join(mixed.Dir, sequenceDir)); err != nil {
			t.Fatal(err)
		}
		refused(t, mixed, "the sequence file is gone")
	})
	t.Run("current", func(t *testing.T) { closeLog(t, openLog(t, c)) })
	t.Run("a fork of the same length", func(t *testing.T) {
		fork := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, old, fork.Dir)
		fill(t, fork, ca, 3)
		fork.CheckpointRecord = c.CheckpointRecord
		refused(t, fork, "two roots for 6 entries")
	})
	t.Run("a fork that is longer", func(t *testing.T) {
		fork := testConfig(t, filepath.Join(t.TempDir(), "log"))
		copyTree(t, old, fork.Dir)
		fill(t, fork, ca, 9)
		fork.CheckpointRecord = c.CheckpointRecord
		refused(t, fork, "does not extend")
	})
}

func TestCheckpointRecordBelongsOutsideAndToThisLog(t *testing.T) {
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(dir, "record.json")
	refused(t, c, "inside the log directory")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	c.CheckpointRecord = filepath.Join(link, "record.json")
	refused(t, c, "inside the log directory")

	c.CheckpointRecord = filepath.Join(t.TempDir(), "record.json")
	closeLog(t, openLog(t, c))
	other, _ := initLog(t)
	foreign := testConfig(t, other)
	foreign.CheckpointRecord = c.CheckpointRecord
	refused(t, foreign, "is of log")
	if err := os.WriteFile(c.CheckpointRecord, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, c, "reading checkpoint record")
}

func TestOpenRefusesADamagedRightEdge(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	fill(t, testConfig(t, dir), ca, 5)
	for name, c := range map[string]struct {
		file string
		at   int // in the first hash, or in the first entry's issuer key hash
		want string
	}{
		"tile":   {"tile/0/000.p/5", 16, "hash to"},
		"bundle": {"tile/data/000.p/5", 16, "does not hash to its leaf"},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := filepath.Join(t.TempDir(), "log")
			copyTree(t, dir, damaged)
			path := filepath.Join(damaged, treeDir, c.file)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw[c.at] ^= 1
			if err := os.WriteFile(path, raw, 0o644); err != nil {
				t.Fatal(err)
			}
			refused(t, testConfig(t, damaged), c.want)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			refused(t, testConfig(t, damaged), "no such file")
		})
	}
}

// An interrupted publication leaves tiles ahead of the checkpoint, which are made
// again, and temporary files.
func TestOpenMakesAgainWhatAnInterruptedPublicationLeft(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	fill(t, testConfig(t, dir), ca, 5)
	tree := filepath.Join(dir, treeDir)
	write := func(name string) {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".tmp/ABC", "tile/0/000.p/6", "tile/data/000.p/6"} {
		write(name)
	}
	fill(t, testConfig(t, dir), ca, 1)
	if _, err := os.Stat(filepath.Join(tree, ".tmp/ABC")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
	checkWithFsck(t, dir)
}

// Partial tiles go when the full one is published, at the latest at the next
// start.
func TestPartialTilesGoWhenTheFullOneIsThere(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	partial := filepath.Join(dir, treeDir, "tile/data/000.p")
	fill(t, testConfig(t, dir), ca, 5)
	if _, err := os.Stat(filepath.Join(partial, "5")); err != nil {
		t.Fatalf("after five entries: %v", err)
	}
	l := openLog(t, testConfig(t, dir))
	var wg sync.WaitGroup
	for range 255 {
		s := ca.Precertificate(t)
		wg.Go(func() { submit(t, l, s) })
	}
	wg.Wait()
	closeLog(t, l)
	if _, err := os.Stat(partial); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after 260 entries the first bundle's partial ones are there: %v", err)
	}
	// As if the process had ended between the checkpoint and the removal.
	if err := os.Mkdir(partial, 0o755); err != nil {
		t.Fatal(err)
	}
	closeLog(t, openLog(t, testConfig(t, dir)))
	if _, err := os.Stat(partial); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after opening again: %v", err)
	}
	checkWithFsck(t, dir)
}

func TestTimeNeverRunsBackwards(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	clock := &testClock{now: time.Now()}
	c := testConfig(t, dir)
	c.Clock = clock.read
	l := openLog(t, c)
	first := submit(t, l, ca.Precertificate(t))
	clock.step(-500 * time.Millisecond)
	second := submit(t, l, ca.Precertificate(t))
	if second.Timestamp.Before(first.Timestamp) {
		t.Errorf("after a small step back the SCT says %s, before %s", second.Timestamp, first.Timestamp)
	}
	clock.step(-time.Minute)
	if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Ready with the clock a minute behind: %v, want ErrUnavailable", err)
	}
	if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Submit with the clock a minute behind: %+v, %v; want ErrUnavailable", sct, err)
	}
	clock.step(2 * time.Minute)
	submit(t, l, ca.Precertificate(t))
	closeLog(t, l)
	clock.step(-time.Hour)
	refused(t, c, "the clock says")
}

// The last word is the committer's: a clock may step between Ready and the batch.
func TestMonotoneClock(t *testing.T) {
	start := time.Date(2026, 11, 22, 12, 0, 0, 123456789, time.UTC)
	source := &testClock{now: start}
	m := &monotone{source: source.read}
	want := start.Truncate(time.Millisecond)
	for _, step := range []struct {
		by   time.Duration
		want time.Time // zero: an error
	}{
		{0, want},
		{-time.Second, want},
		{-time.Millisecond, time.Time{}},
		{time.Hour, want.Add(time.Hour - time.Second - time.Millisecond)},
		{-time.Minute, time.Time{}},
	} {
		source.step(step.by)
		got, err := m.now()
		if !got.Equal(step.want) || (err == nil) != !step.want.IsZero() {
			t.Errorf("after a step of %s: got %s, %v; want %s", step.by, got, err, step.want)
		}
		if checked := m.check(); (checked == nil) != (err == nil) {
			t.Errorf("after a step of %s: check says %v, now says %v", step.by, checked, err)
		}
	}
}

func TestRefusesWhileSpaceIsShort(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.MinFreeBytes = 1 << 62
	l := openLog(t, c)
	if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !strings.Contains(err.Error(), "free") {
		t.Fatalf("Ready: %v, want ErrUnavailable for want of space", err)
	}
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Fatalf("Submit: %v, want ErrUnavailable", err)
	}
	select {
	case <-l.Stopped():
		t.Fatal("want of space stopped the log for good")
	default:
	}
}

func TestSubmitChecksTheSubmission(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	s := ca.Precertificate(t)
	s.TBS = ca.Precertificate(t).TBS
	if _, err := l.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrRejected) {
		t.Fatalf("Submit of a foreign TBS: %v, want ErrRejected", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Submit(ctx, ca.Precertificate(t)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Submit with a dead context: %v, want context.Canceled", err)
	}
}
