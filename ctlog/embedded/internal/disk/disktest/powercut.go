package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// Recorder is the operating system's filesystem, and writes down what is done
// below a directory, so that every moment can be made again as a power cut would
// have left it: without what was not synced, or with any part of that.
//
// It is as hard as POSIX allows: a file's data is there for certain only after a
// sync of the file, a name only after a sync of its directory, and a removed name
// may come back. What was not synced can survive block by block.
type Recorder struct {
	root   string
	before func(n int)

	mu    sync.Mutex // guards the rest; held while an operation is done, for its order
	start *node
	steps []step
}

type step struct {
	op       Op
	path, to string // below the root
	handle   int    // of Write and Sync: the number of the Open
	flag     int
	perm     os.FileMode
	data     []byte // nil when all of it is zero
	size     int
	offset   int64
}

// NewRecorder begins with what is in root, as if all of it were on the disk.
// before, if not nil, is told before each operation how many there were.
func NewRecorder(root string, before func(n int)) (*Recorder, error) {
	r := &Recorder{root: root, before: before}
	var err error
	r.start, err = load(root)
	return r, err
}

// Len is how many operations there were.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.steps)
}

func (r *Recorder) do(s step, really func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range []*string{&s.path, &s.to} {
		if *p == "" {
			continue
		}
		rel, err := filepath.Rel(r.root, *p)
		if err != nil || strings.HasPrefix(rel, "..") {
			return fmt.Errorf("%s is outside of %s", *p, r.root)
		}
		*p = rel
	}
	if r.before != nil {
		r.before(len(r.steps))
	}
	if err := really(); err != nil {
		return err
	}
	r.steps = append(r.steps, s)
	return nil
}

// OpenFile implements disk.FS.
func (r *Recorder) OpenFile(path string, flag int, perm os.FileMode) (opened disk.File, err error) {
	f := &recorded{recorder: r}
	err = r.do(step{op: Open, path: path, flag: flag, perm: perm}, func() error {
		f.handle = len(r.steps)
		f.File, err = disk.OS{}.OpenFile(path, flag, perm)
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Mkdir implements disk.FS.
func (r *Recorder) Mkdir(path string, perm os.FileMode) error {
	return r.do(step{op: Mkdir, path: path, perm: perm}, func() error { return disk.OS{}.Mkdir(path, perm) })
}

// Rename implements disk.FS.
func (r *Recorder) Rename(from, to string) error {
	return r.do(step{op: Rename, path: from, to: to}, func() error { return disk.OS{}.Rename(from, to) })
}

// Remove implements disk.FS.
func (r *Recorder) Remove(path string) error {
	return r.do(step{op: Remove, path: path}, func() error { return disk.OS{}.Remove(path) })
}

// RemoveAll implements disk.FS.
func (r *Recorder) RemoveAll(path string) error {
	return r.do(step{op: Remove, path: path}, func() error { return disk.OS{}.RemoveAll(path) })
}

// SyncDir implements disk.FS. The real disk is spared.
func (r *Recorder) SyncDir(path string) error {
	return r.do(step{op: SyncDir, path: path}, func() error { return nil })
}

// Uncache implements disk.FS. It changes nothing.
func (r *Recorder) Uncache(string) error { return nil }

type recorded struct {
	disk.File
	recorder *Recorder
	handle   int
	offset   int64 // of Write; files are not shared
}

func (f *recorded) Write(b []byte) (n int, err error) {
	n, err = f.WriteAt(b, f.offset)
	f.offset += int64(n)
	return n, err
}

func (f *recorded) WriteAt(b []byte, off int64) (n int, err error) {
	s := step{op: Write, handle: f.handle, size: len(b), offset: off}
	if !zero(b) {
		s.data = bytes.Clone(b)
	}
	err = f.recorder.do(s, func() error {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

func (f *recorded) Sync() error {
	return f.recorder.do(step{op: Sync, handle: f.handle}, func() error { return nil })
}

func (f *recorded) Datasync() error { return f.Sync() }

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Disk is a disk at some moment: what is on it for certain, and what is not.
type Disk struct {
	root    *node
	handles map[int]*node
}

// Moments goes through the recording from its begin. visit sees the disk before
// the operation n; it must not keep it.
func (r *Recorder) Moments(visit func(n int, d *Disk) error) error {
	r.mu.Lock()
	steps := slices.Clone(r.steps)
	r.mu.Unlock()
	d := &Disk{root: r.start.clone(), handles: make(map[int]*node)}
	for n, s := range steps {
		if err := visit(n, d); err != nil {
			return err
		}
		if err := d.apply(n, s); err != nil {
			return fmt.Errorf("operation %d: %w", n, err)
		}
	}
	return visit(len(steps), d)
}

// Power decides what survives of what is not on the disk for certain. It is
// asked how many of n there are, the first of them first, or whether one does
// when n is 1.
type Power func(n int) int

// Kill leaves everything, as the death of a process does.
func Kill(n int) int { return n }

// Cut leaves nothing.
func Cut(int) int { return 0 }

// Write makes the disk in a new directory.
func (d *Disk) Write(dir string, power Power) error { return d.root.write(dir, power) }

func (d *Disk) find(path string) (*node, error) {
	n := d.root
	for name := range strings.SplitSeq(path, string(filepath.Separator)) {
		if name == "." {
			continue
		}
		if n = n.names[name]; n == nil {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
	}
	return n, nil
}

func (d *Disk) apply(number int, s step) error {
	switch s.op {
	case Open:
		return d.open(number, s)
	case Write:
		d.handles[s.handle].change(s)
		return nil
	case Sync:
		d.handles[s.handle].settle()
		return nil
	case SyncDir:
		n, err := d.find(s.path)
		if err == nil {
			n.settle()
		}
		return err
	case Rename:
		return d.rename(s)
	}
	parent, err := d.find(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	var made *node // none for Remove
	if s.op == Mkdir {
		made = newDir(s.perm)
	}
	parent.enter(entry{name: filepath.Base(s.path), node: made})
	return nil
}

func (d *Disk) open(number int, s step) error {
	n, err := d.find(s.path)
	switch {
	case err == nil && s.flag&os.O_TRUNC != 0:
		return errors.New("truncating is not known here")
	case err != nil:
		parent, err := d.find(filepath.Dir(s.path))
		if err != nil {
			return err
		}
		n = newFile(s.perm)
		parent.enter(entry{name: filepath.Base(s.path), node: n})
	}
	d.handles[number] = n
	return nil
}

func (d *Disk) rename(s step) error {
	n, err := d.find(s.path)
	if err != nil {
		return err
	}
	from, err := d.find(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	to, err := d.find(filepath.Dir(s.to))
	if err != nil {
		return err
	}
	target := entry{name: filepath.Base(s.to), node: n}
	if from == to {
		target.old = filepath.Base(s.path)
	} else {
		from.enter(entry{name: filepath.Base(s.path)})
	}
	to.enter(target)
	return nil
}
