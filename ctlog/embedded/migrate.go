package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera/client"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

// Logs of version 1 were written by Tessera's POSIX storage. Its tiles, bundles
// and issuers are the same files; what it kept beside them is the state of the
// tree, which may be ahead of the published checkpoint by entries that have SCTs.
const stateDir = ".state"

// treeState is Tessera's private record of what it has integrated. It is the
// last file of a batch to be written.
type treeState struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

func readTreeState(tree string) (checkpoint, error) {
	raw, err := readSmall(filepath.Join(tree, stateDir, "treeState"))
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

// migrate publishes all that Tessera has integrated, begins a sequence file
// there, and makes the log one of version 2, which an earlier Mayfly refuses. If
// it is interrupted, the next Open does it again.
func (l *Log) migrate(ctx context.Context, published, recorded checkpoint) (checkpoint, error) {
	state, err := readTreeState(l.tree)
	if err != nil {
		return checkpoint{}, err
	}
	tiles := client.FileFetcher{Root: l.tree}.ReadTile
	if err := proveConsistency(ctx, tiles, published, state); err != nil {
		return checkpoint{}, fmt.Errorf("the published checkpoint contradicts the tree "+
			"(an old or mixed copy, or damage): %w", err)
	}
	if err := proveConsistency(ctx, tiles, recorded, state); err != nil {
		return checkpoint{}, l.foreign(err)
	}
	e, newest, err := loadEdge(l.tree, state)
	if err != nil {
		return checkpoint{}, err
	}
	found, err := findLeftovers(l.tree, state.size)
	if err != nil {
		return checkpoint{}, err
	}
	l.clock.raise(newest)
	if err := l.clock.check(); err != nil {
		return checkpoint{}, err
	}
	if err := found.remove(); err != nil {
		return checkpoint{}, err
	}
	if state.size > published.size {
		l.publisher.edge = e
		if err := l.publisher.issue(ctx, state); err != nil {
			return checkpoint{}, err
		}
		published = l.publisher.last
	}
	if err := sequence.Create(l.config.fs, filepath.Join(l.config.Dir, sequenceDir), l.instance.id(), state.size); err != nil {
		return checkpoint{}, err
	}
	l.instance.Version = instanceVersion
	if err := l.instance.write(l.config.fs, l.config.Dir); err != nil {
		return checkpoint{}, err
	}
	if err := l.config.fs.RemoveAll(filepath.Join(l.tree, stateDir)); err != nil {
		return checkpoint{}, err
	}
	l.config.Logger.Info("took over a log that was written by Tessera", "log", l.config.Name, "entries", state.size,
		"checkpoint", published.time.Format(time.RFC3339))
	return published, nil
}
