package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is what the writer wants from a file system; tests make it fail.
type disk interface {
	// create makes the segment that begins with the given sequence. Its name is
	// durable when create returns.
	create(seq uint64) (segment, error)
	// free is the space that this process may still fill.
	free() (int64, error)
}

// segment is a file that is only ever appended to.
type segment interface {
	io.Writer
	// sync makes what was written durable, length included.
	sync() error
	// intact reports whether the name still leads to this file. A journal that
	// somebody deleted or moved would go on being written where nobody reads.
	intact() error
	io.Closer
}

const (
	segmentPrefix = "journal-"
	segmentSuffix = ".ndjson"
	temporary     = "journal.tmp"
	lockName      = "journal.lock"
)

// segmentName names a segment by its first sequence, so that names sort.
func segmentName(seq uint64) string {
	return fmt.Sprintf("%s%020d%s", segmentPrefix, seq, segmentSuffix)
}

// segmentSeq is the inverse of segmentName.
func segmentSeq(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, segmentPrefix)
	digits, ok2 := strings.CutSuffix(digits, segmentSuffix)
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, ok && ok2 && err == nil && segmentName(seq) == name
}

// segmentsIn lists the segments of a directory in order.
func segmentsIn(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing segments: %w", err)
	}
	var seqs []uint64
	for _, e := range entries {
		if seq, ok := segmentSeq(e.Name()); ok {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs, nil
}

// directory is a disk of the operating system.
type directory struct{ path string }

func (d directory) file(seq uint64) string { return filepath.Join(d.path, segmentName(seq)) }

func (d directory) create(seq uint64) (segment, error) {
	f, err := os.OpenFile(d.file(seq), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating segment: %w", err)
	}
	if err := d.sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osSegment{File: f}, nil
}

// appendTo opens an existing segment.
func (d directory) appendTo(seq uint64) (segment, int64, error) {
	f, err := os.OpenFile(d.file(seq), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("opening segment: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening segment: %w", err), f.Close())
	}
	return &osSegment{File: f}, st.Size(), nil
}

// sync makes the names in the directory durable. fsync(2): "Calling fsync()
// does not necessarily ensure that the entry in the directory containing the
// file has also reached disk. For that an explicit fsync() on a file descriptor
// for the directory is also needed."
func (d directory) sync() error { return syncDir(d.path) }

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening directory to sync it: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written to it; Sync is the last word
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}

func (d directory) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return 0, fmt.Errorf("asking for free space: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}

type osSegment struct{ *os.File }

func (s *osSegment) sync() error { return datasync(s.File) }

func (s *osSegment) intact() error {
	ours, err := s.Stat()
	if err != nil {
		return fmt.Errorf("looking at the open segment: %w", err)
	}
	named, err := os.Lstat(s.Name())
	if err != nil {
		return fmt.Errorf("looking at the segment by its name: %w", err)
	}
	if !os.SameFile(ours, named) {
		return fmt.Errorf("%s is not the file that is being written: it was replaced", s.Name())
	}
	return nil
}

// prepareDir makes the directory when it is missing, and refuses one into which
// others can put files.
func prepareDir(path string) error {
	err := os.Mkdir(path, 0o700)
	switch {
	case err == nil:
		return syncDir(filepath.Dir(path))
	case !errors.Is(err, os.ErrExist):
		return fmt.Errorf("making the journal's directory: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at the journal's directory: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if perm := st.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%s can be written by others than its owner (mode %04o): run chmod go-w %s", path, perm, path)
	}
	return nil
}

// lock takes the journal for this process; the kernel gives it back when the
// process dies, however it dies. The file holds the hash of the genesis record,
// so that a journal that is gone is not mistaken for one that never was.
func lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process has this journal open")
		}
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}
