package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// record keeps the last checkpoint signed in a file outside the log's directory.
// Whatever restores, clones or rolls back the directory leaves it alone, so it
// tells an old copy from the current log.
type record struct {
	path     string
	instance string
}

type recordContent struct {
	Version    int    `json:"version"`
	Origin     string `json:"origin"`
	Instance   string `json:"instance"`
	Checkpoint string `json:"checkpoint"`
}

// newRecord refuses a path inside the log's directory, where the record would be
// rolled back together with what it guards.
func newRecord(path, dir, instance string) (*record, error) {
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
	return &record{path: path, instance: instance}, nil
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
	return c, true, nil
}

func (r *record) write(c checkpoint) error {
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
	return writeDurably(r.path, append(raw, '\n'), 0o644)
}
