package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Modes of what is written: secrets for their owner, the rest to be read.
const (
	secretMode fs.FileMode = 0o600
	publicMode fs.FileMode = 0o644
)

// WritePublic writes a new file that everybody may read. A file that is there
// already is left alone and is an error.
func WritePublic(path string, data []byte) error { return writeNew(path, data, publicMode) }

// WriteSecret writes a new file that its owner alone may read. A file that is
// there already is left alone and is an error.
func WriteSecret(path string, data []byte) error { return writeNew(path, data, secretMode) }

// writeNew writes a file that must not exist, durably: a key that is lost with
// the power is noticed only when a certificate has been made for it.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already and is left as it is; name another file", path)
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err = f.Write(data)
	// The umask may have taken a bit; what is public must be readable by the
	// service's user.
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	return nil
}
