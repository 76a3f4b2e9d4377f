package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// markName is a file beside the segments that says until when the journal was
// written. It is no part of the journal: losing it costs the reader of a copy
// time, and nothing else.
const markName = "journal.mark"

// maxMark bounds what is read of it.
const maxMark = 4 << 10

// mark says that every record that was durable at Time is among the records up to
// Sequence. A quiet journal has no new records, and a copy of it could otherwise
// not be told from one that is not copied any more.
type mark struct {
	Time     string `json:"time"`
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
}

// Mark notes until when the journal is written, for who follows a copy of it. It
// is not synced.
func (j *Journal) Mark() error {
	// The clock first: what becomes durable in between is then not denied.
	at := j.clock()
	seq, hash := j.Head()
	data, err := encode(mark{Time: stamp(at), Sequence: seq, Hash: hex.EncodeToString(hash[:])})
	if err != nil {
		return err
	}
	path := filepath.Join(j.dir, markName)
	temp := path + ".tmp"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("audit: marking the journal: %w", err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("audit: marking the journal: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("audit: marking the journal: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("audit: marking the journal: %w", err)
	}
	return nil
}

// Until is the time up to which the records that were read are known to be all
// there are: that of the last record, or that of the mark if all records that it
// speaks of were read. In which order a copy is made therefore does not matter.
func (f *Follower) Until() time.Time {
	last := f.chain.lastTime
	file, err := os.OpenFile(filepath.Join(f.dir.path, markName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return last
	}
	defer file.Close() //nolint:errcheck // nothing was written
	data, err := io.ReadAll(io.LimitReader(file, maxMark))
	var m mark
	if err != nil || json.Unmarshal(data, &m) != nil {
		return last // it is being copied
	}
	at, err := time.Parse(timeLayout, m.Time)
	if err != nil || m.Sequence >= f.chain.next || m.Sequence+1 == f.chain.next && m.Hash != hex.EncodeToString(f.chain.prev[:]) {
		return last
	}
	if at.After(last) {
		return at
	}
	return last
}
