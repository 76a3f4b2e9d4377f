package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// BadRecord says where a journal stops making sense.
type BadRecord struct {
	// Segment is the name of the file, Line counts from 1 in it.
	Segment string
	Line    int
	// Sequence is the number of the record that belongs there.
	Sequence uint64
	Err      error
}

// Error names the place and the reason.
func (b *BadRecord) Error() string {
	return fmt.Sprintf("audit: %s, line %d (record %d): %v", b.Segment, b.Line, b.Sequence, b.Err)
}

// Unwrap returns the reason.
func (b *BadRecord) Unwrap() error { return b.Err }

// Head names a record: its sequence and SHA-256 of its line.
type Head struct {
	Sequence uint64
	Hash     [32]byte
}

// Report is what a journal says when all of it is whole.
type Report struct {
	Segments int
	Records  uint64
	// Head is the last record.
	Head Head
	// From and To are the times of the first and the last record.
	From, To time.Time
	// ClockSteps counts records that are older than the one before them.
	ClockSteps uint64
	// Intents is the sum of Issued, NotIssued, Unknown (open at a crash: treat
	// as issued) and those in Open, which have no outcome yet.
	Intents, Issued, NotIssued, Unknown uint64
	Open                                []uint64
	// TornBytes is the length of an unfinished last line: a record that is being
	// written now, or one that a crash cut short and the next start cuts off.
	TornBytes int64
}

// Verify reads the journal in dir and checks every record: its checksum, the
// chain across all segments, and that each outcome closes one open intent. The
// first bad record is named in a [*BadRecord]. It takes no lock and writes
// nothing, so it may run beside the service.
//
// Known are heads that were kept elsewhere. A journal that does not contain them
// was cut or made anew, which nothing inside it could show.
func Verify(dir string, known ...Head) (Report, error) {
	seqs, err := segmentsIn(dir)
	if err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	if len(seqs) == 0 {
		return Report{}, fmt.Errorf("audit: no journal in %s", dir)
	}
	s := newScan()
	for _, h := range known {
		s.known[h.Sequence] = append(s.known[h.Sequence], h.Hash)
	}
	if err := s.directory(context.Background(), directory{dir}, seqs); err != nil {
		return s.report(), err
	}
	if len(s.known) > 0 {
		missing := slices.Min(slices.Collect(maps.Keys(s.known)))
		return s.report(), &BadRecord{Segment: s.name, Line: s.lines + 1, Sequence: s.chain.next,
			Err: fmt.Errorf("the journal ends here, but record %d is known to have existed", missing)}
	}
	return s.report(), nil
}

// scan reads segments into a chain.
type scan struct {
	chain    *chain
	known    map[uint64][][32]byte // heads not met yet
	segments int
	// name and lines are of the last segment; valid is its length up to its last
	// whole line, torn what stands behind it.
	name        string
	lines       int
	valid, torn int64
}

func newScan() *scan { return &scan{chain: newChain(), known: make(map[uint64][][32]byte)} }

func (s *scan) report() Report {
	c := s.chain
	r := Report{
		Segments: s.segments, Records: c.next, From: c.began, To: c.lastTime, ClockSteps: c.clockSteps,
		Intents: c.intents, Issued: c.issued, NotIssued: c.notIssued, Unknown: c.unsure,
		Open: slices.Sorted(maps.Keys(c.open)), TornBytes: s.torn,
	}
	if c.next > 0 {
		r.Head = Head{Sequence: c.next - 1, Hash: c.prev}
	}
	return r
}

// directory reads the segments that begin with seqs.
func (s *scan) directory(ctx context.Context, d directory, seqs []uint64) error {
	for _, seq := range seqs {
		if err := s.file(ctx, d.file(seq), seq); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) file(ctx context.Context, path string, seq uint64) error {
	name := segmentName(seq)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("audit: opening segment: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("audit: %s is not a regular file", name), err)
	}
	// Only the last segment may be torn: a segment is synced before the next
	// one is made.
	if s.torn > 0 {
		return &BadRecord{Segment: s.name, Line: s.lines + 1, Sequence: s.chain.next,
			Err: fmt.Errorf("the record is unfinished, although %s follows", name)}
	}
	if seq != s.chain.next {
		return &BadRecord{Segment: name, Line: 1, Sequence: s.chain.next,
			Err: fmt.Errorf("the segment begins with record %d: what belongs before it is missing", seq)}
	}
	s.segments++
	return s.read(ctx, name, f)
}

// read reads one segment. A last line without newline is torn; everything else
// has to be a record.
func (s *scan) read(ctx context.Context, name string, r io.Reader) error {
	in := bufio.NewReaderSize(r, maxRecord+1)
	s.name, s.lines, s.valid, s.torn = name, 0, 0, 0
	for line := 1; ; line++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: reading %s: %w", name, err)
		}
		text, err := in.ReadSlice('\n')
		bad := func(err error) error {
			return &BadRecord{Segment: name, Line: line, Sequence: s.chain.next, Err: err}
		}
		switch {
		case errors.Is(err, io.EOF):
			s.torn = int64(len(text))
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return bad(fmt.Errorf("record is longer than %d bytes", maxRecord))
		case err != nil:
			return fmt.Errorf("audit: reading %s: %w", name, err)
		}
		if err := s.chain.accept(text[:len(text)-1]); err != nil {
			return bad(err)
		}
		s.lines, s.valid = line, s.valid+int64(len(text))
		if err := s.meet(); err != nil {
			return &BadRecord{Segment: name, Line: line, Sequence: s.chain.next - 1, Err: err}
		}
	}
}

// meet compares the record just read with the heads that are known.
func (s *scan) meet() error {
	seq := s.chain.next - 1
	for _, hash := range s.known[seq] {
		if hash != s.chain.prev {
			return fmt.Errorf("its hash is %x, but it is known to have been %x: the journal was made anew", s.chain.prev, hash)
		}
	}
	delete(s.known, seq)
	return nil
}
