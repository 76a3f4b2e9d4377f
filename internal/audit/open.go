package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/ca"
)

// Open takes the journal in c.Dir for this process, reads all of it, and
// recovers from a crash: an unfinished last line is cut off, and intents without
// an outcome are closed as unknown. A journal that is damaged anywhere else is
// refused with a [*BadRecord], and so is an empty directory in which there has
// been a journal.
func Open(ctx context.Context, c Config) (*Journal, error) {
	j, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("audit: opening journal: %w", err)
	}
	return j, nil
}

func open(ctx context.Context, c Config) (*Journal, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if err := prepareDir(c.Dir); err != nil {
		return nil, err
	}
	lockFile, err := lock(c.Dir)
	if err != nil {
		return nil, err
	}
	j, w, err := recoverJournal(ctx, c, lockFile)
	if err != nil {
		if w != nil && w.segment != nil {
			err = errors.Join(err, w.segment.Close())
		}
		return nil, errors.Join(err, lockFile.Close())
	}
	j.start(c, w, lockFile)
	return j, nil
}

// recoverJournal reads the journal and brings it to where the next record can
// be written.
func recoverJournal(ctx context.Context, c Config, lockFile *os.File) (*Journal, *writer, error) {
	dir := directory{c.Dir}
	seqs, err := segmentsIn(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	s := newScan()
	if err := s.directory(ctx, dir, seqs); err != nil {
		return nil, nil, err
	}
	if err := checkIdentity(lockFile, s.chain); err != nil {
		return nil, nil, err
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, nil, err
	}
	j := &Journal{
		dir: c.Dir, clock: c.Clock, logger: c.Logger, metrics: m,
		limiter: rate.NewLimiter(rate.Limit(c.RefusalRate), c.RefusalBurst), tally: tally{clock: c.Clock},
		queue: make(chan *entry, maxGroup), closing: make(chan struct{}), stopped: make(chan struct{}), started: time.Now(),
	}
	w := &writer{j: j, disk: c.disk(dir), chain: s.chain, node: c.Node, counts: make(map[string]prometheus.Counter)}
	w.limits.segment, w.limits.reserve, w.limits.floor = c.SegmentBytes, c.ReserveBytes, c.FloorBytes
	crashed := s.torn > 0 || s.chain.next > 0 && s.chain.lastTyp != typeClosed
	if len(seqs) > 0 {
		if crashed {
			if err := dir.rewrite(seqs[len(seqs)-1], s.valid); err != nil {
				return nil, w, err
			}
		}
		if w.segment, w.size, err = dir.appendTo(seqs[len(seqs)-1]); err != nil {
			return nil, w, err
		}
		if w.size != s.valid {
			return nil, w, fmt.Errorf("%s has %d bytes, want %d: somebody else writes to it", segmentName(seqs[len(seqs)-1]), w.size, s.valid)
		}
	}
	if err := w.begin(crashed, s.torn); err != nil {
		return nil, w, err
	}
	return j, w, writeIdentity(dir, lockFile, s.chain)
}

// begin writes the first records of this process: the genesis, or the outcomes
// that the process before could not write.
func (w *writer) begin(crashed bool, torn int64) error {
	var group []*entry
	if w.chain.next == 0 {
		body, err := encode(struct {
			Format string `json:"format"`
			ID     string `json:"id"`
			Hash   string `json:"hash"`
		}{"mayfly audit journal", rand.Text(), "sha256"})
		if err != nil {
			return err
		}
		group = append(group, newEntry(typeGenesis, body, true))
	}
	if crashed || len(w.chain.open) > 0 {
		body, err := encode(struct {
			Cut  int64 `json:"cut_bytes"`
			Open int   `json:"open_intents"`
		}{torn, len(w.chain.open)})
		if err != nil {
			return err
		}
		group = append(group, newEntry(typeRecovered, body, true))
		w.j.logger.Warn("audit journal recovered", "cut_bytes", torn, "open_intents", len(w.chain.open))
	}
	for intent, serial := range w.chain.open {
		group = append(group, outcomeEntry(&ca.Outcome{Intent: intent, Serial: serial}, resultUnknown,
			"the process ended before the outcome was recorded; treat as issued"))
	}
	slices.SortStableFunc(group, func(a, b *entry) int { return compareIntents(a.effect, b.effect) })
	for chunk := range slices.Chunk(group, maxGroup) {
		w.commit(slices.Clone(chunk), true) // commit reorders what it is given
	}
	// Also when there is nothing to write: free space has to be known.
	w.commit(nil, true)
	for _, e := range group {
		if err := <-e.done; err != nil {
			return err
		}
	}
	return w.failed()
}

// compareIntents keeps what closes no intent first, and the rest in order.
func compareIntents(a, b effect) int {
	switch {
	case a.closes != b.closes && a.closes:
		return 1
	case a.closes != b.closes:
		return -1
	case a.intent < b.intent:
		return -1
	case a.intent > b.intent:
		return 1
	}
	return 0
}

// rewrite replaces a segment by a synced copy of its first n bytes.
//
// Cutting it in place would do for a torn line. But a process that stopped
// because a sync failed leaves records that are read back from memory and are
// not on the disk, and syncing the same pages again reports success. Only bytes
// written anew are known to be durable.
func (d directory) rewrite(seq uint64, n int64) error {
	in, err := os.OpenFile(d.file(seq), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("opening segment: %w", err)
	}
	defer in.Close() //nolint:errcheck // nothing was written
	path := filepath.Join(d.path, temporary)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing what an earlier recovery left: %w", err)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("copying segment: %w", err)
	}
	if _, err := io.CopyN(out, in, n); err != nil {
		return errors.Join(fmt.Errorf("copying %d bytes of %s, for which there must be space: %w", n, segmentName(seq), err), out.Close(), os.Remove(path))
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("syncing the copy of %s: %w", segmentName(seq), err), os.Remove(path))
	}
	if err := os.Rename(path, d.file(seq)); err != nil {
		return fmt.Errorf("replacing segment: %w", err)
	}
	return d.sync()
}

// checkIdentity compares the journal with the one that the lock file knows.
func checkIdentity(lockFile *os.File, c *chain) error {
	text, err := io.ReadAll(io.LimitReader(lockFile, 256))
	if err != nil {
		return fmt.Errorf("reading %s: %w", lockName, err)
	}
	known := strings.TrimSpace(string(text))
	switch {
	case known == "":
		return nil
	case c.next == 0:
		return fmt.Errorf("the journal that begins with record %s is gone: restore it, or remove %s to start a new one", known, lockFile.Name())
	case known != hex.EncodeToString(c.first[:]):
		return fmt.Errorf("this is not the journal that begins with record %s: restore that one, or remove %s to accept this one", known, lockFile.Name())
	}
	return nil
}

// writeIdentity notes the genesis in the lock file once.
func writeIdentity(d directory, lockFile *os.File, c *chain) error {
	st, err := lockFile.Stat()
	if err != nil {
		return fmt.Errorf("reading %s: %w", lockName, err)
	}
	if st.Size() > 0 {
		return nil
	}
	if _, err := lockFile.WriteAt([]byte(hex.EncodeToString(c.first[:])+"\n"), 0); err != nil {
		return fmt.Errorf("writing %s: %w", lockName, err)
	}
	if err := lockFile.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", lockName, err)
	}
	return d.sync()
}
