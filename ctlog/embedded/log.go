package embedded

import (
	"context"
	"crypto/ecdsa"
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
	"github.com/transparency-dev/tessera/client"
)

// shutdownTimeout bounds the wait for the last checkpoint in Close.
const shutdownTimeout = 5 * time.Second

var discard = slog.New(slog.DiscardHandler)

// Config says which log to open and how to run it.
type Config struct {
	// Dir is a directory made by Init. Required.
	Dir string
	// Name is the log's short name in SCTs, logs and metrics. Default "embedded".
	Name string
	// CheckpointRecord is a file outside Dir, best on another disk and outside
	// its backups, in which each checkpoint is written before it is published.
	// With it, Open refuses an old copy of Dir. It is made if it does not exist.
	// Empty means none, and an old copy is detected only if it contradicts itself.
	CheckpointRecord string
	// Queue is how many submissions may wait for a batch; more are refused at
	// once. Default 4096.
	Queue int
	// MinFreeBytes is the free space below which nothing is accepted. A
	// certificate takes about 2.5 kB, but each batch rewrites up to 600 kB that
	// are collected later. Default 256 MiB.
	MinFreeBytes uint64
	// PublishInterval is how long after a checkpoint the next may follow when
	// there is something new; an entry waits at most twice as long for one. At
	// least 100 ms. Default 500 ms.
	PublishInterval time.Duration
	// StallAfter is how long the disk may take over one batch before the log
	// calls itself not ready, and the longest that Submit waits without a
	// deadline of its caller. Default 5 s.
	StallAfter time.Duration
	// MaxPublicationDelay is how long entries may go without a published
	// checkpoint before the log calls itself not ready. Default 30 s.
	MaxPublicationDelay time.Duration
	// Clock stamps SCTs and checkpoints. Default time.Now.
	Clock func() time.Time
	// Logger receives this log's messages, and those of Tessera. Tessera's cannot
	// be told apart if a process opens several logs. Nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics, labelled with Name; nil means none.
	Registerer prometheus.Registerer
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
		c.Logger = discard
	}
	return nil
}

// Log is an open log. It implements ctlog.Log.
type Log struct {
	config   Config
	instance instance
	key      *ecdsa.PrivateKey
	public   *ctlog.Key
	verifier *verifier
	clock    *monotone
	tree     string
	files    *os.Root // of tree, for the read path
	lock     *os.File

	engine    *engine
	publisher *publisher
	issuers   *issuers
	next      uint64 // index of the next entry; the committer's alone
	halt      context.CancelFunc

	queue     chan *pending
	quit      chan struct{} // closed by Close: no new batch
	committed chan struct{} // closed when the committer has returned
	watched   chan struct{} // closed when the watcher has returned

	// busySince is when the batch now in the hands of Tessera went there, in
	// nanoseconds of the wall clock, or 0.
	busySince atomic.Int64
	// integrated is the size of the tree with all acknowledged entries.
	integrated atomic.Uint64

	mu           sync.Mutex // guards the fields below
	closing      bool
	fatal        error // why the log stopped
	unwell       error // why it refuses for now: space, publication
	laggingSince time.Time

	released    chan struct{} // closed when nobody need wait for the committer
	releaseOnce sync.Once
	stopped     chan struct{} // closed when fatal is set
	finishOnce  sync.Once
	finished    chan struct{} // closed when the directory was given free, or cannot be
	closeErr    error         // may be read when finished is closed

	metrics *metrics
}

var _ ctlog.Log = (*Log)(nil)

// Open opens the log in c.Dir and proves it against what it has signed before. It
// never makes a log, and refuses one that is open elsewhere, that belongs to
// another key or origin, that is an old copy, or that is damaged where it would
// be written. The caller owns the Log and must Close it.
func Open(ctx context.Context, c Config) (*Log, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("ctlog/embedded: opening log: %w", err)
	}
	l, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("ctlog/embedded: opening log %s: %w", c.Dir, err)
	}
	return l, nil
}

