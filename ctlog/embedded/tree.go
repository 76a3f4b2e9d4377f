package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

// treeState is Tessera's private record of what it has integrated. It is the
// last file of a batch to be written.
type treeState struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

func readTreeState(tree string) (checkpoint, error) {
	raw, err := readSmall(filepath.Join(tree, ".state", "treeState"))
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}, fmt.Errorf("the tree is gone, but its key is not: "+
			"starting over would sign a second tree under the same key: %w", err)
	}
	if err != nil {
		return checkpoint{}, fmt.Errorf("reading tree state: %w", err)
	}
	var st treeState
	if err := json.Unmarshal(raw, &st); err != nil {
		return checkpoint{}, fmt.Errorf("reading tree state: %w", err)
	}
	if len(st.Root) != 32 {
		return checkpoint{}, fmt.Errorf("tree state with a root of %d bytes", len(st.Root))
	}
	return checkpoint{size: st.Size, root: [32]byte(st.Root)}, nil
}

// proveConsistency proves from the tiles that the tree of next extends that of
// last (RFC 6962, Section 2.1.2).
func proveConsistency(ctx context.Context, tiles client.TileFetcherFunc, last, next checkpoint) error {
	switch {
	case next.size < last.size:
		return fmt.Errorf("the tree has shrunk: it has %d entries, and %d were signed", next.size, last.size)
	case next.size == last.size:
		if next.root != last.root {
			return fmt.Errorf("two roots for %d entries: %x and %x", next.size, last.root, next.root)
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
		return fmt.Errorf("the tree of %d entries does not extend the tree of %d: %w", next.size, last.size, err)
	}
	return nil
}

// verifyTree checks what the next batch will be built on: the tiles along the
// right edge hash to the root, and the last entry bundle hashes to the tile
// above it. It returns the time of the last entry.
func verifyTree(ctx context.Context, tree string, state checkpoint) (time.Time, error) {
	if state.size == 0 {
		if !bytes.Equal(state.root[:], rfc6962.DefaultHasher.EmptyRoot()) {
			return time.Time{}, fmt.Errorf("an empty tree with root %x", state.root)
		}
		return time.Time{}, nil
	}
	files := client.FileFetcher{Root: tree}
	nodes, err := client.FetchRangeNodes(ctx, state.size, files.ReadTile)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the tiles of %d entries: %w", state.size, err)
	}
	edge, err := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, state.size, nodes)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the tiles of %d entries: %w", state.size, err)
	}
	root, err := edge.GetRootHash(nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("hashing the tree of %d entries: %w", state.size, err)
	}
	if !bytes.Equal(root, state.root[:]) {
		return time.Time{}, fmt.Errorf("the tiles of %d entries hash to %x, but the tree state says %x",
			state.size, root, state.root)
	}
	return verifyLastBundle(ctx, tree, state.size)
}

func verifyLastBundle(ctx context.Context, tree string, size uint64) (time.Time, error) {
	index := (size - 1) / layout.EntryBundleWidth
	partial := layout.PartialTileSize(0, index, size)
	count := int((size-1)%layout.EntryBundleWidth) + 1
	bundle, err := readBundle(tree, index, partial)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the last entries: %w", err)
	}
	leaves, err := parseBundle(bundle)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the last entries: %w", err)
	}
	raw, err := (client.FileFetcher{Root: tree}).ReadTile(ctx, 0, index, partial)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the last tile: %w", err)
	}
	var tile api.HashTile
	if err := tile.UnmarshalText(raw); err != nil {
		return time.Time{}, fmt.Errorf("reading the last tile: %w", err)
	}
	// After an interrupted batch a full file may stand where the partial one was;
	// the entries up to the tree size are the same in both.
	if len(leaves) < count || len(tile.Nodes) < count {
		return time.Time{}, fmt.Errorf("%d entries and %d hashes at the end of the tree, want %d",
			len(leaves), len(tile.Nodes), count)
	}
	for i := range count {
		if !bytes.Equal(leaves[i].hash[:], tile.Nodes[i]) {
			return time.Time{}, fmt.Errorf("entry %d does not hash to its leaf in the tree",
				index*layout.EntryBundleWidth+uint64(i))
		}
	}
	return leaves[count-1].time, nil
}

// readBundle reads an entry bundle, falling back from a partial to a full one as
// readers of tiles do.
func readBundle(tree string, index uint64, partial uint8) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(tree, bundlePath(index, partial)))
	if partial != 0 && errors.Is(err, fs.ErrNotExist) {
		return os.ReadFile(filepath.Join(tree, bundlePath(index, 0)))
	}
	return raw, err
}

func bundlePath(index uint64, partial uint8) string {
	return "tile/data/" + layout.NWithSuffix(0, index, partial)
}
