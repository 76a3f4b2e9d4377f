package sequence

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Extent is what a sequence file covers.
type Extent struct {
	// First is the first index that it still holds, Next that of the next entry.
	First, Next uint64
	// Torn says that something unfinished lies at the end: a group that is being
	// written, or one that a crash cut off.
	Torn bool
}

// lookAttempts bounds how often Look begins again because of a writer.
const lookAttempts = 5

// Look reads a sequence file without changing anything, also while it is written,
// and hands each group to visit, in order. A group's payload is only good during
// the call. When a writer removes a segment meanwhile, or may have been in the
// middle of a group, Look begins again, and groups are visited again: damage is
// what two looks in a row find at one place.
func Look(dir string, instance [16]byte, visit func(Group) error) (Extent, error) {
	var before string
	for n := 1; ; n++ {
		e, err := look(dir, instance, visit)
		if err == nil {
			return e, nil
		}
		again := errors.Is(err, fs.ErrNotExist) || err.Error() != before
		if !again || n == lookAttempts {
			return Extent{}, err
		}
		before = err.Error()
	}
}

func look(dir string, instance [16]byte, visit func(Group) error) (Extent, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Extent{}, fmt.Errorf("reading sequence file: %w", err)
	}
	var e Extent
	known := false
	for _, entry := range entries {
		if !segmentPattern.MatchString(entry.Name()) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		c, err := readSegment(path, instance)
		if err != nil {
			return Extent{}, fmt.Errorf("%s: %w", path, err)
		}
		first, err := strconv.ParseUint(entry.Name()[:20], 10, 64)
		switch {
		case err != nil || c.first != first:
			return Extent{}, fmt.Errorf("%s: begins at entry %d, not at that of its name", path, c.first)
		case known && c.first != e.Next:
			return Extent{}, fmt.Errorf("%s: begins at entry %d, but the segment before it ends at entry %d", path, c.first, e.Next)
		case !known:
			e.First, known = c.first, true
		}
		for _, g := range c.groups {
			if err := visit(g); err != nil {
				return Extent{}, fmt.Errorf("%s: %w", path, err)
			}
		}
		e.Next, e.Torn = c.next, c.torn
	}
	if !known {
		return Extent{}, fmt.Errorf("reading sequence file: %s holds no segment", dir)
	}
	return e, nil
}

// readSegment reads a segment of an instance.
func readSegment(path string, instance [16]byte) (contents, error) {
	raw, err := readBounded(path)
	if err != nil {
		return contents{}, err
	}
	c, err := parse(raw)
	if err != nil {
		return contents{}, err
	}
	if c.instance != instance {
		return contents{}, fmt.Errorf("of log instance %x, want %x", c.instance, instance)
	}
	return c, nil
}

// readBounded reads a file of at most maxSegment bytes.
func readBounded(path string) ([]byte, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	raw, err := io.ReadAll(io.LimitReader(r, maxSegment+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxSegment {
		return nil, fmt.Errorf("more than %d bytes", maxSegment)
	}
	return raw, nil
}
