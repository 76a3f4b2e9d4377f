package embedded

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

const (
	// republishInterval renews the checkpoint of a quiet log, so that a monitor
	// can tell quiet from dead.
	republishInterval = 30 * time.Second
	// consistencyTimeout bounds the proof, which reads some tens of local tiles.
	consistencyTimeout = 10 * time.Second
	// maxUnpublished bounds the memory, and the work of the next start, if
	// entries come in faster than they can be published.
	maxUnpublished = 64 << 20
	tempDir        = ".tmp"
)

// publisher turns the sequence into a tree and signs checkpoints. It is the last
// place before a tree head becomes a promise, so the rules that keep us from
// telling two stories are held here.
type publisher struct {
	fs       disk.FS
	tree     string
	dirs     disk.Dirs
	verifier *verifier
	key      Signer
	clock    *monotone
	record   *record // nil if none is configured
	sequence *sequence.File

	// What follows belongs to one goroutine: the one that opens the log, then
	// the one that publishes.
	edge      *edge
	unwritten []file   // of the edge's past, not yet on the disk
	written   uint64   // the size of the tree whose files are all on the disk
	taken     int64    // bytes of entries in the edge, but in no checkpoint
	obsolete  []string // directories of partial tiles that have become full
	last      checkpoint
	signedAt  time.Time
	broken    error // what was signed, or written, is not known any more

	mu      sync.Mutex // guards pending
	pending []sequence.Group

	// unpublished counts the bytes of entries that no checkpoint covers.
	unpublished atomic.Int64
	// head is the published checkpoint: what the read path may hand out.
	head atomic.Pointer[checkpoint]
}

func newPublisher(f disk.FS, tree string) *publisher {
	p := &publisher{fs: f, tree: tree}
	p.dirs = disk.Dirs{FS: f, Root: tree}
	return p
}

func (p *publisher) path(rel string) string { return filepath.Join(p.tree, rel) }

// hand takes over a durable group. It never blocks on the disk.
func (p *publisher) hand(g sequence.Group) {
	p.unpublished.Add(int64(len(g.Payload)))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = append(p.pending, g)
}

