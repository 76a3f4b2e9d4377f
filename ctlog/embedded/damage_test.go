package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// fullDiskChild is alone in a mount namespace, with a filesystem of 32 MiB.
func fullDiskChild(dir string) {
	t := childTB{}
	check := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("mounting", unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"))
	ctx, ca := context.Background(), testca.New(t)
	log := filepath.Join(dir, "log")
	_, err := Init(ctx, InitConfig{Dir: log, Origin: testOrigin})
	check("Init", err)
	c := Config{Dir: log, MinFreeBytes: 1, PublishInterval: 100 * time.Millisecond, segmentBytes: 5 << 20}
	l, err := Open(ctx, c)
	check("Open", err)
	acked := 0
	submit := func() error {
		_, err := l.Submit(ctx, ca.Precertificate(t))
		if err == nil {
			acked++
		}
		return err
	}
	check("Submit", submit())
	published := func() bool { return l.publisher.head.Load().size == uint64(acked) }
	waitFor(t, published)

	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	check("ballast", err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		check("filling the disk", err)
	}
	// The sequence file has its room already.
	for range 100 {
		check("Submit to a full disk", submit())
	}
	waitFor(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return errors.Is(l.unpublished, syscall.ENOSPC)
	})
	// The watermark keeps the log from coming this far.
	l.observe(time.Now())
	if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("Ready on a full disk: %v, want ErrUnavailable for want of space", err)
	}
	check("freeing space", errors.Join(ballast.Truncate(0), ballast.Close()))
	waitFor(t, published)
	l.observe(time.Now())
	check("Submit after there is room", submit())
	check("Close", l.Close(ctx))
	l, err = Open(ctx, c)
	check("Open", err)
	if n := l.sequenced.Load(); n != uint64(acked) {
		t.Fatalf("%d entries, want %d", n, acked)
	}
	check("Close", l.Close(ctx))
	out, err := child(ctx, "fsck", log).CombinedOutput()
	check(string(out), err)
	os.Exit(0)
}

func waitFor(t childTB, condition func() bool) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for range 20_000 {
		if condition() {
			return
		}
		<-ticker.C
	}
	t.Fatalf("the condition has not come true within 20 s")
}

func TestAFullDiskIsSurvived(t *testing.T) {
	cmd := child(t.Context(), "fulldisk", t.TempDir())
	// Root may mount; anybody else may in a user namespace of their own, unless
	// the kernel is told otherwise.
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n(without the right to mount, allow it: sysctl kernel.unprivileged_userns_clone=1)", err, out)
	}
}

// What the next entries would be built upon is proven at the start, and again
// when a checkpoint is to be signed.
func TestADamagedTileIsNotBuiltUpon(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	l := openLog(t, c)
	var wg sync.WaitGroup
	for range 300 {
		s := ca.Precertificate(t)
		wg.Go(func() { submit(t, l, s) })
	}
	wg.Wait()
	closeLog(t, l)

	// A bit of the memory flips.
	p := l.publisher
	p.edge.levels[0][3][9] ^= 1
	p.unwritten = p.edge.append([]byte{1}, [32]byte{2})
	if err := p.write(); err != nil {
		t.Fatal(err)
	}
	if err := p.issue(t.Context(), checkpoint{size: 301, root: p.edge.root()}); !errors.Is(err, errContradiction) {
		t.Errorf("a checkpoint over a damaged tile: %v, want a contradiction", err)
	}

	path := filepath.Join(dir, treeDir, "tile/1/000.p/1")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range [][]byte{bytes.Repeat([]byte{7}, 32), whole[:31], {}, append(bytes.Clone(whole), 1)} {
		if err := os.WriteFile(path, damage, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, c, "tile")
	}
	if err := os.WriteFile(path, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if sct := fill(t, c, ca, 1)[0]; sct.Index != 300 {
		t.Errorf("put back: index %d, want 300", sct.Index)
	}
	checkWithFsck(t, dir)
}

// Acknowledged entries that no checkpoint covers are only in the sequence file.
func TestDamageOfTheSequenceFileIsRefused(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	record := filepath.Join(t.TempDir(), "acks")
	acked := make(map[uint64][32]byte)
	if err := os.WriteFile(record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	runAndKill(t, dir, record+".json", 200, acked)
	c := testConfig(t, dir)
	c.CheckpointRecord = record + ".json"
	names, err := filepath.Glob(filepath.Join(dir, sequenceDir, "*.seq"))
	if err != nil || len(names) == 0 {
		t.Fatalf("segments: %q, %v", names, err)
	}
	path := names[len(names)-1]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The second block holds the first group.
	damaged := bytes.Clone(whole)
	damaged[4096+200] ^= 1
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, c, "put the segment back as it was, or retire this log")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if sct := fill(t, c, ca, 1)[0]; sct.Index < int64(len(acked)) {
		t.Errorf("put back: index %d after %d acknowledgements", sct.Index, len(acked))
	}
	checkWithFsck(t, dir)
}

// Two that write for one log, each sure to be the only one, share the record.
func TestTheRecordFencesASecondWriter(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(t.TempDir(), "record.json")
	fill(t, c, ca, 2)
	clone := c
	clone.Dir = filepath.Join(t.TempDir(), "log")
	copyTree(t, dir, clone.Dir)
	l := openLog(t, c)
	// On one machine the lock is in the way.
	refused(t, clone, "checkpoint record")
	// On another the lock may not be seen; what was written is.
	raw, err := os.ReadFile(c.CheckpointRecord)
	if err != nil {
		t.Fatal(err)
	}
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 3 })
	if err := os.WriteFile(c.CheckpointRecord, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	submit(t, l, ca.Precertificate(t))
	<-l.Stopped()
	if err := l.Ready(); err == nil || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Errorf("Ready: %v, want that the record was changed", err)
	}
}

