package embedded

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk/disktest"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// volatile keeps account of what a power cut could take away.
type volatile struct {
	mu sync.Mutex // guards the maps
	// files were written and not synced since, by path.
	files map[string]bool
	// names were made in a directory that was not synced since, by directory.
	names map[string][]string
}

func newVolatile() *volatile {
	return &volatile{files: make(map[string]bool), names: make(map[string][]string)}
}

// after is told of each operation that has happened.
func (v *volatile) after(op disktest.Op, path string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch op {
	case disktest.Write:
		v.files[path] = true
	case disktest.Sync, disktest.Datasync:
		delete(v.files, path)
	case disktest.Rename, disktest.Mkdir:
		v.names[filepath.Dir(path)] = append(v.names[filepath.Dir(path)], filepath.Base(path))
	case disktest.SyncDir:
		delete(v.names, path)
	case disktest.Remove:
		delete(v.files, path)
	}
	return nil
}

// at lists what of a place is not on the disk for certain.
func (v *volatile) at(where func(path string) bool) (lost []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for path := range maps.Keys(v.files) {
		if where(path) {
			lost = append(lost, path)
		}
	}
	for dir, names := range v.names {
		for _, name := range names {
			if path := filepath.Join(dir, name); where(path) {
				lost = append(lost, path)
			}
		}
	}
	slices.Sort(lost)
	return lost
}

// kill -9 leaves the kernel's memory as it is; a power cut does not. What it
// could take away is counted call by call.
func TestNothingIsPromisedThatAPowerCutTakesAway(t *testing.T) {
	ca := testca.New(t)
	v := newVolatile()
	record := filepath.Join(t.TempDir(), "record.json")
	var mu sync.Mutex
	var early []string
	// Before a checkpoint gets its name, the tree and the record must be there,
	// and the checkpoint itself; before a segment goes, so must the checkpoint.
	before := func(op disktest.Op, path string) error {
		var lost []string
		switch {
		case op == disktest.Rename && filepath.Base(path) == "checkpoint":
			lost = v.at(func(p string) bool { return strings.Contains(p, "/tree/") || strings.HasPrefix(p, record) })
		case op == disktest.Remove && strings.HasSuffix(path, ".seq"):
			lost = v.at(func(p string) bool { return strings.Contains(p, "/tree/") || strings.HasSuffix(p, ".seq") })
		}
		mu.Lock()
		defer mu.Unlock()
		early = append(early, lost...)
		return nil
	}
	l, c, faulty := faultyLog(t, func(c *Config) { c.CheckpointRecord = record })
	faulty.Set(nil, v.after)
	submit(t, l, ca.Precertificate(t))
	if lost := v.at(func(p string) bool { return filepath.Base(filepath.Dir(p)) == issuerDir }); len(lost) > 0 {
		t.Fatalf("an SCT was given while %q was not synced", lost)
	}
	eventually(t, func() bool { return l.publisher.head.Load().size == 1 })
	faulty.Set(before, v.after)
	// In turn, so that no other group is being written when an SCT is here.
	for range 300 {
		submit(t, l, ca.Precertificate(t))
		if lost := v.at(isSegment); len(lost) > 0 {
			t.Fatalf("an SCT was given while %q was not synced", lost)
		}
	}
	closeLog(t, l)
	// A start: what it reads of the sequence may be the kernel's only.
	l = openLog(t, c)
	closeLog(t, l)
	mu.Lock()
	defer mu.Unlock()
	if len(early) > 0 {
		slices.Sort(early)
		t.Errorf("not on the disk when it was relied upon: %q", slices.Compact(early))
	}
}

// A start must not build upon entries that only the kernel's memory has.
func TestOpenSyncsWhatItReadsOfTheSequence(t *testing.T) {
	ca := testca.New(t)
	l, c, faulty := faultyLog(t, nil)
	submit(t, l, ca.Precertificate(t))
	closeLog(t, l)
	faulty.Set(fail(disktest.Sync, func(path string) bool { return strings.HasSuffix(path, ".seq") }, errUnsynced), nil)
	refused(t, c, "input/output error")
	faulty.Set(nil, nil)
	closeLog(t, openLog(t, c))
}
