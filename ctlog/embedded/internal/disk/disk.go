// Package disk makes files durable, and says so when it cannot know.
//
// Invariants:
//   - what [Replace] wrote survives a power cut when it returns nil, and readers
//     see an old file or a whole new one, never a part;
//   - an error of a sync wraps [ErrUnsynced]. The kernel may have dropped the
//     pages and will report success the next time (PostgreSQL's "fsyncgate"), so
//     it must never be retried on the same file: only what is read back by a
//     process that starts anew is known to be there.
//
// It reads nothing: reading needs no care.
package disk

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrUnsynced says that a sync failed: what the disk holds is not known.
var ErrUnsynced = errors.New("syncing to the disk")

// FS is what the log does to its filesystem. [OS] is the real one; tests put
// faults in between.
type FS interface {
	OpenFile(path string, flag int, perm os.FileMode) (File, error)
	Mkdir(path string, perm os.FileMode) error
	Rename(from, to string) error
	Remove(path string) error
	RemoveAll(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// Uncache has the next reader of a file told what the disk holds. Without it,
	// he may be told what the kernel keeps in memory of a write whose sync has
	// failed, also in another process.
	Uncache(path string) error
}

// File is an open file. Sync and Datasync wrap [ErrUnsynced].
type File interface {
	io.Writer
	io.WriterAt
	Sync() error
	// Datasync leaves out the metadata that reading does not need, such as the
	// time of modification.
	Datasync() error
	Close() error
}

// OS is the operating system's filesystem.
type OS struct{}

type osFile struct{ *os.File }

func (f osFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return nil
}

func (f osFile) Datasync() error {
	for {
		switch err := unix.Fdatasync(int(f.Fd())); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%w: %s: %w", ErrUnsynced, f.Name(), err)
		}
	}
}

// OpenFile implements FS.
func (OS) OpenFile(path string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Mkdir implements FS.
func (OS) Mkdir(path string, perm os.FileMode) error { return os.Mkdir(path, perm) }

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// RemoveAll implements FS.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// SyncDir implements FS.
func (OS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("%w: %s: %w", ErrUnsynced, path, err), d.Close())
	}
	return d.Close()
}

// Uncache implements FS. What was not synced stays: sync the file before.
func (OS) Uncache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return errors.Join(fmt.Errorf("dropping %s from the cache: %w", path, err), f.Close())
	}
	return f.Close()
}

// Content is a file to write. Its directory must exist.
type Content struct {
	Path string
	Data []byte
	Perm os.FileMode
}

// Create writes a file that must not exist yet, and removes it again if it
// cannot. Its name is not durable before its directory is synced.
func Create(f FS, c Content) (err error) {
	file, err := f.OpenFile(c.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, c.Perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Remove(c.Path))
		}
	}()
	if _, err := file.Write(c.Data); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

// atOnce bounds the files that Replace holds open.
const atOnce = 8

// Replace writes files, in the place of those that may be there. It writes them
// in temp, a directory on the same filesystem whose content means nothing, and
// renames them when they are on the disk. After an error some may be in place
// and some not.
func Replace(f FS, temp string, files ...Content) error {
	for batch := range slices.Chunk(files, atOnce) {
		if err := replace(f, temp, batch); err != nil {
			return err
		}
	}
	var dirs []string
	for _, c := range files {
		dirs = append(dirs, filepath.Dir(c.Path))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if err := f.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// replace writes all before it syncs any: the first sync then commits the
// filesystem's journal for the rest.
func replace(f FS, temp string, batch []Content) (err error) {
	names := make([]string, len(batch))
	open := make([]File, 0, len(batch))
	defer func() {
		for i, file := range open {
			err = errors.Join(err, file.Close())
			if names[i] != "" {
				err = errors.Join(err, f.Remove(names[i]))
			}
		}
	}()
	for i, c := range batch {
		name := filepath.Join(temp, rand.Text())
		file, err := f.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, c.Perm)
		if err != nil {
			return err
		}
		names[i], open = name, append(open, file)
		if _, err := file.Write(c.Data); err != nil {
			return fmt.Errorf("writing %s: %w", c.Path, err)
		}
	}
	for i, file := range open {
		if err := file.Sync(); err != nil {
			return fmt.Errorf("writing %s: %w", batch[i].Path, err)
		}
	}
	for i, c := range batch {
		if err := f.Rename(names[i], c.Path); err != nil {
			return err
		}
		names[i] = ""
	}
	return nil
}

// Dirs makes directories durably. It remembers some of those that it has made
// or found, because only our own sync proves that one will be there after a
// power cut.
type Dirs struct {
	FS FS
	// Root exists, and nothing is made outside it.
	Root  string
	known map[string]bool
}

const maxKnownDirs = 1024

// Make makes the directory rel below the root, and those on the way to it.
func (d *Dirs) Make(rel string) error {
	if rel == "." || rel == "" || d.known[rel] {
		return nil
	}
	parent := filepath.Dir(rel)
	if err := d.Make(parent); err != nil {
		return err
	}
	err := d.FS.Mkdir(filepath.Join(d.Root, rel), 0o755) // what the log publishes is public
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.FS.SyncDir(filepath.Join(d.Root, parent)); err != nil {
		return err
	}
	if d.known == nil || len(d.known) >= maxKnownDirs {
		d.known = make(map[string]bool)
	}
	d.known[rel] = true
	return nil
}

// Forget forgets that a directory is there, because it was removed.
func (d *Dirs) Forget(rel string) { delete(d.known, rel) }

// Or returns f, or the real filesystem if there is none.
func Or(f FS) FS { return cmp.Or[FS](f, OS{}) }