// A record that is gone with its disk may come back.
func TestAMissingRecordStopsPublicationOnly(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(t.TempDir(), "record.json")
	l := openLog(t, c)
	away := c.CheckpointRecord + ".away"
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	if err := os.Rename(c.CheckpointRecord, away); err != nil {
		t.Fatal(err)
	}
	submit(t, l, ca.Precertificate(t))
	eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return errors.Is(l.unpublished, os.ErrNotExist)
	})
	if err := os.Rename(away, c.CheckpointRecord); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return l.publisher.head.Load().size == 2 })
	if err := l.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

// RFC 6962, Section 3.5: each checkpoint is later than the one before, and none
// is earlier than an SCT under it.
func TestCheckpointsAreNeverEarlierThanWhatTheyCover(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	clock := &testClock{now: time.Now()}
	c := testConfig(t, dir)
	c.Clock = clock.read
	l := openLog(t, c)
	last := l.publisher.head.Load().time
	for i := range uint64(5) {
		sct := submit(t, l, ca.Precertificate(t))
		eventually(t, func() bool { return l.publisher.head.Load().size == i+1 })
		head := l.publisher.head.Load()
		if !head.time.After(last) || head.time.Before(sct.Timestamp) {
			t.Errorf("checkpoint of %s after one of %s and an SCT of %s", head.time, last, sct.Timestamp)
		}
		last = head.time
		clock.step(-100 * time.Millisecond)
	}
}

func FuzzParseTile(f *testing.F) {
	f.Add(bytes.Repeat([]byte{1}, 64))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 8193))
	f.Fuzz(func(t *testing.T, in []byte) {
		var whole [][32]byte
		hashes, err := parseTile(in)
		if err != nil {
			return
		}
		whole = append(whole, hashes...)
		if again := marshalTile(whole); !bytes.Equal(again, in) || len(hashes) == 0 || len(hashes) > 256 {
			t.Fatalf("parseTile(%x) = %d hashes, which are %x", in, len(hashes), again)
		}
	})
}

// The tree in memory against the library's, over the borders of tiles.
func TestTheEdgeHashesAsTheLibraryDoes(t *testing.T) {
	e := &edge{}
	want := newLibraryTree()
	written := make(map[string]int)
	for i := range 70_000 {
		hash := [32]byte{byte(i), byte(i >> 8), byte(i >> 16), 9}
		for _, full := range e.append([]byte{1}, hash) {
			written[full.path] = len(full.data)
		}
		want.append(t, hash)
		if i%997 == 0 || i < 600 || i > 65_530 && i < 65_550 {
			if got := e.root(); got != want.root(t) {
				t.Fatalf("%d entries: root %x, want %x", i+1, got, want.root(t))
			}
		}
	}
	for path, size := range map[string]int{
		"tile/0/000": 8192, "tile/0/272": 8192, "tile/1/000": 8192, "tile/data/272": 256,
	} {
		if written[path] != size {
			t.Errorf("%s has %d bytes, want %d", path, written[path], size)
		}
	}
	if n := len(written); n != 273*2+1 {
		t.Errorf("%d files were written, want %d", n, 273*2+1)
	}
	var partials []string
	for _, f := range e.partials() {
		partials = append(partials, f.path)
	}
	if got := fmt.Sprint(partials); got != "[tile/data/273.p/112 tile/0/273.p/112 tile/1/001.p/17 tile/2/000.p/1]" {
		t.Errorf("partial files are %s", got)
	}
}
