package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

const (
	// maxGroup and maxGroupBytes bound what one write and one sync carry.
	maxGroup      = 512
	maxGroupBytes = 1 << 20
	// flushInterval is how long a written record may wait for its sync.
	flushInterval = 100 * time.Millisecond
	// checkInterval is how often free space and the file's name are looked at
	// when nothing is written.
	checkInterval = 5 * time.Second
)

var errNoSpace = errors.New("audit: free space is below the floor that is kept for outcomes")

// entry is a record on its way to the writer. Its state goes from queued to
// taken to answered; a caller who gives up makes it abandoned, from queued
// (never written) or from taken (written; the writer must tidy up).
type entry struct {
	typ     string
	body    []byte
	effect  effect
	durable bool      // answered after the sync, not after the write
	reason  ca.Reason // of a refusal
	state   atomic.Int32
	done    chan error // has room for the one answer
	seq     uint64     // valid after a nil answer
}

const (
	queued int32 = iota
	taken
	answered
	abandoned
)

func newEntry(typ string, body []byte, durable bool) *entry {
	return &entry{typ: typ, body: body, durable: durable, done: make(chan error, 1)}
}

// submit hands e to the writer and waits for the answer, for as long as ctx and,
// unless it is 0, limit allow.
func (j *Journal) submit(ctx context.Context, e *entry, limit time.Duration) error {
	if err := j.usable(); err != nil {
		return err
	}
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case j.queue <- e:
	case <-ctx.Done():
		return ctx.Err()
	case <-late:
		return context.DeadlineExceeded
	case <-j.stopped:
		return errClosed
	}
	select {
	case err := <-e.done:
		return err
	case <-j.stopped:
		select {
		case err := <-e.done:
			return err
		default:
			return errClosed
		}
	case <-ctx.Done():
		return e.abandon(ctx.Err())
	case <-late:
		return e.abandon(context.DeadlineExceeded)
	}
}

// abandon gives e up with an error, unless its answer is on the way.
func (e *entry) abandon(err error) error {
	if e.state.CompareAndSwap(queued, abandoned) || e.state.CompareAndSwap(taken, abandoned) {
		return err
	}
	return <-e.done
}

// writer owns the files and the chain. One goroutine runs it.
type writer struct {
	j       *Journal
	disk    disk
	chain   *chain
	node    string
	segment segment
	size    int64
	limits  struct{ segment, reserve, floor int64 }

	buf []byte
	// dirty says that something written is not synced.
	dirty bool
	// counts are the series of metrics.records that exist.
	counts map[string]prometheus.Counter
	// orphans close intents whose callers gave up too late.
	orphans []*entry
}

// run serves the queue until Close. It owns the lock and gives it back last.
func (w *writer) run(refusalInterval time.Duration, lockFile *os.File) {
	j := w.j
	defer close(j.stopped)
	defer func() { j.closeErr = errors.Join(j.closeErr, lockFile.Close()) }()
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	count := time.NewTicker(refusalInterval)
	defer count.Stop()
	flush := time.NewTimer(flushInterval)
	defer flush.Stop()
	for {
		wasDirty := w.dirty
		select {
		case e := <-j.queue:
			w.commit(w.collect(e), false)
		case <-flush.C:
			w.commit(nil, true)
		case <-check.C:
			w.inspect()
		case <-count.C:
			w.writeCounts(false)
		case <-j.closing:
			j.closeErr = w.finish()
			return
		}
		if len(w.orphans) > 0 {
			orphans := w.orphans
			w.orphans = nil
			w.commit(orphans, false)
		}
		// The timer runs from the first record that waits, so that a steady
		// trickle cannot put the sync off.
		if w.dirty && !wasDirty {
			flush.Reset(flushInterval)
		}
	}
}

