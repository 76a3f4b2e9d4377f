package auditor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// runs is a set of hashes with times that only grows. What was added last is in
// memory, the rest in files that never change: sorted hashes behind a header, one
// file for each call of flush.
//
// A database or one big table would do as well, but would have to survive a crash.
// A run is complete or not there, and can be made again from what it came from. A
// hash is looked for in the few runs of about its time first, with one read of each,
// and in all others only before an alarm.
type runs struct {
	dir  string
	list []*run
	tail map[hash]struct{}
	// from and to are the times of what is in the tail.
	from, to time.Time
}

type run struct {
	path   string
	header runHeader
	offset int64
}

// runHeader is JSON in front of the hashes.
type runHeader struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Count int       `json:"count"`
	// Note is the owner's.
	Note json.RawMessage `json:"note"`
}

const (
	runMagic  = "mayfly run 1\n"
	runSuffix = ".run"
	// closeBy is how far the time of an intent is from the time in the SCT, unless
	// clocks are wrong or a log repeats the SCT of an earlier submission.
	closeBy      = time.Minute
	maxRunHeader = 1 << 20
	maxRunSize   = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errRun says that a run is damaged. It can be made again.
var errRun = errors.New("an index is damaged")

// remakeRuns begins an index anew.
func remakeRuns(dir string) (*runs, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("removing a damaged index: %w", err)
	}
	return openRuns(dir)
}

// openRuns reads the runs of a directory, which it makes if need be.
func openRuns(dir string) (*runs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of an index: %w", err)
	}
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("listing an index: %w", err)
	}
	x := &runs{dir: dir, tail: map[hash]struct{}{}}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), runSuffix) {
			continue
		}
		r := &run{path: filepath.Join(dir, e.Name())}
		if err := r.load(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errRun, r.path, err)
		}
		x.list = append(x.list, r)
	}
	return x, nil
}

// cut forgets all but the first runs, on the disk too.
func (x *runs) cut(count int) error {
	clear(x.tail)
	for len(x.list) > count {
		last := x.list[len(x.list)-1]
		if err := os.Remove(last.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cutting an index: %w", err)
		}
		x.list = x.list[:len(x.list)-1]
	}
	return nil
}

func (x *runs) add(h hash, at time.Time) {
	if len(x.tail) == 0 {
		x.from, x.to = at, at
	}
	x.tail[h] = struct{}{}
	if at.Before(x.from) {
		x.from = at
	}
	if at.After(x.to) {
		x.to = at
	}
}

// within looks for a hash among those of about a time.
func (x *runs) within(h hash, at time.Time, slack time.Duration) (bool, error) {
	if _, ok := x.tail[h]; ok {
		return true, nil
	}
	for _, r := range slices.Backward(x.list) {
		if !r.within(at, slack) {
			continue
		}
		if ok, err := r.find(h); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// within reports that a time is in the run's, with some slack.
func (r *run) within(at time.Time, slack time.Duration) bool {
	return !at.Before(r.header.From.Add(-slack)) && !at.After(r.header.To.Add(slack))
}

// has looks for a hash everywhere.
func (x *runs) has(h hash) (bool, error) {
	if _, ok := x.tail[h]; ok {
		return true, nil
	}
	for _, r := range slices.Backward(x.list) {
		found, err := r.find(h)
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// flush makes a run of the tail. Its name must sort behind those before.
func (x *runs) flush(name string, note any) error {
	raw, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("encoding a run: %w", err)
	}
	r := &run{path: filepath.Join(x.dir, name+runSuffix), header: runHeader{From: x.from, To: x.to, Count: len(x.tail), Note: raw}}
	header, err := json.Marshal(r.header)
	if err != nil {
		return fmt.Errorf("encoding a run: %w", err)
	}
	hashes := make([]byte, 0, len(x.tail)*32)
	for _, h := range slices.SortedFunc(keys(x.tail), func(a, b hash) int { return bytes.Compare(a[:], b[:]) }) {
		hashes = append(hashes, h[:]...)
	}
	data := binary.BigEndian.AppendUint32([]byte(runMagic), uint32(len(header)))
	data = append(append(data, header...), hashes...)
	data = binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
	if err := replaceFile(r.path, data); err != nil {
		return err
	}
	r.offset = int64(len(runMagic) + 4 + len(header))
	// One of that name is from before a restart, and was read again from.
	same := func(old *run) bool { return old.path == r.path }
	x.list = append(slices.DeleteFunc(x.list, same), r)
	clear(x.tail)
	return nil
}

// load checks a run.
func (r *run) load() error {
	f, err := os.Open(r.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxRunSize+1))
	if err != nil {
		return err
	}
	head := len(runMagic) + 4
	if len(data) > maxRunSize || len(data) < head+4 || string(data[:len(runMagic)]) != runMagic {
		return errors.New("not a run")
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return errors.New("content does not match its checksum")
	}
	size := int(binary.BigEndian.Uint32(data[len(runMagic):]))
	if size > maxRunHeader || size > len(body)-head {
		return errors.New("header is too long")
	}
	if err := json.Unmarshal(body[head:head+size], &r.header); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	r.offset = int64(head + size)
	if len(body)-head-size != 32*r.header.Count {
		return errors.New("number of hashes differs from the header")
	}
	return nil
}

// window is how many hashes are read at once. Hashes are spread evenly, so that the
// place of one in a run of a segment is off by a few dozen.
const window = 512

// find looks for a hash without loading the run, which was checked when it was opened.
func (r *run) find(h hash) (bool, error) {
	f, err := os.Open(r.path)
	if err != nil {
		return false, fmt.Errorf("searching an index: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	guess := int(float64(binary.BigEndian.Uint32(h[:])) / (1 << 32) * float64(r.header.Count))
	first := max(0, min(guess-window/2, r.header.Count-window))
	n := min(window, r.header.Count-first)
	if n == 0 {
		return false, nil
	}
	block := make([]byte, 32*n)
	if _, err := f.ReadAt(block, r.offset+int64(32*first)); err != nil {
		return false, fmt.Errorf("searching %s: %w", r.path, err)
	}
	if bytes.Compare(block[:32], h[:]) <= 0 && bytes.Compare(block[32*n-32:], h[:]) >= 0 {
		_, ok := search(n, h, func(i int) []byte { return block[32*i : 32*i+32] })
		return ok, nil
	}
	var b [32]byte
	_, ok := search(r.header.Count, h, func(i int) []byte {
		if _, readErr := f.ReadAt(b[:], r.offset+int64(32*i)); readErr != nil {
			err = fmt.Errorf("searching %s: %w", r.path, readErr)
		}
		return b[:]
	})
	return ok && err == nil, err
}

func search(n int, h hash, at func(int) []byte) (int, bool) {
	low, high := 0, n
	for low < high {
		middle := (low + high) / 2
		switch bytes.Compare(at(middle), h[:]) {
		case 0:
			return middle, true
		case -1:
			low = middle + 1
		default:
			high = middle
		}
	}
	return low, false
}

func keys(m map[hash]struct{}) func(func(hash) bool) {
	return func(yield func(hash) bool) {
		for h := range m {
			if !yield(h) {
				return
			}
		}
	}
}

// replaceFile writes a file whole or not at all, durably.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone by then, or of no use
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
