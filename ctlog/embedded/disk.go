package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirLock holds a log's directory for one opener: the directory itself, because a
// lock file is easily deleted by somebody who takes it for stale, and the lock
// file, which is what earlier versions look at.
type dirLock struct{ dir, file *os.File }

// lockDir takes the directory for this opener.
func lockDir(dir string) (*dirLock, error) {
	what := "log directory " + dir
	held, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", what, err)
	}
	if err := lockOpen(held, what); err != nil {
		return nil, err
	}
	file, err := lockPath(filepath.Join(dir, lockFile), what)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return &dirLock{held, file}, nil
}

// Close gives the directory free.
func (l *dirLock) Close() error { return errors.Join(l.file.Close(), l.dir.Close()) }

// lockPath takes a file that is made if it is not there.
func lockPath(path, what string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", what, err)
	}
	return f, lockOpen(f, what)
}

// lockOpen takes a lock that belongs to the open file (flock), not to the process
// (fcntl): it stops a second opener in the same process too, which would give one
// index to two entries. It closes the file if it cannot.
func lockOpen(f *os.File, what string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("%s is open already, in this process or another; "+
			"two openers would give one index to two certificates", what)
	default:
		err = fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return errors.Join(err, f.Close())
}

// freeSpace says how many bytes this process may still write at dir, and how
// many files it may create; files is -1 where the filesystem does not count them.
func freeSpace(dir string) (free uint64, files int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("reading free space of %s: %w", dir, err)
	}
	files = -1
	if st.Files > 0 {
		files = int64(min(st.Ffree, 1<<62))
	}
	return st.Bavail * uint64(st.Bsize), files, nil
}

// descriptorReserve is more than publishing and a new segment ever hold open.
const descriptorReserve = 32

// descriptorHeadroom checks that descriptorReserve descriptors can be had. What
// is sequenced needs none, but entries that cannot be published must not pile up
// because a flood of connections has taken them all. The check cannot hold them,
// so the server's connection limit must leave room too.
func descriptorHeadroom(f *os.File) (err error) {
	var held []int
	defer func() {
		for _, fd := range held {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	for range descriptorReserve {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("fewer than %d file descriptors left: %w", descriptorReserve, err)
		}
		held = append(held, fd)
	}
	return nil
}
