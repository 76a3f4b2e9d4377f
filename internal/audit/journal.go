package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/ca"
)

// Config says where the journal lies and what it may use.
type Config struct {
	// Dir is the directory of the journal, made when missing. Nothing else
	// belongs into it.
	Dir string
	// Node names this process in every record: 1 to 64 letters, digits, dots,
	// dashes and underscores.
	Node string
	// Clock stamps the records; nil means time.Now.
	Clock func() time.Time
	// Logger hears of recovery and of failure; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
	// SegmentBytes is the size at which a new file is begun; 0 means 16 MiB.
	// Recovery copies one segment and needs that much free space.
	SegmentBytes int64
	// ReserveBytes is the free space kept for intents and their outcomes: below
	// it, refusals are only counted. 0 means 256 MiB.
	ReserveBytes int64
	// FloorBytes is the free space below which intents are refused before
	// anything is written, so that the outcomes of those under way still fit.
	// 0 means 32 MiB, or the reserve if that is less: enough for the copy that
	// recovery makes.
	FloorBytes int64
	// RefusalRate is how many refusals of verified identities are recorded one
	// by one, per second and on average; 0 means 1. RefusalBurst is how many at
	// once; 0 means 100. The rest are counted.
	RefusalRate  float64
	RefusalBurst int
	// RefusalInterval is how often counted refusals are written as one record;
	// 0 means a minute.
	RefusalInterval time.Duration

	// disk stands in for the operating system in tests.
	disk func(disk) disk
}

