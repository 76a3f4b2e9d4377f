// Package disktest puts faults between a log and its disk, and shows what is on
// a disk when the power goes.
package disktest

import (
	"os"
	"sync"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// Op is what is done to a filesystem.
type Op string

// The operations that can fail.
const (
	Open     Op = "open"
	Mkdir    Op = "mkdir"
	Rename   Op = "rename" // the path is the new name
	Remove   Op = "remove"
	SyncDir  Op = "syncdir"
	Write    Op = "write"
	Sync     Op = "sync"
	Datasync Op = "datasync"
	Close    Op = "close"
	Uncache  Op = "uncache"
)

// Fault decides about an operation. It may block, as a disk does that hangs.
type Fault func(op Op, path string) error

// Faulty is the operating system's filesystem with faults. Before is asked before
// an operation, which does not happen if it returns an error; After is asked after
// it, so that it happens and is reported as failed. Both may be nil.
type Faulty struct {
	mu            sync.Mutex // guards before and after
	before, after Fault
}

// Set replaces the faults.
func (f *Faulty) Set(before, after Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func (f *Faulty) do(op Op, path string, really func() error) error {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(op, path); err != nil {
			return err
		}
	}
	err := really()
	if err == nil && after != nil {
		err = after(op, path)
	}
	return err
}

// OpenFile implements disk.FS.
func (f *Faulty) OpenFile(path string, flag int, perm os.FileMode) (opened disk.File, err error) {
	err = f.do(Open, path, func() (err error) {
		opened, err = disk.OS{}.OpenFile(path, flag, perm)
		return err
	})
	if err != nil {
		if opened != nil {
			_ = opened.Close()
		}
		return nil, err
	}
	return &file{opened, f, path}, nil
}

// Mkdir implements disk.FS.
func (f *Faulty) Mkdir(path string, perm os.FileMode) error {
	return f.do(Mkdir, path, func() error { return disk.OS{}.Mkdir(path, perm) })
}

// Rename implements disk.FS.
func (f *Faulty) Rename(from, to string) error {
	return f.do(Rename, to, func() error { return disk.OS{}.Rename(from, to) })
}

// Remove implements disk.FS.
func (f *Faulty) Remove(path string) error {
	return f.do(Remove, path, func() error { return disk.OS{}.Remove(path) })
}

// RemoveAll implements disk.FS.
func (f *Faulty) RemoveAll(path string) error {
	return f.do(Remove, path, func() error { return disk.OS{}.RemoveAll(path) })
}

// SyncDir implements disk.FS.
func (f *Faulty) SyncDir(path string) error {
	return f.do(SyncDir, path, func() error { return disk.OS{}.SyncDir(path) })
}

// Uncache implements disk.FS.
func (f *Faulty) Uncache(path string) error {
	return f.do(Uncache, path, func() error { return disk.OS{}.Uncache(path) })
}

type file struct {
	disk.File
	fs   *Faulty
	path string
}

func (f *file) Write(b []byte) (n int, err error) {
	err = f.fs.do(Write, f.path, func() (err error) {
		n, err = f.File.Write(b)
		return err
	})
	return n, err
}

func (f *file) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.fs.do(Write, f.path, func() (err error) {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

func (f *file) Sync() error     { return f.fs.do(Sync, f.path, f.File.Sync) }
func (f *file) Datasync() error { return f.fs.do(Datasync, f.path, f.File.Datasync) }
func (f *file) Close() error    { return f.fs.do(Close, f.path, f.File.Close) }
