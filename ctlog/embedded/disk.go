package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const tempPrefix = ".tmp-"

// writeDurably replaces path by a file with this content: readers see the old
// file or the new one, and when it returns nil the new one survives a power cut.
func writeDurably(path string, data []byte, perm os.FileMode) error {
	temp := filepath.Join(filepath.Dir(path), tempPrefix+rand.Text())
	if err := writeSynced(temp, data, perm); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

// createDurably is writeDurably for a file that must not exist yet.
func createDurably(path string, data []byte, perm os.FileMode) error {
	if err := writeSynced(path, data, perm); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("syncing %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// lockDir takes the directory for this opener. Tessera's own locks belong to the
// process (fcntl), so they let a second opener in the same process give one
// index to two entries; flock belongs to the open file and stops both.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking log directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("log directory %s is open already, in this process or another; "+
			"two openers would give one index to two certificates", dir), f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
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

// descriptorReserve is more than one batch, one publication and one collection
// of Tessera ever hold open.
const descriptorReserve = 32

// descriptorHeadroom checks that descriptorReserve descriptors can be had.
// Tessera panics in a goroutine of its own if it cannot open its lock file, and
// takes the whole CA with it; a flood of connections must not get that far. The
// check cannot hold the descriptors, so the server's connection limit must leave
// room too.
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
