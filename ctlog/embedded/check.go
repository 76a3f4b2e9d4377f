package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

// CheckConfig says how to check a log.
type CheckConfig struct {
	// CheckpointRecord is as in Config.
	CheckpointRecord string
	// Progress is told now and then how many entries of how many were checked. It
	// may be nil.
	Progress func(done, all uint64)
}

// Fault is something wrong with a log's files.
type Fault struct {
	// File is the path of the file that is wrong.
	File string `json:"file"`
	// Problem says what is wrong with it, Remedy what to do.
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
}

// Report is what a check found.
type Report struct {
	// Head is the checkpoint that was checked; its Size is 0 too when it could not
	// be read, which is a fault then.
	Head Head
	// Entries, Issuers and Sequenced count what was looked at: entries in the
	// tree, issuing certificates, and entries in the sequence file.
	Entries, Issuers, Sequenced uint64
	Faults                      []Fault
	// Cut says that there were more faults than are listed, or that the check
	// could not go on.
	Cut bool
}

const (
	// maxFaults bounds a report: a disk that is gone is one story, not a million.
	maxFaults = 100
	// maxCheckedIssuers bounds the memory of which were looked at.
	maxCheckedIssuers = 4096
)

// What can be done about a file that is not what it was.
const (
	remedyFile = "put the file back from a mirror or a backup of this log; every copy of it is the same"
	remedyLog  = "do not write to this directory: find the current one, or restore it whole from a copy that is not older; else run mayfly log rotate and keep this log for readers"
)

// Check reads the whole log and proves it: every entry hashes to its leaf, every
// tile to the one above it, all of it to the root in the checkpoint, which verifies
// under the log's key and origin; every issuing certificate is there; the sequence
// file follows on from the tree; the record outside the directory is not newer. It
// works beside whoever writes the log, in memory that does not grow with it.
//
// The error is one of ctx. Everything else is in the report.
func (v *View) Check(ctx context.Context, c CheckConfig) (Report, error) {
	k := &checker{view: v, config: c, known: map[[32]byte]bool{}}
	head, err := v.Head()
	if err != nil {
		k.fault(filepath.Join(v.tree, layout.CheckpointPath), err, remedyLog)
		k.report.Cut = true
		return k.report, nil
	}
	k.report.Head = head
	if err := k.entries(ctx); err != nil {
		return k.report, err
	}
	k.sequence()
	k.record()
	return k.report, nil
}

// checker is one run of Check.
type checker struct {
	view   *View
	config CheckConfig
	report Report
	edge   edge
	known  map[[32]byte]bool // issuers that were looked at
	newest time.Time
}

func (k *checker) fault(file string, err error, remedy string) {
	if len(k.report.Faults) == maxFaults {
		k.report.Cut = true
		return
	}
	k.report.Faults = append(k.report.Faults, Fault{File: file, Problem: err.Error(), Remedy: remedy})
}

// entries goes through the tree from left to right, making it again on the way.
func (k *checker) entries(ctx context.Context) error {
	head := k.report.Head
	for index := uint64(0); k.edge.size < head.Size; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(k.report.Faults) == maxFaults || !k.bundle(index) {
			k.report.Cut = true
			return nil
		}
		k.report.Entries = k.edge.size
		if k.config.Progress != nil {
			k.config.Progress(k.edge.size, head.Size)
		}
	}
	for _, f := range k.edge.partials() {
		k.tile(f)
	}
	if root := k.edge.root(); root != head.Root {
		k.fault(filepath.Join(k.view.tree, layout.CheckpointPath),
			fmt.Errorf("the entries hash to the root %x, but the checkpoint over %d of them says %x", root, head.Size, head.Root), remedyLog)
	}
	return nil
}

// bundle checks a bundle against its tile, and continues with the tile where the
// bundle cannot be read. It returns false when neither can.
func (k *checker) bundle(index uint64) bool {
	head, tree := k.report.Head, k.view.tree
	partial := layout.PartialTileSize(0, index, head.Size)
	hashes, tileErr := readTile(tree, 0, index, partial)
	leaves, err := k.view.bundle(head, index)
	if err != nil {
		k.fault(filepath.Join(tree, bundlePath(index, partial)), err, remedyFile)
		if tileErr != nil {
			k.fault(filepath.Join(tree, layout.TilePath(0, index, partial)), tileErr, remedyFile)
			return false
		}
		count := min(uint64(layout.TileWidth), head.Size-index*layout.TileWidth)
		for _, h := range hashes[:count] {
			k.add(h)
		}
		return true
	}
	own := make([][32]byte, len(leaves))
	for i, l := range leaves {
		if l.time.Before(k.newest) {
			k.fault(filepath.Join(tree, bundlePath(index, partial)), fmt.Errorf("entry %d is older than the one before it", l.index), remedyFile)
		}
		k.newest, own[i] = l.time, l.hash
		k.issuers(l)
	}
	if tileErr == nil && !slices.Equal(own, hashes[:len(own)]) {
		own = k.arbitrate(index, partial, own, hashes[:len(own)])
	}
	// A tile that cannot be read is told when it is made again from the entries.
	for _, h := range own {
		k.add(h)
	}
	return true
}

// arbitrate finds out which of a bundle and its tile is damaged, by what the tree
// above says, and returns the hashes to go on with.
func (k *checker) arbitrate(index uint64, partial uint8, bundle, tile [][32]byte) [][32]byte {
	if k.fits(index, bundle) {
		return bundle // the tile is told when it is compared
	}
	k.fault(filepath.Join(k.view.tree, bundlePath(index, partial)),
		fmt.Errorf("the entries of bundle %d are not those of its tile", index), remedyFile)
	return tile
}

