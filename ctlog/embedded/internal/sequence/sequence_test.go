package sequence

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk/disktest"
)

const smallest = block + (groupHead+MaxPayload+block-1)&^(block-1)

var instance = [16]byte{1, 2, 3}

// newFile makes an empty sequence file.
func newFile(t testing.TB, first uint64) Config {
	t.Helper()
	c := Config{Dir: filepath.Join(t.TempDir(), "sequence"), Instance: instance, SegmentBytes: smallest, Published: first}
	if err := Create(nil, c.Dir, instance, first); err != nil {
		t.Fatalf("Create: %v", err)
	}
	return c
}

// open opens the file and returns what it replays.
func open(t testing.TB, c Config) (*File, []Group) {
	t.Helper()
	var groups []Group
	f, err := Open(c, func(g Group) error {
		g.Payload = bytes.Clone(g.Payload)
		groups = append(groups, g)
		return nil
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, groups
}

// refuse opens the file and expects a refusal that says want.
func refuse(t *testing.T, c Config, want string) {
	t.Helper()
	f, err := Open(c, func(Group) error { return nil })
	if err == nil {
		_ = f.Close()
		t.Fatalf("Open succeeded, want a refusal that says %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("Open: %v\nwant a refusal that says %q", err, want)
	}
}

var start = time.UnixMilli(1790000000123).UTC()

// group makes a group of three entries.
func group(first uint64, size int) Group {
	payload := make([]byte, size)
	_, _ = rand.Read(payload)
	return Group{First: first, Count: 3, Time: start.Add(time.Duration(first) * time.Millisecond), Payload: payload}
}

func appendTo(t testing.TB, f *File, sizes ...int) (groups []Group) {
	t.Helper()
	for _, size := range sizes {
		g := group(f.Next(), size)
		if err := f.Append(g); err != nil {
			t.Fatalf("Append(%d bytes at %d): %v", size, g.First, err)
		}
		groups = append(groups, g)
	}
	return groups
}

func equal(t testing.TB, got, want []Group) {
	t.Helper()
	same := slices.EqualFunc(got, want, func(a, b Group) bool {
		return a.First == b.First && a.Count == b.Count && a.Time.Equal(b.Time) && bytes.Equal(a.Payload, b.Payload)
	})
	if !same {
		t.Fatalf("got %s, want %s", describe(got), describe(want))
	}
}

func describe(groups []Group) (s string) {
	for _, g := range groups {
		s += fmt.Sprintf("[%d+%d: %d bytes at %s] ", g.First, g.Count, len(g.Payload), g.Time.Format(time.RFC3339Nano))
	}
	return s
}

func TestWhatIsAppendedIsReplayedInOrder(t *testing.T) {
	c := newFile(t, 40)
	f, groups := open(t, c)
	equal(t, groups, nil)
	want := appendTo(t, f, 0, 1, block-groupHead, block-groupHead+1, 3*block, MaxPayload, 5, MaxPayload, MaxPayload-1)
	for range 3 {
		// Without Close, as a process ends; and again, with empty segments.
		f, groups = open(t, c)
		equal(t, groups, want)
	}
	want = append(want, appendTo(t, f, 7)...)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, groups = open(t, c)
	equal(t, groups, want)
}

func TestAppendRefusesWhatWouldNotBeReplayed(t *testing.T) {
	f, _ := open(t, newFile(t, 0))
	for name, g := range map[string]Group{
		"a gap":        {First: 1, Count: 1},
		"nothing":      {First: 0, Count: 0},
		"too many":     {First: 0, Count: MaxGroup + 1},
		"too large":    {First: 0, Count: 1, Payload: make([]byte, MaxPayload+1)},
		"less than no": {First: 0, Count: -1},
	} {
		if err := f.Append(g); err == nil {
			t.Errorf("%s: Append(%s) succeeded", name, describe([]Group{g}))
		}
	}
	if f.Broken() != nil {
		t.Errorf("Broken: %v", f.Broken())
	}
	appendTo(t, f, 10)
}

func segments(t testing.TB, c Config) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(c.Dir, "*.seq"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestDropKeepsWhatIsNotPublished(t *testing.T) {
	c := newFile(t, 0)
	f, _ := open(t, c)
	// Each in a segment of its own.
	want := appendTo(t, f, MaxPayload, MaxPayload, MaxPayload)
	if got := segments(t, c); len(got) != 3 {
		t.Fatalf("segments %q, want three", got)
	}
	if err := f.Drop(5); err != nil || f.First() != 3 {
		t.Fatalf("Drop(5): %v, first entry %d; want 3", err, f.First())
	}
	if err := f.Drop(9); err != nil || f.First() != 6 || len(segments(t, c)) != 1 {
		t.Fatalf("Drop(9): %v, first entry %d in %q; want 6 in the active segment", err, f.First(), segments(t, c))
	}
	c.Published = 8
	_, groups := open(t, c)
	equal(t, groups, want[2:])
}

// A removal is not synced, so a crash can bring back a segment, whole or not,
// and not those between.
func TestSegmentsThatAreBackDoNotMatter(t *testing.T) {
	c := newFile(t, 0)
	f, _ := open(t, c)
	want := appendTo(t, f, MaxPayload, MaxPayload, MaxPayload)
	names := segments(t, c)
	if err := os.Remove(names[1]); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(names[0], 99); err != nil {
		t.Fatal(err)
	}
	c.Published = 6
	_, groups := open(t, c)
	equal(t, groups, want[2:])
	if got := segments(t, c); slices.Contains(got, names[0]) {
		t.Errorf("%s is still there", names[0])
	}
}

func TestOpenRefusesWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		change    func(t *testing.T, names []string)
		published uint64
		want      string
	}{
		"the first segment": {func(_ *testing.T, names []string) { _ = os.Remove(names[0]) }, 2, "no segment from entry 2"},
		"the middle one":    {func(_ *testing.T, names []string) { _ = os.Remove(names[1]) }, 2, "ends at entry 3"},
		"the end":           {func(_ *testing.T, names []string) { _ = os.Remove(names[2]) }, 7, "ends at entry 6"},
		"all":               {func(_ *testing.T, names []string) { _ = os.RemoveAll(filepath.Dir(names[0])) }, 0, "is gone"},
		"half of one":       {func(_ *testing.T, names []string) { _ = os.Truncate(names[1], smallest/2) }, 2, "ends at entry 3"},
		"its head":          {func(_ *testing.T, names []string) { _ = os.Truncate(names[1], 100) }, 2, "not a sequence file"},
		"order": {func(_ *testing.T, names []string) {
			_ = os.Rename(names[0], names[1])
		}, 4, "not at that of its name"},
		"something else": {func(t *testing.T, names []string) {
			if err := os.WriteFile(filepath.Join(filepath.Dir(names[0]), "x"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, "does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			config := newFile(t, 0)
			f, _ := open(t, config)
			appendTo(t, f, MaxPayload, MaxPayload, MaxPayload)
			c.change(t, segments(t, config))
			config.Published = c.published
			refuse(t, config, c.want)
		})
	}
	c := newFile(t, 0)
	c.Instance[0]++
	refuse(t, c, "of log instance")
}

// flip changes one byte of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Three groups of two blocks each: wherever the last is damaged, it is as if it
// had never been; wherever another is, it was acknowledged, and is missed.
func TestATornTailIsCutAndDamageInTheMiddleIsRefused(t *testing.T) {
	c := newFile(t, 0)
	f, _ := open(t, c)
	want := appendTo(t, f, block, block, block)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	path := segments(t, c)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		begin := int64(block + 2*block*i)
		for _, at := range []int64{0, 5, 12, 18, 30, 33, 70, groupHead - 1, groupHead, block, block + groupHead - 1} {
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, other := range segments(t, c)[1:] {
				if err := os.Remove(other); err != nil {
					t.Fatal(err)
				}
			}
			flip(t, path, begin+at)
			if i < 2 {
				refuse(t, c, fmt.Sprintf("entries from %d are damaged", 3*i))
				continue
			}
			f, groups := open(t, c)
			equal(t, groups, want[:2])
			if f.Next() != 6 {
				t.Fatalf("after a torn group: next entry %d, want 6", f.Next())
			}
			// What follows stands in another segment, and the torn group stays cut.
			more := appendTo(t, f, 10)
			_, groups = open(t, c)
			equal(t, groups, append(slices.Clone(want[:2]), more...))
		}
	}
	flip(t, path, 20)
	refuse(t, c, "the header is damaged")
}

// Nothing of a group is beside the point but the space behind it.
func TestEachByteOfAGroupMatters(t *testing.T) {
	h := header{instance: instance, salt: [16]byte{9}, first: 7}
	raw := h.marshal()
	for _, first := range []uint64{7, 10} {
		raw = appendGroup(raw, h.salt, group(first, 500))
	}
	if c, err := parse(raw); err != nil || len(c.groups) != 2 || c.next != 13 || c.torn {
		t.Fatalf("parse: %+v, %v; want two groups", c, err)
	}
	for at := range groupHead + 500 {
		damaged := bytes.Clone(raw)
		damaged[block+at] ^= 1
		if c, err := parse(damaged); err == nil {
			t.Errorf("byte %d of the first group: %d groups, want an error", at, len(c.groups))
		}
		damaged = bytes.Clone(raw)
		damaged[2*block+at] ^= 1
		if c, err := parse(damaged); err != nil || len(c.groups) != 1 || c.next != 10 || !c.torn {
			t.Errorf("byte %d of the last group: %d groups, %v; want one, and a torn one", at, len(c.groups), err)
		}
	}
}

// A write is torn wherever the power went: what the disk has of it is any subset
// of its blocks.
func TestATornWriteOfManyBlocksIsCut(t *testing.T) {
	c := newFile(t, 0)
	f, _ := open(t, c)
	want := appendTo(t, f, 10)
	before, err := os.ReadFile(segments(t, c)[0])
	if err != nil {
		t.Fatal(err)
	}
	// With a copy of the first group in it, at the beginning of a block, as if
	// somebody who knew the salt had put it into a certificate.
	g := group(f.Next(), 6*block)
	copy(g.Payload[2*block-groupHead:], before[block:2*block])
	if err := f.Append(g); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(segments(t, c)[0])
	if err != nil {
		t.Fatal(err)
	}
	for subset := range 1 << 6 {
		torn := bytes.Clone(before)
		for i := range 7 {
			if subset&(1<<i) != 0 {
				copy(torn[(2+i)*block:(3+i)*block], after[(2+i)*block:])
			}
		}
		got, err := parse(torn)
		if err != nil {
			t.Fatalf("blocks %07b: %v", subset, err)
		}
		equal(t, got.groups, want)
		if got.torn != (subset != 0) {
			t.Errorf("blocks %07b: torn is %t", subset, got.torn)
		}
	}
}

func TestErrorsOfAWriteBreakTheFileForGood(t *testing.T) {
	for _, op := range []disktest.Op{disktest.Write, disktest.Datasync} {
		faulty := &disktest.Faulty{}
		c := newFile(t, 0)
		c.FS = faulty
		f, _ := open(t, c)
		appendTo(t, f, 10)
		faulty.Set(func(o disktest.Op, _ string) error {
			if o == op {
				return fmt.Errorf("%w: %w", disk.ErrUnsynced, syscall.EIO)
			}
			return nil
		}, nil)
		if err := f.Append(group(3, 10)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s fails: Append: %v, want EIO", op, err)
		}
		faulty.Set(nil, nil)
		if err := f.Append(group(3, 10)); !errors.Is(err, syscall.EIO) || f.Broken() == nil {
			t.Errorf("after %s failed: Append: %v, Broken: %v; want the first error for ever", op, err, f.Broken())
		}
	}
}

// FuzzParse works on the space behind the header, which is short here: the fuzzer
// is slow with what is long.
func FuzzParse(f *testing.F) {
	h := header{instance: instance, salt: [16]byte{9}, first: 7}
	raw := appendGroup(nil, h.salt, Group{First: 7, Count: 3, Time: start, Payload: []byte("three entries")})
	f.Add(raw[:groupHead+13])
	f.Add(raw[:groupHead+12])
	f.Add(raw[:groupHead-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := parse(append(h.marshal(), in...))
		if err != nil {
			return
		}
		// What is read is what would be written, and nothing is read that was not.
		next := c.first
		for _, g := range c.groups {
			if g.First != next || g.Count < 1 || g.Count > MaxGroup {
				t.Fatalf("parse gives entries %d+%d after entry %d", g.First, g.Count, next)
			}
			next += uint64(g.Count)
			again := appendGroup(nil, c.salt, g)[:groupHead+len(g.Payload)]
			if g.Time.UnixMilli() < maxTimestamp && !bytes.Contains(in, again) {
				t.Fatalf("parse gives a group that was not written: %s", describe([]Group{g}))
			}
		}
		if next != c.next {
			t.Fatalf("next is %d after entry %d", c.next, next)
		}
	})
}

// FuzzParseHeader holds that a header that is taken is one that was made.
func FuzzParseHeader(f *testing.F) {
	raw := header{instance: instance, salt: [16]byte{9}, first: 7}.marshal()
	f.Add(raw[:headerSize])
	f.Add(raw[:headerSize-1])
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseHeader(append(in[:len(in):len(in)], make([]byte, block)...))
		if err == nil && !bytes.HasPrefix(in, h.marshal()[:headerSize]) {
			t.Fatalf("parseHeader(%x) = %+v", in, h)
		}
	})
}
