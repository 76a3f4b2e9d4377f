package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// File is one file of a ceremony.
type File struct {
	// Name is the name inside the directory.
	Name string
	// Secret is true for what only its owner may read.
	Secret bool
	Data   []byte
}

// WriteDirectory writes all files of a ceremony or none: into a new directory
// beside dir, which then takes the name dir. dir must not exist, or be empty.
//
// When something fails, what was written stays in the directory beside, which
// the error names: it may hold a key, and no code of ours deletes one.
func WriteDirectory(dir string, files []File) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("naming the directory: %w", err)
	}
	if err := CheckVacant(dir); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	// 0700: MkdirTemp keeps others out, and keys are in it.
	partial, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".partial-*")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	for _, f := range files {
		write := WritePublic
		if f.Secret {
			write = WriteSecret
		}
		if err := write(filepath.Join(partial, f.Name), f.Data); err != nil {
			return fmt.Errorf("%w; what was made so far is in %s and not to be used", err, partial)
		}
	}
	// rename(2) refuses a directory that is not empty, should one have appeared.
	if err := os.Rename(partial, dir); err != nil {
		return fmt.Errorf("putting %s in place: %w; everything is in %s", dir, err, partial)
	}
	return syncDir(parent)
}

// CheckVacant refuses a directory that holds anything.
func CheckVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at the directory: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty (it holds %s, for one) and is left as it is; name another directory", dir, entries[0].Name())
	}
	return nil
}
