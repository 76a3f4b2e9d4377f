package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/transparency-dev/tessera/client"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk/disktest"
)

// momentsVariable says that of so many operations one is followed by a power cut
// in the test; 1 is for all of them, and for three kinds of cuts at each.
const momentsVariable = "MAYFLY_EMBEDDED_POWER_CUTS"

const shortSegment = 4300 << 10

// promises is what a log has told the world, and after how many operations of
// its disk.
type promises struct {
	mu    sync.Mutex // guards the rest
	log   *Log
	acked []acknowledged
	heads []published
}

type acknowledged struct {
	after int
	index uint64
	entry Entry
}

type published struct {
	after int
	checkpoint
}

func (p *promises) follow(l *Log) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = l
}

// before is told of an operation that is about to happen.
func (p *promises) before(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil {
		return
	}
	head := *p.log.publisher.head.Load()
	if last := len(p.heads) - 1; last < 0 || !bytes.Equal(p.heads[last].raw, head.raw) {
		p.heads = append(p.heads, published{n, head})
	}
}

// add logs an entry that is not repeated, every third with a new issuer.
func (p *promises) add(t *testing.T, r *disktest.Recorder, l *Log, length int) {
	t.Helper()
	e := Entry{Certificate: make([]byte, length)}
	_, _ = rand.Read(e.Certificate)
	if e.Certificate[0]%3 == 0 {
		e.Issuers = [][]byte{[]byte(rand.Text())}
	}
	sct, err := l.Add(t.Context(), e)
	n := r.Len()
	if err != nil {
		t.Errorf("Add: %v", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked = append(p.acked, acknowledged{n, uint64(sct.Index), e})
}

// survive makes the disk as a power cut has left it, starts the log, and holds it
// to what was promised before. Of again, the start and the end after it are cut
// short as well, at so many moments.
func (p *promises) survive(t *testing.T, d *disktest.Disk, n int, power disktest.Power, again int) error {
	root := filepath.Join(t.TempDir(), "disk")
	defer func() { _ = os.RemoveAll(root) }()
	if err := d.Write(root, power); err != nil {
		return err
	}
	r, err := disktest.NewRecorder(root, nil)
	if err != nil {
		return err
	}
	c := Config{
		Dir: filepath.Join(root, "log"), CheckpointRecord: filepath.Join(root, "record", "record.json"),
		MinFreeBytes: 1, segmentBytes: shortSegment, fs: r,
	}
	l, err := Open(t.Context(), c)
	if err != nil {
		return err
	}
	sct, err := l.Add(t.Context(), Entry{Certificate: []byte("after")})
	if err := errors.Join(err, l.Close(t.Context())); err != nil {
		return err
	}
	v, err := OpenView(c.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	if err := p.kept(t.Context(), v, n, uint64(sct.Index)); err != nil || again == 0 {
		return err
	}
	return r.Moments(func(m int, d *disktest.Disk) error {
		if mrand.IntN(r.Len()+1) >= again {
			return nil
		}
		if err := p.survive(t, d, n, power, 0); err != nil {
			return fmt.Errorf("and again before operation %d: %w", m, err)
		}
		return nil
	})
}

// kept finds in a log what was promised before operation n, and at an index an
// entry that was logged after it.
func (p *promises) kept(ctx context.Context, v *View, n int, next uint64) error {
	head, err := v.Head()
	if err != nil {
		return err
	}
	var entries []LoggedEntry
	err = v.Entries(ctx, head, 0, func(e LoggedEntry) bool {
		entries = append(entries, e)
		return true
	})
	if err != nil {
		return err
	}
	for _, a := range p.acked {
		if a.after > n {
			continue
		}
		if a.index >= next {
			return fmt.Errorf("entry %d is lost, and %d was the next index", a.index, next)
		}
		if !bytes.Equal(entries[a.index].Certificate, a.entry.Certificate) {
			return fmt.Errorf("entry %d is another one", a.index)
		}
		for _, der := range a.entry.Issuers {
			if _, err := os.Stat(filepath.Join(v.tree, issuerDir, fmt.Sprintf("%x", sha256.Sum256(der)))); err != nil {
				return fmt.Errorf("the issuer of entry %d: %w", a.index, err)
			}
		}
	}
	for _, h := range slices.Backward(p.heads) {
		if h.after <= n {
			return proveConsistency(ctx, client.FileFetcher{Root: v.tree}.ReadTile, h.checkpoint, head.checkpoint())
		}
	}
	return nil
}

// recordALife has a log live and writes down all that it does to its disk.
func recordALife(t *testing.T) (*disktest.Recorder, *promises) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "log")
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "record"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &promises{}
	r, err := disktest.NewRecorder(root, p.before)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t, dir)
	c.fs, c.CheckpointRecord, c.segmentBytes = r, filepath.Join(root, "record", "record.json"), shortSegment
	for life := range 2 {
		l := openLog(t, c)
		p.follow(l)
		for range 5 {
			p.add(t, r, l, 2000)
		}
		var wg sync.WaitGroup
		for range 150 {
			wg.Go(func() { p.add(t, r, l, 500) })
		}
		wg.Wait()
		for range 70 - 60*life { // at first more than a segment of them
			p.add(t, r, l, maxCertificate)
		}
		p.follow(nil)
		closeLog(t, l)
	}
	return r, p
}

// A power cut at any moment, that takes nothing, everything or some of what was
// not synced, takes nothing that was promised: neither an entry with its index
// nor a tree head. The start after it succeeds and goes on from there.
func TestAPowerCutTakesNothingThatWasPromised(t *testing.T) {
	every := 41
	if s := os.Getenv(momentsVariable); s != "" {
		var err error
		if every, err = strconv.Atoi(s); err != nil || every < 1 {
			t.Fatalf("%s=%q: %v", momentsVariable, s, err)
		}
	}
	r, p := recordALife(t)
	cuts := []disktest.Power{disktest.Cut, disktest.Kill, func(n int) int { return mrand.IntN(n + 1) }}
	tried := 0
	begin := mrand.IntN(every)
	err := r.Moments(func(n int, d *disktest.Disk) error {
		if n%every != begin {
			return nil
		}
		for i, cut := range cuts {
			if every > 1 && (n/every)%len(cuts) != i {
				continue
			}
			tried++
			if err := p.survive(t, d, n, cut, 1); err != nil {
				return fmt.Errorf("before operation %d, power %d: %w", n, i, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d operations, %d power cuts, %d entries, %d checkpoints", r.Len(), tried, len(p.acked), len(p.heads))
}
