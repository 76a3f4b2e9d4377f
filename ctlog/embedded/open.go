package embedded

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
	"github.com/mayfly-ca/mayfly/internal/fixedkey"
)

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
	l := newLog(c)
	// Looked at before the lock file is made: a wrong path must stay untouched.
	if _, err := os.Stat(filepath.Join(c.Dir, instanceFile)); err != nil {
		return nil, fmt.Errorf("there is no initialised log: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFiles())
		}
	}()
	if l.lock, err = lockDir(c.Dir); err != nil {
		return nil, err
	}
	if err := l.identify(); err != nil {
		return nil, err
	}
	if err := l.reconcile(ctx); err != nil {
		return nil, err
	}
	if l.files, err = os.OpenRoot(l.tree); err != nil {
		return nil, err
	}
	if l.issuers, err = openIssuers(c.fs, l.tree); err != nil {
		return nil, err
	}
	if l.metrics, err = newMetrics(c.Registerer, c.Name, l); err != nil {
		return nil, err
	}
	// The log outlives the call that opened it: Close ends what starts here.
	running, halt := context.WithCancel(context.WithoutCancel(ctx))
	l.halt = halt
	l.observe(time.Now())
	go l.commitLoop()
	go l.publishLoop(running)
	go l.watchLoop()
	return l, nil
}

// identify loads who this log is.
func (l *Log) identify() error {
	var err error
	if l.instance, l.key, err = loadInstance(l.config.Dir, l.config.Key); err != nil {
		return err
	}
	if at := l.instance.Frozen; !at.IsZero() {
		return fmt.Errorf("the log was frozen at %s: it can be read, and never be written again", at.Format(time.RFC3339))
	}
	raw, err := readSmall(filepath.Join(l.config.Dir, publicKeyFile))
	if err != nil {
		return err
	}
	if l.public, err = ctlog.ParseKey(raw); err != nil {
		return err
	}
	public, ok := l.key.Public().(*ecdsa.PublicKey)
	if !ok {
		return errors.New("the log's key is not ECDSA")
	}
	l.verifier = newVerifier(l.instance.Origin, l.public.ID(), public)
	// Each SCT is verified before it leaves, so the key's multiples pay here.
	fixed, err := fixedkey.New(public)
	if err != nil {
		return fmt.Errorf("preparing the log's key: %w", err)
	}
	l.verifier.verify, l.public = fixed.Verify, l.public.VerifiedBy(fixed.Verify)
	return nil
}

// reconcile proves the tree and the sequence on the disk against every checkpoint
// known to have been signed, and makes a publisher that goes on from there.
func (l *Log) reconcile(ctx context.Context) error {
	published, err := l.readPublished()
	if err != nil {
		return fmt.Errorf("reading published checkpoint: %w", err)
	}
	p := newPublisher(l.config.fs, l.tree)
	p.verifier, p.key, p.clock = l.verifier, l.key, l.clock
	l.publisher, p.last = p, published
	recorded := published
	if l.config.CheckpointRecord != "" {
		if recorded, err = l.consultRecord(published); err != nil {
			return err
		}
	}
	if recorded.size > published.size || recorded.time.After(published.time) {
		p.last = recorded
	}
	l.clock.raise(p.last.time)
	if err := l.clearTemp(); err != nil {
		return err
	}
	if l.instance.Version == tesseraVersion {
		if published, err = l.migrate(ctx, published, recorded); err != nil {
			return fmt.Errorf("taking over a log that Tessera wrote: %w", err)
		}
	}
	if recorded.size <= published.size {
		tiles := client.FileFetcher{Root: l.tree}.ReadTile
		if err := proveConsistency(ctx, tiles, recorded, published); err != nil {
			return l.foreign(err)
		}
	}
	return l.replay(published, recorded)
}

func (l *Log) foreign(err error) error {
	return fmt.Errorf("this directory is an old or foreign copy: checkpoint record %s contradicts it: %w",
		l.config.CheckpointRecord, err)
}

// clearTemp removes what an interrupted process was writing.
func (l *Log) clearTemp() error {
	if err := l.config.fs.RemoveAll(filepath.Join(l.tree, tempDir)); err != nil {
		return err
	}
	dirs := disk.Dirs{FS: l.config.fs, Root: l.tree}
	return dirs.Make(tempDir)
}