func open(ctx context.Context, c Config) (_ *Log, err error) {
	l := &Log{
		config:    c,
		clock:     &monotone{source: c.Clock},
		tree:      filepath.Join(c.Dir, treeDir),
		queue:     make(chan *pending, c.Queue),
		quit:      make(chan struct{}),
		committed: make(chan struct{}),
		watched:   make(chan struct{}),
		released:  make(chan struct{}),
		stopped:   make(chan struct{}),
		finished:  make(chan struct{}),
	}
	// Looked at before the lock file is made: a wrong path must stay untouched.
	if _, err := os.Stat(filepath.Join(c.Dir, instanceFile)); err != nil {
		return nil, fmt.Errorf("there is no initialised log: %w", err)
	}
	if l.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.lock.Close())
		}
	}()
	if err := l.identify(); err != nil {
		return nil, err
	}
	p, err := l.reconcile(ctx)
	if err != nil {
		return nil, err
	}
	l.publisher = p
	if l.files, err = os.OpenRoot(l.tree); err != nil {
		return nil, err
	}
	if l.issuers, err = openIssuers(l.tree); err != nil {
		return nil, errors.Join(err, l.files.Close())
	}
	if l.metrics, err = newMetrics(c.Registerer, c.Name, l); err != nil {
		return nil, errors.Join(err, l.files.Close())
	}
	redirectKlog(c.Logger)
	// The log outlives the call that opened it: Close ends what starts here.
	running, halt := context.WithCancel(context.WithoutCancel(ctx))
	if l.engine, err = startEngine(running, l.tree, p, c.PublishInterval); err != nil {
		halt()
		l.metrics.unregister()
		return nil, errors.Join(err, l.files.Close())
	}
	l.halt = halt
	l.observe(time.Now())
	go l.commitLoop(running)
	go l.watchLoop()
	return l, nil
}

// identify loads who this log is.
func (l *Log) identify() error {
	var err error
	if l.instance, l.key, err = loadInstance(l.config.Dir); err != nil {
		return err
	}
	raw, err := readSmall(filepath.Join(l.config.Dir, publicKeyFile))
	if err != nil {
		return err
	}
	if l.public, err = ctlog.ParseKey(raw); err != nil {
		return err
	}
	l.verifier = newVerifier(l.instance.Origin, l.public.ID(), &l.key.PublicKey)
	return nil
}

// reconcile proves the tree on the disk against every checkpoint known to have
// been signed, removes what an interrupted batch left behind, and returns a
// publisher that goes on from there.
func (l *Log) reconcile(ctx context.Context) (*publisher, error) {
	state, err := readTreeState(l.tree)
	if err != nil {
		return nil, err
	}
	raw, err := readSmall(filepath.Join(l.tree, "checkpoint"))
	if err != nil {
		return nil, fmt.Errorf("reading published checkpoint: %w", err)
	}
	last, err := l.verifier.open(raw)
	if err != nil {
		return nil, err
	}
	tiles := client.FileFetcher{Root: l.tree}.ReadTile
	if err := proveConsistency(ctx, tiles, last, state); err != nil {
		return nil, fmt.Errorf("the published checkpoint contradicts the tree "+
			"(an old or mixed copy, or damage): %w", err)
	}
	var rec *record
	if l.config.CheckpointRecord != "" {
		if rec, last, err = l.consultRecord(ctx, tiles, last, state); err != nil {
			return nil, err
		}
	}
	newest, err := verifyTree(ctx, l.tree, state)
	if err != nil {
		return nil, err
	}
	found, err := findLeftovers(l.tree, state.size)
	if err != nil {
		return nil, err
	}
	l.clock.raise(last.time)
	l.clock.raise(newest)
	if err := l.clock.check(); err != nil {
		return nil, err
	}
	if n := len(found.temporary) + len(found.unacknowledged); n > 0 {
		l.config.Logger.Info("removing what an interrupted batch left behind", "files", n)
	}
	if err := found.remove(); err != nil {
		return nil, err
	}
	l.next = state.size
	l.integrated.Store(state.size)
	p := &publisher{
		origin:        l.instance.Origin,
		hash:          noteKeyHash(l.instance.Origin, l.public.ID()),
		key:           l.key,
		clock:         l.clock,
		tiles:         tiles,
		record:        rec,
		contradiction: l.stop,
		last:          last,
	}
	p.signed.Store(last.size)
	return p, nil
}

// consultRecord proves the tree against the record outside the directory, and
// returns the later of the recorded and the published checkpoint.
func (l *Log) consultRecord(ctx context.Context, tiles client.TileFetcherFunc, published, state checkpoint) (*record, checkpoint, error) {
	rec, err := newRecord(l.config.CheckpointRecord, l.config.Dir, l.instance.Instance)
	if err != nil {
		return nil, checkpoint{}, err
	}
	recorded, ok, err := rec.read(l.verifier)
	if err != nil {
		return nil, checkpoint{}, err
	}
	if !ok {
		if published.size > 0 {
			l.config.Logger.Warn("no checkpoint record found; starting one from the published checkpoint",
				"path", rec.path, "entries", published.size)
		}
		if err := rec.write(published); err != nil {
			return nil, checkpoint{}, fmt.Errorf("starting checkpoint record: %w", err)
		}
		return rec, published, nil
	}
	if err := proveConsistency(ctx, tiles, recorded, state); err != nil {
		return nil, checkpoint{}, fmt.Errorf("this directory is an old or foreign copy: "+
			"checkpoint record %s contradicts it: %w", rec.path, err)
	}
	if recorded.size > published.size || recorded.time.After(published.time) {
		return rec, recorded, nil
	}
	return rec, published, nil
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
