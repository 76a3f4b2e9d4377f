package embedded

import (
	"crypto/sha256"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
)

// edge is the right edge of the tree: of each level the tile that is not full
// yet, and the entry bundle that is not. It is all of the tree that is kept in
// memory, some hundred kilobytes whatever the size.
type edge struct {
	size   uint64
	levels [edgeLevels][][32]byte // fewer than 256 hashes each
	bundle []byte
	room   int // the size of the last bundle that was full: the next will be like it
}

// Six levels hold 2^48 entries, more than leaf_index can count.
const edgeLevels = 6

// file is a file of the tree, by its path below it.
type file struct {
	path string
	data []byte
}

// append adds a leaf and returns the tiles and the bundle that are now full.
func (e *edge) append(data []byte, hash [32]byte) (full []file) {
	if e.bundle == nil {
		e.bundle = make([]byte, 0, e.room+e.room/16)
	}
	e.bundle = append(e.bundle, data...)
	e.size++
	if e.size%layout.EntryBundleWidth == 0 {
		full = append(full, file{bundlePath(e.size/layout.EntryBundleWidth-1, 0), e.bundle})
		e.room, e.bundle = len(e.bundle), nil
	}
	for level := range e.levels {
		if e.levels[level] == nil {
			e.levels[level] = make([][32]byte, 0, layout.TileWidth)
		}
		e.levels[level] = append(e.levels[level], hash)
		if len(e.levels[level]) < layout.TileWidth {
			break
		}
		tile := e.levels[level]
		e.levels[level] = nil
		index := e.size>>(8*(level+1)) - 1
		full = append(full, file{layout.TilePath(uint64(level), index, 0), marshalTile(tile)})
		hash = subtree(tile)
	}
	return full
}

// partials are the tiles and the bundle that are not full, as a checkpoint of
// this size needs them.
func (e *edge) partials() (files []file) {
	if len(e.bundle) > 0 {
		index, n := e.size/layout.EntryBundleWidth, uint8(e.size%layout.EntryBundleWidth)
		files = append(files, file{bundlePath(index, n), e.bundle})
	}
	for level, tile := range e.levels {
		if len(tile) > 0 {
			index := e.size >> (8 * (level + 1))
			files = append(files, file{layout.TilePath(uint64(level), index, uint8(len(tile))), marshalTile(tile)})
		}
	}
	return files
}

// root is the root hash of the tree.
//
// RFC 6962, Section 2.1: "The hash of an empty list is the hash of an empty
// string"; of n entries, it is the hash of the largest perfect subtree of fewer
// than n to the left, and of the rest. So the perfect subtrees of the tree, from
// the left in falling size, are folded from the right.
func (e *edge) root() [32]byte {
	var perfect [][32]byte
	for level := len(e.levels) - 1; level >= 0; level-- {
		rest := e.levels[level]
		for width := layout.TileWidth / 2; width > 0; width /= 2 {
			if len(rest)&width != 0 {
				perfect = append(perfect, subtree(rest[:width]))
				rest = rest[width:]
			}
		}
	}
	if len(perfect) == 0 {
		return emptyRoot
	}
	root := perfect[len(perfect)-1]
	for i := len(perfect) - 2; i >= 0; i-- {
		root = hashChildren(perfect[i], root)
	}
	return root
}

var emptyRoot = [32]byte(rfc6962.DefaultHasher.EmptyRoot())

// subtree hashes a power of two of hashes.
func subtree(hashes [][32]byte) [32]byte {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return hashChildren(subtree(hashes[:half]), subtree(hashes[half:]))
}

func hashChildren(left, right [32]byte) [32]byte {
	// RFC 6962, Section 2.1: "SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))".
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

func marshalTile(hashes [][32]byte) []byte {
	raw := make([]byte, 0, len(hashes)*32)
	for _, h := range hashes {
		raw = append(raw, h[:]...)
	}
	return raw
}

func bundlePath(index uint64, partial uint8) string {
	return "tile/data/" + layout.NWithSuffix(0, index, partial)
}

// contents makes the files of the tree ready for the disk.
func contents(join func(string) string, files []file) []disk.Content {
	out := make([]disk.Content, len(files))
	for i, f := range files {
		out[i] = disk.Content{Path: join(f.path), Data: f.data, Perm: 0o644}
	}
	return out
}
