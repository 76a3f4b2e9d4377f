package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// record keeps the last checkpoint signed in a file outside the log's directory.
// Whatever restores, clones or rolls back the directory leaves it alone, so it
// tells an old copy from the current log.
//
// It is changed by compare and swap: what is there must be what this opener read
// or wrote last. So of two that somehow write for one log, on two machines that
// share the record, one stops before it tells a second story.
type record struct {
	fs       disk.FS
	path     string
	instance string
	lock     *os.File
	last     []byte // the content of the file, as far as we know; nil: none
}

type recordContent struct {
	Version    int    `json:"version"`
	Origin     string `json:"origin"`
	Instance   string `json:"instance"`
	Checkpoint string `json:"checkpoint"`
}

// openRecord locks the record. It refuses a path inside the log's directory, where the record would be
// rolled back together with what it guards.
func openRecord(f disk.FS, path, dir, instance string) (*record, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("checkpoint record: %w", err)
	}
	parent, err = filepath.Abs(parent)
	if err != nil {
		return nil, fmt.Errorf("checkpoint record: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("checkpoint record: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("checkpoint record: %w", err)
	}
	if parent == dir || strings.HasPrefix(parent, dir+string(filepath.Separator)) {
		return nil, fmt.Errorf("checkpoint record %s lies inside the log directory %s, "+
			"where a restore would roll it back too", path, dir)
	}
	lock, err := lockPath(path+".lock", "checkpoint record "+path)
	if err != nil {
		return nil, err
	}
	return &record{fs: f, path: path, instance: instance, lock: lock}, nil
}

// read returns the recorded checkpoint, or ok false if there is no record yet.
func (r *record) read(v *verifier) (c checkpoint, ok bool, err error) {
	raw, err := readSmall(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}, false, nil
	}
	if err != nil {
		return checkpoint{}, false, fmt.Errorf("reading checkpoint record: %w", err)
	}
	var content recordContent
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&content); err != nil {
		return checkpoint{}, false, fmt.Errorf("reading checkpoint record %s: %w", r.path, err)
	}
	if content.Version != 1 {
		return checkpoint{}, false, fmt.Errorf("checkpoint record %s has version %d, want 1", r.path, content.Version)
	}
	if content.Origin != v.origin || content.Instance != r.instance {
		return checkpoint{}, false, fmt.Errorf("checkpoint record %s is of log %q, instance %s; this is %q, instance %s",
			r.path, content.Origin, content.Instance, v.origin, r.instance)
	}
	c, err = v.open([]byte(content.Checkpoint))
	if err != nil {
		return checkpoint{}, false, fmt.Errorf("checkpoint record %s: %w", r.path, err)
	}
	r.last = raw
	return c, true, nil
}

// swap replaces the record, if it still is what it was.
func (r *record) swap(c checkpoint) error {
	current, err := readSmall(r.path)
	if err != nil && (!errors.Is(err, fs.ErrNotExist) || r.last != nil) {
		// Gone with the disk that it lies on, perhaps: it may come back.
		return fmt.Errorf("reading checkpoint record: %w", err)
	}
	if !bytes.Equal(current, r.last) {
		return fmt.Errorf("checkpoint record %s was changed by somebody else; is another copy of this log running? %w",
			r.path, errContradiction)
	}
	origin, _, _ := strings.Cut(string(c.raw), "\n")
	raw, err := json.MarshalIndent(recordContent{
		Version:    1,
		Origin:     origin,
		Instance:   r.instance,
		Checkpoint: string(c.raw),
	}, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	if err := r.write(raw); err != nil {
		return err
	}
	r.last = raw
	return nil
}

// write is not disk.Replace: the record's directory is not the log's, and what
// else lies there is not ours.
func (r *record) write(raw []byte) error {
	temp := r.path + ".tmp"
	if err := r.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := disk.Create(r.fs, disk.Content{Path: temp, Data: raw, Perm: 0o644}); err != nil {
		return err
	}
	if err := r.fs.Rename(temp, r.path); err != nil {
		return errors.Join(err, r.fs.Remove(temp))
	}
	return r.fs.SyncDir(filepath.Dir(r.path))
}

func (r *record) close() error {
	if r == nil {
		return nil
	}
	return r.lock.Close()
}
