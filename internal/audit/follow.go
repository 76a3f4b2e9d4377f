package audit

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Intended is what an intent says about the certificate.
type Intended struct {
	Serial [20]byte
	// IssuerKeyHash and TBSHash are those of [ca.Intent]: together they name a log
	// entry, whichever log it is in.
	IssuerKeyHash, TBSHash [32]byte
}

// Promise is what an outcome says about the log: the SCT that was obtained.
type Promise struct {
	Intended
	Log       string
	LogID     [32]byte
	Timestamp time.Time
	Index     int64 // -1 when the log did not say
}

// Followed is a record as a [Follower] shows it. At most one of Intent and Promise
// is there; other records show nothing but that they exist.
type Followed struct {
	Sequence uint64
	Time     time.Time
	Intent   *Intended
	Promise  *Promise
}

// Position is a place between two segments of a journal, from which a Follower
// can go on. The zero Position is the beginning.
type Position struct {
	// Journal is the hash of record 0, which names the journal.
	Journal [32]byte `json:"journal"`
	// Next is the sequence of the record to come and Prev the hash of the one before.
	Next uint64    `json:"next"`
	Prev [32]byte  `json:"prev"`
	Time time.Time `json:"time"`
	// Open are the intents without outcome by their sequence.
	Open map[uint64]Intended `json:"open,omitempty"`
}

// Follower reads a journal, or a copy of one that is still being copied, and comes
// back for more. It checks every record against the chain as [Verify] does, takes
// no lock and writes nothing. One goroutine uses it.
type Follower struct {
	dir     directory
	chain   *chain
	open    map[uint64]Intended
	segment uint64
	offset  int64
}

// Follow begins at a position that an earlier Follower returned. It reads nothing
// yet, and the directory need not exist.
func Follow(dir string, from Position) *Follower {
	f := &Follower{dir: directory{dir}, chain: newChain(), open: map[uint64]Intended{}, segment: from.Next}
	if from.Next > 0 {
		c := f.chain
		c.next, c.prev, c.first, c.lastTime, c.latest = from.Next, from.Prev, from.Journal, from.Time, from.Time
		for seq, in := range from.Open {
			c.open[seq], f.open[seq] = in.Serial, in
		}
	}
	return f
}

// Position is where the next Read begins. It is of use to [Follow] only between
// two segments, as after a Read that returned true.
func (f *Follower) Position() Position {
	p := Position{Journal: f.chain.first, Next: f.chain.next, Prev: f.chain.prev, Time: f.chain.lastTime, Open: map[uint64]Intended{}}
	for seq, in := range f.open {
		p.Open[seq] = in
	}
	return p
}

// Read hands the records that are new to yield, up to the end of a segment or to
// the last whole record. It returns true when another segment follows. After an
// error of yield it goes on behind the record; after a [*BadRecord] it stays.
//
// The error is fs.ErrNotExist while there is no journal.
func (f *Follower) Read(ctx context.Context, yield func(Followed) error) (bool, error) {
	file, err := os.OpenFile(f.dir.file(f.segment), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, fmt.Errorf("audit: following the journal: %w", err)
	}
	defer file.Close() //nolint:errcheck // nothing was written
	st, err := file.Stat()
	switch {
	case err != nil:
		return false, fmt.Errorf("audit: following the journal: %w", err)
	case !st.Mode().IsRegular():
		return false, fmt.Errorf("audit: %s is not a regular file", file.Name())
	case st.Size() < f.offset:
		return false, f.bad(fmt.Errorf("the file has %d bytes, but %d were read of it before: it was cut, or is an older copy", st.Size(), f.offset))
	}
	if _, err := file.Seek(f.offset, io.SeekStart); err != nil {
		return false, fmt.Errorf("audit: following the journal: %w", err)
	}
	torn, err := f.lines(ctx, file, yield)
	if err != nil {
		return false, err
	}
	if f.chain.next == f.segment {
		return false, nil
	}
	if _, err := os.Lstat(f.dir.file(f.chain.next)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("audit: following the journal: %w", err)
	}
	if torn {
		return false, nil // the copy of this segment is older than the name of the next
	}
	f.segment, f.offset = f.chain.next, 0
	return true, nil
}

func (f *Follower) bad(err error) error {
	return &BadRecord{Segment: segmentName(f.segment), Sequence: f.chain.next, Err: err}
}

// lines reads whole lines. It reports whether an unfinished one follows.
func (f *Follower) lines(ctx context.Context, r io.Reader, yield func(Followed) error) (torn bool, err error) {
	in := bufio.NewReaderSize(r, maxRecord+1)
	for {
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("audit: following the journal: %w", err)
		}
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return len(text) > 0, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return false, f.bad(fmt.Errorf("record is longer than %d bytes", maxRecord))
		case err != nil:
			return false, fmt.Errorf("audit: reading %s: %w", segmentName(f.segment), err)
		}
		h, body, err := f.chain.read(text[:len(text)-1])
		if err != nil {
			return false, f.bad(err)
		}
		f.offset += int64(len(text))
		record, err := f.show(h, body)
		if err != nil {
			return false, f.bad(err)
		}
		if err := yield(record); err != nil {
			return false, err
		}
	}
}

// show reads of a record what a Follower shows.
func (f *Follower) show(h header, body []byte) (Followed, error) {
	r := Followed{Sequence: h.seq, Time: h.time}
	switch h.typ {
	case typeIntent:
		var b struct {
			Certificate struct {
				Serial        string `json:"serial"`
				IssuerKeyHash string `json:"issuer_key_sha256"`
				TBSHash       string `json:"tbs_sha256"`
			} `json:"certificate"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			return r, fmt.Errorf("reading the intent: %w", err)
		}
		serial, err := parseSerial(b.Certificate.Serial)
		in := Intended{Serial: serial}
		if err := errors.Join(err, parseHash(&in.IssuerKeyHash, b.Certificate.IssuerKeyHash), parseHash(&in.TBSHash, b.Certificate.TBSHash)); err != nil {
			return r, fmt.Errorf("reading the intent: %w", err)
		}
		f.open[h.seq] = in
		r.Intent = &in
	case typeOutcome:
		var b struct {
			Intent uint64 `json:"intent"`
			SCT    *struct {
				Log       string `json:"log"`
				LogID     string `json:"log_id"`
				Timestamp string `json:"timestamp"`
				Index     int64  `json:"index"`
			} `json:"sct"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			return r, fmt.Errorf("reading the outcome: %w", err)
		}
		in := f.open[b.Intent]
		delete(f.open, b.Intent)
		if b.SCT == nil {
			return r, nil
		}
		p := Promise{Intended: in, Log: b.SCT.Log, Index: b.SCT.Index}
		var err error
		if p.Timestamp, err = time.Parse(timeLayout, b.SCT.Timestamp); err == nil {
			err = parseHash(&p.LogID, b.SCT.LogID)
		}
		if err != nil {
			return r, fmt.Errorf("reading the outcome: %w", err)
		}
		r.Promise = &p
	}
	return r, nil
}

func parseHash(to *[32]byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(to) {
		return fmt.Errorf("%q is not 32 bytes of hex", s)
	}
	*to = [32]byte(b)
	return nil
}

// Identity is the hash of record 0 of the journal in dir, which names it wherever
// it is copied to.
func Identity(dir string) ([32]byte, error) {
	f := Follow(dir, Position{})
	done := errors.New("read")
	_, err := f.Read(context.Background(), func(Followed) error { return done })
	if !errors.Is(err, done) {
		return [32]byte{}, cmp.Or(err, fs.ErrNotExist)
	}
	return f.chain.first, nil
}
