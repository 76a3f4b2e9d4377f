package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// Config says which log to open and how to run it.
type Config struct {
	// Dir is a directory made by Init. Required.
	Dir string
	// Name is the log's short name in SCTs, logs and metrics. Default "embedded".
	Name string
	// Key is the log's key, if it does not lie in Dir. Nil means that it does.
	Key Signer
	// CheckpointRecord is a file outside Dir, best on another disk and outside
	// its backups, in which each checkpoint is written before it is published.
	// With it, Open refuses an old copy of Dir. It is made if it does not exist.
	// Empty means none, and an old copy is detected only if it contradicts itself.
	CheckpointRecord string
	// Queue is how many submissions may wait to be sequenced; more are refused at
	// once. Default 4096.
	Queue int
	// MinFreeBytes is the free space below which nothing is accepted. A
	// certificate takes about 2.5 kB for good, twice that until it is published,
	// and each checkpoint writes up to 600 kB that are removed when 256 entries
	// are full. Default 256 MiB.
	MinFreeBytes uint64
	// PublishInterval is how long after a checkpoint the next may follow when
	// there is something new; an entry waits at most twice as long for one. At
	// least 100 ms. Default 500 ms.
	PublishInterval time.Duration
	// StallAfter is how long the disk may take over one group before the log
	// calls itself not ready, and the longest that Submit waits without a
	// deadline of its caller. Default 5 s.
	StallAfter time.Duration
	// MaxPublicationDelay is how long entries may go without a published
	// checkpoint before the log calls itself not ready. Default 30 s.
	MaxPublicationDelay time.Duration
	// Clock stamps SCTs and checkpoints. Default time.Now.
	Clock func() time.Time
	// Logger receives this log's messages. Nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics, labelled with Name; nil means none.
	Registerer prometheus.Registerer

	fs           disk.FS // for faults in tests
	segmentBytes int64
}

func (c *Config) setDefaults() error {
	if c.Dir == "" {
		return errors.New("no directory given")
	}
	if c.Queue < 0 || c.PublishInterval < 0 || c.StallAfter < 0 || c.MaxPublicationDelay < 0 {
		return errors.New("negative value in the configuration")
	}
	if c.PublishInterval != 0 && c.PublishInterval < 100*time.Millisecond {
		return fmt.Errorf("publish interval %s, at least 100ms", c.PublishInterval)
	}
	if c.Name == "" {
		c.Name = "embedded"
	}
	if c.Queue == 0 {
		c.Queue = 4096
	}
	if c.MinFreeBytes == 0 {
		c.MinFreeBytes = 256 << 20
	}
	if c.PublishInterval == 0 {
		c.PublishInterval = 500 * time.Millisecond
	}
	if c.StallAfter == 0 {
		c.StallAfter = 5 * time.Second
	}
	if c.MaxPublicationDelay == 0 {
		c.MaxPublicationDelay = 30 * time.Second
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.fs = disk.Or(c.fs)
	return nil
}

// Log is an open log. It implements ctlog.Log.
type Log struct {
	config   Config
	instance instance
	key      Signer
	public   *ctlog.Key
	verifier *verifier
	clock    *monotone
	tree     string
	files    *os.Root // of tree, for the read path
	lock     *dirLock

	publisher *publisher
	issuers   *issuers
	next      uint64 // index of the next entry; the committer's alone
	halt      context.CancelFunc

	queue     chan *pending
	quit      chan struct{} // closed by Close: no new group
	last      chan struct{} // closed by Close: no more entries, publish what there is
	committed chan struct{} // closed when the committer has returned
	published chan struct{} // closed when the publishing goroutine has returned
	watched   chan struct{} // closed when the watcher has returned

	// busySince is when the group now being written was begun, in nanoseconds of
	// the wall clock, or 0.
	busySince atomic.Int64
	// sequenced is the number of entries that have an index for good.
	sequenced atomic.Uint64

	mu           sync.Mutex // guards the fields below
	closing      bool
	fatal        error  // why the log stopped
	unwell       error  // why it refuses for now: space, descriptors, publication
	unpublished  error  // why the last publication failed
	lagging      uint64 // the size that publication has not reached since
	laggingSince time.Time

	released    chan struct{} // closed when nobody need wait for the committer
	releaseOnce sync.Once
	stopped     chan struct{} // closed when fatal is set
	finishOnce  sync.Once
	finished    chan struct{} // closed when the directory was given free
	closeErr    error         // may be read when finished is closed

	metrics *metrics
}

var _ ctlog.Log = (*Log)(nil)

func newLog(c Config) *Log {
	return &Log{
		config:    c,
		clock:     &monotone{source: c.Clock},
		tree:      filepath.Join(c.Dir, treeDir),
		queue:     make(chan *pending, c.Queue),
		quit:      make(chan struct{}),
		last:      make(chan struct{}),
		committed: make(chan struct{}),
		watched:   make(chan struct{}),
		published: make(chan struct{}),
		released:  make(chan struct{}),
		stopped:   make(chan struct{}),
		finished:  make(chan struct{}),
	}
}

// Name is the configured name.
func (l *Log) Name() string { return l.config.Name }

// ID is the log id.
func (l *Log) ID() [32]byte { return l.public.ID() }

// PublicKey is the DER of the log's SubjectPublicKeyInfo.
func (l *Log) PublicKey() []byte { return l.public.DER() }

// Origin is the log's name in its checkpoints.
func (l *Log) Origin() string { return l.instance.Origin }

// Created is when Init made the log. No SCT is older.
func (l *Log) Created() time.Time { return l.instance.Created }

// Stopped is closed when the log has stopped for good, which only another Open
// changes. It stays open over Close.
func (l *Log) Stopped() <-chan struct{} { return l.stopped }

// stop ends submissions until the log is opened again.
func (l *Log) stop(err error) {
	l.mu.Lock()
	first := l.fatal == nil
	if first {
		l.fatal = err
		close(l.stopped)
	}
	l.mu.Unlock()
	if first {
		l.config.Logger.Error("transparency log stopped; it must be opened again", "log", l.config.Name, "err", err)
	}
	l.release()
}

func (l *Log) release() { l.releaseOnce.Do(func() { close(l.released) }) }
