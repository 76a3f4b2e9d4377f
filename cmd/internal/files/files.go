// Package files reads the files that a configuration names: whole, within a bound,
// and without waiting for what is no file. A name on a command line is another
// matter: there a pipe is welcome.
// What is in them, who asked for them judges; who else may read it, it does not
// look at: package hsm does, for keys, PINs and passphrases.
package files

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// MaxSize bounds every file: no certificate, key or list of ours comes near.
const MaxSize = 4 << 20

// Read reads a file of at most MaxSize bytes. It is a file and no pipe, whose
// opening alone could hold a reload for ever.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s has more than %d bytes", path, MaxSize)
	}
	return data, nil
}