// absorb appends a group to the tree in memory. Reading back what the committer
// encoded, with other code, it holds that index, time and number are those that
// were promised.
func (p *publisher) absorb(g sequence.Group) error {
	leaves, err := readGroup(g)
	if err != nil {
		return err
	}
	for _, l := range leaves {
		if err := p.add(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) add(l leaf) error {
	if l.index != p.edge.size {
		return fmt.Errorf("entry %d follows a tree of %d: %w", l.index, p.edge.size, errContradiction)
	}
	p.unwritten = append(p.unwritten, p.edge.append(l.data, l.hash)...)
	p.taken += int64(len(l.data))
	return nil
}

// readGroup parses a group of the sequence file.
func readGroup(g sequence.Group) ([]leaf, error) {
	leaves, err := parseLeaves(g.Payload, sequence.MaxGroup, g.Count)
	if err != nil {
		return nil, fmt.Errorf("group at entry %d: %w: %w", g.First, errContradiction, err)
	}
	if len(leaves) != g.Count {
		return nil, fmt.Errorf("group at entry %d: %d entries, want %d: %w", g.First, len(leaves), g.Count, errContradiction)
	}
	for i, l := range leaves {
		if l.index != g.First+uint64(i) || !l.time.Equal(g.Time) {
			return nil, fmt.Errorf("entry %d of %s where entry %d of %s should be: %w",
				l.index, l.time, g.First+uint64(i), g.Time, errContradiction)
		}
	}
	return leaves, nil
}

// publish brings what is durable under a checkpoint, if there is anything new or
// the last one is old. After an error it may be called again, unless broken is
// set: then the log must be opened again.
func (p *publisher) publish(ctx context.Context) error {
	if p.broken != nil {
		return p.broken
	}
	err := p.advance(ctx)
	if errors.Is(err, disk.ErrUnsynced) || errors.Is(err, errContradiction) {
		p.broken = err
	}
	return err
}

func (p *publisher) advance(ctx context.Context) error {
	p.mu.Lock()
	pending := p.pending
	p.pending = nil
	p.mu.Unlock()
	for _, g := range pending {
		if err := p.absorb(g); err != nil {
			return err
		}
	}
	if p.edge.size > p.head.Load().size || time.Since(p.signedAt) >= republishInterval {
		if err := p.write(); err != nil {
			return fmt.Errorf("writing the tree: %w", err)
		}
		if err := p.issue(ctx, checkpoint{size: p.edge.size, root: p.edge.root()}); err != nil {
			return err
		}
		p.unpublished.Add(-p.taken)
		p.taken = 0
	}
	if err := p.tidy(); err != nil {
		return err
	}
	return p.sequence.Prepare()
}

// write makes the files of the tree durable that a checkpoint of its present
// size needs.
func (p *publisher) write() error {
	if p.written == p.edge.size {
		return nil
	}
	files := append(p.unwritten[:len(p.unwritten):len(p.unwritten)], p.edge.partials()...)
	for _, f := range files {
		if err := p.dirs.Make(filepath.Dir(f.path)); err != nil {
			return err
		}
	}
	if err := disk.Replace(p.fs, p.path(tempDir), contents(p.path, files)...); err != nil {
		return err
	}
	p.obsolete = append(p.obsolete, p.outgrown(p.written)...)
	p.unwritten, p.written = nil, p.edge.size
	return nil
}

// outgrown names the directories of tiles that were partial in a tree of size
// before and are full now.
//
// static-ct-api: "the log MAY delete the corresponding partial tiles" once a
// full tile is there.
func (p *publisher) outgrown(before uint64) (dirs []string) {
	for level := range edgeLevels {
		nodes := before >> (8 * level)
		index := nodes / layout.TileWidth
		if nodes%layout.TileWidth == 0 || p.edge.size>>(8*(level+1)) <= index {
			continue
		}
		dirs = append(dirs, filepath.Dir(layout.TilePath(uint64(level), index, 1)))
		if level == 0 {
			dirs = append(dirs, filepath.Dir(bundlePath(index, 1)))
		}
	}
	return dirs
}

// issue signs a checkpoint over a tree whose files are on the disk, and
// publishes it.
//
// The record is written first: if the machine dies in between, a record of a
// checkpoint that nobody saw does no harm, but a published checkpoint without a
// record would let an old copy of the directory pass.
func (p *publisher) issue(ctx context.Context, next checkpoint) error {
	ctx, cancel := context.WithTimeout(ctx, consistencyTimeout)
	defer cancel()
	tiles := client.FileFetcher{Root: p.tree}.ReadTile
	if err := proveConsistency(ctx, tiles, p.last, next); err != nil {
		return fmt.Errorf("before signing a checkpoint: %w", err)
	}
	var err error
	if next.time, err = p.clock.now(); err != nil {
		return fmt.Errorf("signing checkpoint: %w", err)
	}
	// RFC 6962, Section 3.5: "Each subsequent timestamp MUST be more recent than
	// the timestamp of the previous update."
	if !next.time.After(p.last.time) {
		next.time = p.last.time.Add(time.Millisecond)
		p.clock.raise(next.time)
	}
	if next.raw, err = p.verifier.sign(ctx, p.key, next); err != nil {
		return fmt.Errorf("signing checkpoint: %w", err)
	}
	if p.record != nil {
		if err := p.record.swap(next); err != nil {
			return fmt.Errorf("recording checkpoint before publication: %w", err)
		}
	}
	p.last, p.signedAt = next, time.Now()
	err = disk.Replace(p.fs, p.path(tempDir), disk.Content{Path: p.path(layout.CheckpointPath), Data: next.raw, Perm: 0o644})
	if err != nil {
		return fmt.Errorf("writing checkpoint: %w", err)
	}
	p.head.Store(&next)
	return nil
}

// tidy removes what the published checkpoint has made superfluous. The sequence
// goes last: where it begins tells the next start how far back to look for
// directories that were not removed.
func (p *publisher) tidy() error {
	for len(p.obsolete) > 0 {
		dir := p.obsolete[0]
		if err := p.fs.RemoveAll(p.path(dir)); err != nil {
			return fmt.Errorf("removing partial tiles: %w", err)
		}
		p.dirs.Forget(dir)
		p.obsolete = p.obsolete[1:]
	}
	return p.sequence.Drop(p.head.Load().size)
}

// outgrownSince names the directories of partial tiles that a crash may have
// left where the tree has grown since it had from entries.
func (p *publisher) outgrownSince(from uint64) (dirs []string) {
	for level := range edgeLevels {
		shift := 8 * (level + 1)
		for index := from >> shift; index < p.edge.size>>shift; index++ {
			dirs = append(dirs, filepath.Dir(layout.TilePath(uint64(level), index, 1)))
			if level == 0 {
				dirs = append(dirs, filepath.Dir(bundlePath(index, 1)))
			}
		}
	}
	return dirs
}