// collect takes what else is waiting, up to the bounds of a group.
//
// Whoever can run has his turn first: those whom the last group answered are about
// to queue their next record, and the first of them would otherwise have a sync to
// himself. A caller who is alone waits for nobody; where others keep all cores busy,
// the group waits for their turns, which are milliseconds.
func (w *writer) collect(first *entry) []*entry {
	runtime.Gosched()
	group, size := []*entry{first}, len(first.body)
	for len(group) < maxGroup && size < maxGroupBytes {
		select {
		case e := <-w.j.queue:
			group = append(group, e)
			size += len(e.body)
		default:
			return group
		}
	}
	return group
}

// commit writes a group: one write, and one sync if somebody waits for it or
// force says so. Everybody in the group is answered.
func (w *writer) commit(group []*entry, force bool) {
	j := w.j
	j.busy.Store(max(1, int64(time.Since(j.started))))
	defer j.busy.Store(0)
	group = w.take(group)
	if err := w.failed(); err != nil {
		w.answer(group, err)
		return
	}
	if len(group) > 0 {
		if err := w.rotate(); err != nil {
			w.answer(group, w.poison(err))
			return
		}
	}
	w.lookAtSpace()
	group = w.seal(group)
	sync := force && w.dirty
	for _, e := range group {
		sync = sync || e.durable
	}
	if len(w.buf) > 0 {
		if err := w.write(); err != nil {
			w.answer(group, w.poison(err))
			return
		}
		w.dirty = true
	}
	late := group[:0]
	for _, e := range group {
		if e.durable {
			late = append(late, e)
		} else {
			w.answerOne(e, nil)
		}
	}
	if sync {
		if err := w.sync(); err != nil {
			w.answer(late, w.poison(err))
			return
		}
	}
	w.publish()
	w.answer(late, nil)
}

// take leaves out the entries whose callers gave up in time.
func (w *writer) take(group []*entry) []*entry {
	kept := group[:0]
	for _, e := range group {
		if e.state.CompareAndSwap(queued, taken) {
			kept = append(kept, e)
		}
	}
	return kept
}

// seal puts the group into the buffer and returns who is in it. The others are
// answered.
func (w *writer) seal(group []*entry) []*entry {
	w.buf = w.buf[:0]
	kept := group[:0]
	now := w.j.clock()
	space := w.j.space.Load()
	for _, e := range group {
		switch {
		case e.effect.opens && space == spaceNone:
			w.answerOne(e, errNoSpace)
			continue
		case e.typ == typeRefused && space != spaceAmple:
			w.j.drop(e.reason)
			w.answerOne(e, nil)
			continue
		}
		seq := w.chain.next
		buf, err := w.chain.seal(w.buf, header{time: now, node: w.node, typ: e.typ}, e.body, e.effect)
		if err != nil {
			w.answerOne(e, err)
			continue
		}
		w.buf, e.seq = buf, seq
		kept = append(kept, e)
		w.count(e.typ)
	}
	return kept
}

// count counts a record. Its series is looked up once.
func (w *writer) count(typ string) {
	c, ok := w.counts[typ]
	if !ok {
		c = w.j.metrics.records.WithLabelValues(typ)
		w.counts[typ] = c
	}
	c.Inc()
}