func (c *Config) complete() error {
	if c.Dir == "" {
		return errors.New("no directory given")
	}
	if err := checkNode(c.Node); err != nil {
		return err
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.disk == nil {
		c.disk = func(d disk) disk { return d }
	}
	defaultTo(&c.SegmentBytes, 16<<20)
	defaultTo(&c.ReserveBytes, 256<<20)
	defaultTo(&c.FloorBytes, min(32<<20, c.ReserveBytes))
	defaultTo(&c.RefusalRate, 1)
	defaultTo(&c.RefusalBurst, 100)
	defaultTo(&c.RefusalInterval, time.Minute)
	switch {
	case c.SegmentBytes < 0, c.ReserveBytes < 0, c.FloorBytes < 0, c.RefusalRate < 0, c.RefusalBurst < 0, c.RefusalInterval < 0:
		return errors.New("a size, rate or interval is negative")
	case c.FloorBytes > c.ReserveBytes:
		return fmt.Errorf("floor of %d bytes is above the reserve of %d", c.FloorBytes, c.ReserveBytes)
	}
	return nil
}

func defaultTo[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// writeTimeout bounds the wait for records whose callers cannot give up: the
// outcome of a request must not hang with the disk. The record may still be
// written after the wait ended.
const writeTimeout = 5 * time.Second

// stallAfter is how long a group may take before Ready says that the disk hangs.
const stallAfter = 2 * time.Second

var errClosed = errors.New("audit: journal is closed")

// Journal is an open journal. It implements [ca.Recorder]; all methods may be
// called concurrently.
type Journal struct {
	dir     string
	clock   func() time.Time
	logger  *slog.Logger
	metrics *metrics
	limiter *rate.Limiter
	tally   tally

	queue   chan *entry
	closing chan struct{} // closed by Close: no more entries
	stopped chan struct{} // closed by the writer, after its last act
	close   sync.Once

	// failure is set once, by the writer, and never taken back.
	failure atomic.Pointer[error]
	// space is what the writer saw last.
	space atomic.Int32
	// busy is when the group under way began, in nanoseconds since started; 0
	// when there is none.
	busy    atomic.Int64
	started time.Time
	head    atomic.Pointer[position]
	latest  atomic.Pointer[time.Time]
	// closeErr is written by the writer before it closes stopped.
	closeErr error
}

// position is how far the journal is durable.
type position struct {
	seq  uint64
	hash [32]byte
}

// The states of free space.
const (
	spaceAmple int32 = iota
	spaceLow         // below the reserve: refusals are counted only
	spaceNone        // below the floor: no intents
)

var _ ca.Recorder = (*Journal)(nil)

// Intent records what is about to be signed and returns once that is durable.
// When ctx ends first, the record may still be written; the journal then closes
// it itself as not issued.
func (j *Journal) Intent(ctx context.Context, i ca.Intent) (uint64, error) {
	if err := j.Ready(); err != nil {
		return 0, err
	}
	e := newEntry(typeIntent, marshalIntent(&i), true)
	e.effect = effect{opens: true, serial: i.Serial}
	if err := j.submit(ctx, e, 0); err != nil {
		return 0, fmt.Errorf("audit: recording intent: %w", err)
	}
	return e.seq, nil
}

// Outcome closes an intent. It returns when the record is written, and waits
// for at most five seconds; the record is durable with the next group, at most
// a tenth of a second later.
func (j *Journal) Outcome(ctx context.Context, o ca.Outcome) error {
	if err := j.submit(ctx, outcomeEntry(&o, resultOf(&o), ""), writeTimeout); err != nil {
		return fmt.Errorf("audit: recording outcome of intent %d: %w", o.Intent, err)
	}
	return nil
}

func outcomeEntry(o *ca.Outcome, result, note string) *entry {
	e := newEntry(typeOutcome, marshalOutcome(o, result, note), false)
	e.effect = effect{closes: true, intent: o.Intent, serial: o.Serial, result: result}
	return e
}

// Refused records the refusal of a verified identity, or counts it when there
// are too many of them or too little space. An overload is counted only: who is
// turned away to save time must not wait for the disk.
func (j *Journal) Refused(ctx context.Context, r ca.Request, d ca.Decision, why *ca.Refusal) error {
	if why == nil {
		return errors.New("audit: refusal without a reason")
	}
	if err := j.usable(); err != nil {
		return err
	}
	if why.Reason == ca.ReasonOverloaded || j.space.Load() != spaceAmple || !j.limiter.AllowN(j.clock(), 1) {
		j.drop(why.Reason)
		return nil
	}
	e := newEntry(typeRefused, marshalRefused(&r, &d, why), false)
	e.reason = why.Reason
	if err := j.submit(ctx, e, writeTimeout); err != nil {
		return fmt.Errorf("audit: recording refusal: %w", err)
	}
	return nil
}

// drop counts a refusal that has no record of its own.
func (j *Journal) drop(reason ca.Reason) {
	j.metrics.dropped.Inc()
	j.tally.add(&j.tally.dropped, reason)
}

// CountRefusal counts a refusal before a token was verified. Counts are written
// as one record per interval and at Close: junk must not fill the disk.
func (j *Journal) CountRefusal(reason ca.Reason) { j.tally.add(&j.tally.unverified, reason) }

// Event records something else that auditors ask for, durably: start, stop, a
// configuration that was loaded, a self-test. Kind is a short name like
// "config.loaded". Attributes are texts, numbers, bools, times, durations, lists
// of texts, errors and groups of those; anything else, and any key that is given
// twice, is an error, so that no type spills what it holds.
func (j *Journal) Event(ctx context.Context, kind string, attrs ...slog.Attr) error {
	if err := checkName("event", kind); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	facts, err := factsOf(attrs)
	if err != nil {
		return fmt.Errorf("audit: event %s: %w", kind, err)
	}
	body, err := encode(struct {
		Kind  string         `json:"kind"`
		Facts map[string]any `json:"facts"`
	}{kind, facts})
	if err != nil {
		return err
	}
	if err := j.submit(ctx, newEntry(typeEvent, body, true), 0); err != nil {
		return fmt.Errorf("audit: recording event %s: %w", kind, err)
	}
	return nil
}

// Ready reports, without I/O, why an intent would be turned away now.
func (j *Journal) Ready() error {
	if err := j.usable(); err != nil {
		return err
	}
	if j.space.Load() == spaceNone {
		return errNoSpace
	}
	if busy := j.busy.Load(); busy != 0 {
		if wait := time.Since(j.started) - time.Duration(busy); wait > stallAfter {
			return fmt.Errorf("audit: the disk has not answered for %v", wait.Round(time.Second))
		}
	}
	return nil
}

func (j *Journal) usable() error {
	if err := j.failure.Load(); err != nil {
		return *err
	}
	select {
	case <-j.closing:
		return errClosed
	default:
		return nil
	}
}

// LastTime is the latest time of any record. A clock that stands before it went
// back. Read LastTime first and the clock after it: records of other requests
// are written all the while, each with the time of its writing.
func (j *Journal) LastTime() time.Time { return *j.latest.Load() }

// Head is the last durable record: its sequence and the hash of its line. Kept
// in another place, it lets [Verify] notice that the journal's end is missing.
func (j *Journal) Head() (seq uint64, hash [32]byte) {
	h := j.head.Load()
	return h.seq, h.hash
}

// Close writes what is queued and counted, closes the files and lets go of the
// lock. Later calls return the same result. When ctx ends first, as it may with
// a disk that hangs, the lock stays with the process.
func (j *Journal) Close(ctx context.Context) error {
	j.close.Do(func() { close(j.closing) })
	select {
	case <-j.stopped:
		return j.closeErr
	case <-ctx.Done():
		return fmt.Errorf("audit: closing the journal: %w", ctx.Err())
	}
}

// start begins the work of the writer; recovery is over.
func (j *Journal) start(c Config, w *writer, lockFile *os.File) {
	w.publish()
	go w.run(c.RefusalInterval, lockFile)
	j.logger.Info("audit journal opened", "next_record", w.chain.next, "head", hex.EncodeToString(w.chain.prev[:]))
}
