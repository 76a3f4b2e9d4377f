package sequence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk/disktest"
)

// When the name of a new segment may already be in the directory, groups must not
// go on into the old one, even those that it has room for: the next start would
// find the new segment, which is empty, where they should be.
func TestABeginningThatIsCutShortLosesNoGroup(t *testing.T) {
	for name, cut := range map[string]struct {
		op            disktest.Op
		before, after bool
	}{
		"no descriptor to sync the directory":     {op: disktest.SyncDir, before: true},
		"the sync is reported as failed":          {op: disktest.SyncDir, after: true},
		"the rename did not happen":               {op: disktest.Rename, before: true},
		"the rename is reported as failed":        {op: disktest.Rename, after: true},
		"the header could not be written":         {op: disktest.Write, before: true},
		"the spare could not be opened":           {op: disktest.Open, before: true},
		"the old segment could not be closed":     {op: disktest.Close, before: true},
		"the header is reported as not written":   {op: disktest.Write, after: true},
		"the spare is reported as not opened":     {op: disktest.Open, after: true},
		"the segment is reported as not closed":   {op: disktest.Close, after: true},
		"the header's sync is reported as failed": {op: disktest.Sync, after: true},
	} {
		t.Run(name, func(t *testing.T) {
			faulty := &disktest.Faulty{}
			c := newFile(t, 0)
			c.FS = faulty
			f, _ := open(t, c)
			want := appendTo(t, f, MaxPayload/2, 10)
			if err := f.Prepare(); err != nil {
				t.Fatal(err)
			}
			fault := func(op disktest.Op, path string) error {
				if op == cut.op && filepath.Base(path) != tempName {
					return syscall.EMFILE
				}
				return nil
			}
			if cut.before {
				faulty.Set(fault, nil)
			} else {
				faulty.Set(nil, fault)
			}
			if err := f.Append(group(f.Next(), MaxPayload)); !errors.Is(err, syscall.EMFILE) || f.Broken() != nil {
				t.Fatalf("Append of what needs a new segment: %v, broken %v; want EMFILE, which passes", err, f.Broken())
			}
			faulty.Set(nil, nil)
			want = append(want, appendTo(t, f, 10, 20)...)
			for _, published := range []uint64{0, 6, 9, f.Next()} {
				// As after a kill: Close does nothing for the disk.
				again := c
				again.FS, again.Dir, again.Published = nil, filepath.Join(t.TempDir(), "copy"), published
				if err := os.CopyFS(again.Dir, os.DirFS(c.Dir)); err != nil {
					t.Fatal(err)
				}
				_, got := open(t, again)
				equal(t, beyond(got, published), beyond(want, published))
			}
		})
	}
}

// beyond leaves out what is published.
func beyond(groups []Group, published uint64) []Group {
	return slices.DeleteFunc(slices.Clone(groups), func(g Group) bool { return g.First < published })
}

// After a sync that failed the kernel may keep what was written, and says to
// readers that it is there, until it needs the memory: then the disk's old blocks
// are back. The next start must see the disk.
func TestAGroupThatIsOnlyInTheKernelsMemoryIsNotReplayed(t *testing.T) {
	faulty := &disktest.Faulty{}
	c := newFile(t, 0)
	c.FS = faulty
	f, _ := open(t, c)
	want := appendTo(t, f, 10)
	path := segmentPath(c.Dir, 0)
	onDisk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	faulty.Set(fail(disktest.Datasync), nil)
	if err := f.Append(group(3, 10)); err == nil {
		t.Fatal("Append succeeded without a sync")
	}
	faulty.Set(nil, func(op disktest.Op, uncached string) error {
		if op == disktest.Uncache && uncached == path {
			return os.WriteFile(path, onDisk, 0o600)
		}
		return nil
	})
	_, got := open(t, c)
	equal(t, got, want)
}

func fail(op disktest.Op) disktest.Fault {
	return func(o disktest.Op, _ string) error {
		if o == op {
			return fmt.Errorf("%w: %w", disk.ErrUnsynced, syscall.EIO)
		}
		return nil
	}
}