func (w *writer) write() error {
	n, err := w.segment.Write(w.buf)
	w.size += int64(n)
	if err == nil && n < len(w.buf) {
		err = fmt.Errorf("only %d of %d bytes", n, len(w.buf))
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

func (w *writer) sync() error {
	start := time.Now()
	if err := w.segment.sync(); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	w.j.metrics.sync.Observe(time.Since(start).Seconds())
	w.dirty = false
	return nil
}

// rotate begins a new segment when the present one is full. The old one is
// durable before the new one exists, so that only the last can be torn.
func (w *writer) rotate() error {
	if w.segment != nil && w.size < w.limits.segment {
		return nil
	}
	if w.segment != nil {
		if err := w.sync(); err != nil {
			return err
		}
		if err := w.segment.Close(); err != nil {
			return fmt.Errorf("closing segment: %w", err)
		}
	}
	s, err := w.disk.create(w.chain.next)
	if err != nil {
		return err
	}
	w.segment, w.size = s, 0
	return nil
}

func (w *writer) answer(group []*entry, err error) {
	for _, e := range group {
		w.answerOne(e, err)
	}
}

// answerOne tells the caller of e. One who gave up while the intent was being
// written signed nothing: the journal knows the outcome.
func (w *writer) answerOne(e *entry, err error) {
	if e.state.CompareAndSwap(taken, answered) {
		e.done <- err
		return
	}
	if err != nil || !e.effect.opens {
		return
	}
	w.orphans = append(w.orphans, outcomeEntry(&ca.Outcome{Intent: e.seq, Serial: e.effect.serial}, resultNotIssued,
		"the request ended before its intent was durable; nothing was signed"))
}

// poison ends recording for good. After a failed fsync the kernel may mark the
// pages clean and forget them, so that the next fsync succeeds over a hole; after
// a failed write the file ends nobody knows where. A restart reads the disk.
func (w *writer) poison(err error) error {
	err = fmt.Errorf("audit: the journal failed and records nothing until a restart: %w", err)
	w.j.failure.Store(&err)
	w.j.metrics.failed.Set(1)
	w.j.logger.Error("audit journal failed, nothing will be issued until a restart", "err", err)
	return err
}

func (w *writer) failed() error {
	if err := w.j.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// lookAtSpace tells intents and refusals how much room there is. Space that
// cannot be measured counts as none.
func (w *writer) lookAtSpace() {
	free, err := w.disk.free()
	now := spaceAmple
	switch {
	case err != nil || free < w.limits.floor:
		now = spaceNone
	case free < w.limits.reserve:
		now = spaceLow
	}
	w.j.metrics.free.Set(float64(free))
	if before := w.j.space.Swap(now); before != now {
		w.j.logger.Warn("free space for the audit journal changed",
			"free_bytes", free, "refusals_recorded", now == spaceAmple, "issuing", now != spaceNone, "err", err)
	}
}

// inspect looks at the disk while nothing happens.
func (w *writer) inspect() {
	if w.failed() != nil {
		return
	}
	w.lookAtSpace()
	if err := w.segment.intact(); err != nil {
		_ = w.poison(err)
	}
}

// publish tells readers how far the journal is.
func (w *writer) publish() {
	w.j.latest.Store(new(w.chain.latest))
	w.j.metrics.open.Set(float64(len(w.chain.open)))
	if !w.dirty {
		w.j.head.Store(&position{seq: w.chain.next - 1, hash: w.chain.prev})
	}
}

// writeCounts writes the refusals that were only counted. Below the floor they
// wait, unless this is the end.
func (w *writer) writeCounts(last bool) {
	if !last && w.j.space.Load() == spaceNone {
		return
	}
	body, ok := w.j.tally.take(w.j.clock())
	if ok {
		w.commit([]*entry{newEntry(typeRefusals, body, false)}, false)
	}
}

// finish writes everything that is left and closes the journal.
func (w *writer) finish() error {
	for {
		select {
		case e := <-w.j.queue:
			w.commit(w.collect(e), false)
			continue
		default:
		}
		if len(w.orphans) == 0 {
			break
		}
		orphans := w.orphans
		w.orphans = nil
		w.commit(orphans, false)
	}
	w.writeCounts(true)
	if n := len(w.chain.open); n > 0 {
		w.j.logger.Warn("audit journal closes with open intents", "open", n)
	}
	body, err := encode(struct {
		Open int `json:"open_intents"`
	}{len(w.chain.open)})
	if err != nil {
		return err
	}
	w.commit([]*entry{newEntry(typeClosed, body, true)}, true)
	if err := w.failed(); err != nil {
		return errors.Join(err, w.segment.Close())
	}
	w.j.logger.Info("audit journal closed", "records", w.chain.next, "head", hex.EncodeToString(w.chain.prev[:]))
	if err := w.segment.Close(); err != nil {
		return fmt.Errorf("audit: closing segment: %w", err)
	}
	return nil
}