// fits reports that the tree above a tile agrees with its hashes.
func (k *checker) fits(index uint64, hashes [][32]byte) bool {
	head := k.report.Head
	if len(hashes) == layout.TileWidth {
		parent := index / layout.TileWidth
		above, err := readTile(k.view.tree, 1, parent, layout.PartialTileSize(1, parent, head.Size))
		return err == nil && above[index%layout.TileWidth] == subtree(hashes)
	}
	// The last tile of all: only the root is above it.
	e := edge{size: k.edge.size}
	for level, row := range k.edge.levels {
		e.levels[level] = slices.Clone(row)
	}
	for _, h := range hashes {
		e.append(nil, h)
	}
	return e.root() == head.Root
}

// add appends a leaf and compares the tiles that are full now with those on the
// disk.
func (k *checker) add(hash [32]byte) {
	for _, f := range k.edge.append(nil, hash) {
		k.tile(f)
	}
}

func (k *checker) tile(f file) {
	t, ok := parseTilePath(f.path)
	if !ok || t.data {
		return // bundles are compared entry by entry
	}
	name := filepath.Join(k.view.tree, filepath.FromSlash(f.path))
	partial := uint8(0)
	if t.partial() {
		partial = uint8(t.width)
	}
	hashes, err := readTile(k.view.tree, t.level, t.index, partial)
	if err != nil {
		k.fault(name, err, remedyFile)
		return
	}
	if got := marshalTile(hashes[:t.width]); !bytes.Equal(got, f.data) {
		k.fault(name, errors.New("the tile does not hash up from what is below it"), remedyFile)
	}
}

// issuers checks that the certificates above an entry are there.
func (k *checker) issuers(l leaf) {
	e, err := l.entry()
	if err != nil {
		return // parseLeaf has accepted it
	}
	for _, fingerprint := range e.Issuers {
		if k.known[fingerprint] {
			continue
		}
		if len(k.known) >= maxCheckedIssuers {
			clear(k.known)
		}
		k.known[fingerprint] = true
		k.report.Issuers++
		name := filepath.Join(k.view.tree, issuerDir, hex.EncodeToString(fingerprint[:]))
		raw, err := readLimited(name, maxCertificate)
		switch {
		case err != nil:
			k.fault(name, fmt.Errorf("the issuing certificate of entry %d: %w", l.index, err), remedyFile)
		case sha256.Sum256(raw) != fingerprint:
			k.fault(name, errors.New("the certificate is not the one of its name"), remedyFile)
		}
	}
}

// sequence checks that the sequence file follows on from the tree: a writer may
// have moved both on since the checkpoint was read.
func (k *checker) sequence() {
	dir := filepath.Join(k.view.dir, sequenceDir)
	if k.view.instance.Version != instanceVersion {
		return // of an earlier version; there is none yet
	}
	extent, err := sequence.Look(dir, k.view.instance.id(), k.group)
	if err != nil {
		k.fault(dir, err, "put the segment back as it was; if that cannot be, run mayfly log rotate: entries of the last second may be lost")
		return
	}
	k.report.Sequenced = extent.Next - extent.First
	now, err := k.view.Head()
	if err != nil {
		k.fault(filepath.Join(k.view.tree, layout.CheckpointPath), err, remedyLog)
		return
	}
	if extent.First > now.Size || extent.Next < k.report.Head.Size {
		k.fault(dir, fmt.Errorf("it has the entries from %d to %d, but the published tree has %d: one of them is a copy from another time",
			extent.First, extent.Next, now.Size), remedyLog)
	}
}

// group compares a group of the sequence file with the tree.
func (k *checker) group(g sequence.Group) error {
	leaves, err := readGroup(g)
	if err != nil {
		return err
	}
	var tile [][32]byte
	at := uint64(0)
	for _, l := range leaves {
		if l.index >= k.report.Head.Size {
			return nil
		}
		if index := l.index / layout.TileWidth; tile == nil || at != index {
			if tile, err = readTile(k.view.tree, 0, index, layout.PartialTileSize(0, index, k.report.Head.Size)); err != nil {
				return nil //nolint:nilerr // the tree has this fault, and tells it
			}
			at = index
		}
		if tile[l.index%layout.TileWidth] != l.hash {
			return fmt.Errorf("entry %d is another one than in the published tree", l.index)
		}
	}
	return nil
}

// record checks that the record outside the directory has not seen more.
func (k *checker) record() {
	path := k.config.CheckpointRecord
	if path == "" {
		return
	}
	recorded, err := k.view.RecordHead(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && k.report.Head.Size == 0:
		return // the first opening makes it
	case errors.Is(err, fs.ErrNotExist):
		k.fault(path, err, "put it back, or start the service, which makes one: until then an old copy of the log would go unnoticed")
		return
	case err != nil:
		k.fault(path, err, "make sure that the configuration names the record of this log; deleting it only silences the alarm")
		return
	}
	now, err := k.view.Head()
	if err != nil {
		return // told by sequence
	}
	// The record is written before the checkpoint, so for a moment it may be ahead;
	// the sequence file then has the entries.
	extent, err := sequence.Look(filepath.Join(k.view.dir, sequenceDir), k.view.instance.id(), func(sequence.Group) error { return nil })
	if err != nil {
		return // told by sequence
	}
	switch {
	case recorded.Size > now.Size && recorded.Size > extent.Next:
		k.fault(path, fmt.Errorf("the record has a checkpoint over %d entries, but the directory only %d: it is an old copy", recorded.Size, extent.Next), remedyLog)
	case recorded.Size == now.Size && recorded.Root != now.Root:
		k.fault(path, fmt.Errorf("the record has another root for %d entries: the directory is a foreign copy", now.Size), remedyLog)
	}
}
