package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

// maxBundle bounds a bundle: 256 entries of what ctlog.Submission.Check and Add
// let through.
const maxBundle = layout.EntryBundleWidth * maxLeaf

// proveConsistency proves from the tiles that the tree of next extends that of
// last (RFC 6962, Section 2.1.2).
func proveConsistency(ctx context.Context, tiles client.TileFetcherFunc, last, next checkpoint) error {
	switch {
	case next.size < last.size:
		return fmt.Errorf("the tree has shrunk: it has %d entries, and %d were signed: %w", next.size, last.size, errContradiction)
	case next.size == last.size:
		if next.root != last.root {
			return fmt.Errorf("two roots for %d entries: %x and %x: %w", next.size, last.root, next.root, errContradiction)
		}
		return nil
	case last.size == 0:
		return nil
	}
	builder, err := client.NewProofBuilder(ctx, next.size, tiles)
	if err != nil {
		return fmt.Errorf("proving consistency of %d and %d entries: %w", last.size, next.size, err)
	}
	nodes, err := builder.ConsistencyProof(ctx, last.size, next.size)
	if err != nil {
		return fmt.Errorf("proving consistency of %d and %d entries: %w", last.size, next.size, err)
	}
	err = proof.VerifyConsistency(rfc6962.DefaultHasher, last.size, next.size, nodes, last.root[:], next.root[:])
	if err != nil {
		return fmt.Errorf("the tree of %d entries does not extend the tree of %d: %w: %w", next.size, last.size, errContradiction, err)
	}
	return nil
}

// errContradiction says that what is on the disk denies what was signed.
var errContradiction = errors.New("the tree contradicts what was signed")

// loadEdge reads the right edge of the tree of a checkpoint and proves it
// against the root: the tiles hash to it, and the last bundle to the tile above.
// It returns the time of the last entry too.
func loadEdge(tree string, head checkpoint) (*edge, time.Time, error) {
	e := &edge{size: head.size}
	for level := range e.levels {
		n := uint8(head.size >> (8 * level))
		if n == 0 {
			continue
		}
		index := head.size >> (8 * (level + 1))
		hashes, err := readTile(tree, uint64(level), index, n)
		if err != nil {
			return nil, time.Time{}, err
		}
		// A full tile may stand beside the partial one after a crash; what they
		// share is the same.
		e.levels[level] = hashes[:n]
	}
	if root := e.root(); root != head.root {
		return nil, time.Time{}, fmt.Errorf("the tiles of %d entries hash to %x, but the checkpoint says %x: "+
			"a tile at the right edge is damaged or of another copy; put it back from a mirror or a backup", head.size, root, head.root)
	}
	if head.size == 0 {
		return e, time.Time{}, nil
	}
	last, err := verifyBundle(tree, head.size)
	if err != nil {
		return nil, time.Time{}, err
	}
	if head.size%layout.EntryBundleWidth != 0 {
		for _, l := range last {
			e.bundle = append(e.bundle, l.data...)
		}
	}
	return e, last[len(last)-1].time, nil
}

// verifyBundle reads the last entries of a tree and proves them against the tile
// of their hashes.
func verifyBundle(tree string, size uint64) ([]leaf, error) {
	index := (size - 1) / layout.EntryBundleWidth
	partial := layout.PartialTileSize(0, index, size)
	count := int((size-1)%layout.EntryBundleWidth) + 1
	raw, err := readBundle(tree, index, partial)
	if err != nil {
		return nil, fmt.Errorf("reading the last entries: %w", err)
	}
	leaves, err := parseBundle(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the last entries: bundle %d: %w", index, err)
	}
	hashes, err := readTile(tree, 0, index, partial)
	if err != nil {
		return nil, err
	}
	if len(leaves) < count || len(hashes) < count {
		return nil, fmt.Errorf("%d entries and %d hashes at the end of the tree, want %d", len(leaves), len(hashes), count)
	}
	for i := range count {
		if at := index*layout.EntryBundleWidth + uint64(i); leaves[i].hash != hashes[i] || leaves[i].index != at {
			return nil, fmt.Errorf("entry %d does not hash to its leaf in the tree: "+
				"bundle %d is damaged; put it back from a mirror or a backup", at, index)
		}
	}
	return leaves[:count], nil
}

// readTile reads a tile with at least the hashes asked for (0: all 256), falling
// back from a partial to a full one as readers of tiles do.
func readTile(tree string, level, index uint64, partial uint8) ([][32]byte, error) {
	want := int(partial)
	if want == 0 {
		want = layout.TileWidth
	}
	raw, err := readLimited(filepath.Join(tree, layout.TilePath(level, index, partial)), maxTile)
	if partial != 0 && errors.Is(err, fs.ErrNotExist) {
		var full error
		if raw, full = readLimited(filepath.Join(tree, layout.TilePath(level, index, 0)), maxTile); full == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile %d of level %d: %w", index, level, err)
	}
	hashes, err := parseTile(raw)
	if err == nil && len(hashes) < want {
		err = fmt.Errorf("%d hashes, want %d", len(hashes), want)
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile %d of level %d: %w", index, level, err)
	}
	return hashes, nil
}

// parseTile reads a tile of hashes.
func parseTile(raw []byte) ([][32]byte, error) {
	if len(raw) == 0 || len(raw)%32 != 0 || len(raw) > maxTile {
		return nil, fmt.Errorf("a tile of %d bytes", len(raw))
	}
	hashes := make([][32]byte, len(raw)/32)
	for i := range hashes {
		hashes[i] = [32]byte(raw[32*i:])
	}
	return hashes, nil
}

// readBundle reads an entry bundle, falling back likewise.
func readBundle(tree string, index uint64, partial uint8) ([]byte, error) {
	raw, err := readLimited(filepath.Join(tree, bundlePath(index, partial)), maxBundle)
	if partial != 0 && errors.Is(err, fs.ErrNotExist) {
		return readLimited(filepath.Join(tree, bundlePath(index, 0)), maxBundle)
	}
	return raw, err
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return raw, nil
}