// replay loads the tree of the published checkpoint and appends what the
// sequence file has beyond it.
func (l *Log) replay(published, recorded checkpoint) error {
	p := l.publisher
	var newest time.Time
	var err error
	if p.edge, newest, err = loadEdge(l.tree, published); err != nil {
		return err
	}
	p.head.Store(&published)
	p.written = published.size
	l.clock.raise(newest)
	r := replayer{log: l, published: published, recorded: recorded}
	p.sequence, err = sequence.Open(sequence.Config{
		FS: l.config.fs, Dir: filepath.Join(l.config.Dir, sequenceDir), Instance: l.instance.id(),
		SegmentBytes: l.config.segmentBytes, Published: published.size,
	}, r.group)
	if err != nil {
		return err
	}
	if p.edge.size < recorded.size {
		return l.foreign(fmt.Errorf("it ends at entry %d, but %d were signed", p.edge.size, recorded.size))
	}
	if err := l.clock.check(); err != nil {
		return err
	}
	p.unpublished.Store(p.taken)
	p.obsolete = p.outgrownSince(p.sequence.First())
	l.next = p.edge.size
	l.sequenced.Store(p.edge.size)
	if n := p.edge.size - published.size; n > 0 {
		l.config.Logger.Info("took entries from the sequence file into the tree", "log", l.config.Name, "entries", n)
	}
	return nil
}

// replayer takes groups of the sequence file into the tree.
type replayer struct {
	log                 *Log
	published, recorded checkpoint
	tile                [][32]byte // of the published tree, the last one asked for
	tileIndex           uint64
}

func (r *replayer) group(g sequence.Group) error {
	p := r.log.publisher
	r.log.clock.raise(g.Time)
	leaves, err := readGroup(g)
	if err != nil {
		return err
	}
	for _, lf := range leaves {
		if lf.index < r.published.size {
			if err := r.compare(lf); err != nil {
				return err
			}
			continue
		}
		if err := p.add(lf); err != nil {
			return err
		}
		if p.edge.size == r.recorded.size && p.edge.root() != r.recorded.root {
			return r.log.foreign(fmt.Errorf("two roots for %d entries: %x and %x: %w",
				p.edge.size, p.edge.root(), r.recorded.root, errContradiction))
		}
	}
	return nil
}

// compare holds an entry of the sequence against the published tree.
func (r *replayer) compare(lf leaf) error {
	if index := lf.index / layout.TileWidth; r.tile == nil || r.tileIndex != index {
		var err error
		partial := layout.PartialTileSize(0, index, r.published.size)
		if r.tile, err = readTile(r.log.tree, 0, index, partial); err != nil {
			return err
		}
		r.tileIndex = index
	}
	if r.tile[lf.index%layout.TileWidth] != lf.hash {
		return fmt.Errorf("entry %d of the sequence file is not that of the published tree: "+
			"they are of different copies of the log, or tile %d is damaged; put it back from a mirror or a backup",
			lf.index, r.tileIndex)
	}
	return nil
}

// consultRecord returns the recorded checkpoint, or the published one if there
// is no record yet.
func (l *Log) consultRecord(published checkpoint) (checkpoint, error) {
	rec, err := openRecord(l.config.fs, l.config.CheckpointRecord, l.config.Dir, l.instance.Instance)
	if err != nil {
		return checkpoint{}, err
	}
	l.publisher.record = rec
	recorded, ok, err := rec.read(l.verifier)
	if err != nil || ok {
		return recorded, err
	}
	if published.size > 0 {
		l.config.Logger.Warn("no checkpoint record found; starting one from the published checkpoint",
			"path", rec.path, "entries", published.size)
	}
	if err := rec.swap(published); err != nil {
		return checkpoint{}, fmt.Errorf("starting checkpoint record: %w", err)
	}
	return published, nil
}

func (l *Log) readPublished() (checkpoint, error) {
	raw, err := readSmall(filepath.Join(l.tree, layout.CheckpointPath))
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}, fmt.Errorf("the tree is gone, but its key is not, and starting over would sign a second tree "+
			"under the same key: put %s back as it was, or retire this log: %w", l.tree, err)
	}
	if err != nil {
		return checkpoint{}, err
	}
	return l.verifier.open(raw)
}
