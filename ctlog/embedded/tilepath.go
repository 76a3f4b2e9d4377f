package embedded

import (
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"
)

// tilePath is a parsed path below tile/.
type tilePath struct {
	level uint64 // of hashes; entry bundles are on level 0
	data  bool
	index uint64
	width uint64 // 256 unless partial
}

// Level 5 already holds 2^48 entries, and leaf_index has 40 bits.
var tilePattern = regexp.MustCompile(`^tile/(data|[0-5])/((?:x[0-9]{3}/){0,4}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?$`)

// parseTilePath reads a path as static-ct-api spells it, and no other spelling.
func parseTilePath(path string) (tilePath, bool) {
	m := tilePattern.FindStringSubmatch(path)
	if m == nil {
		return tilePath{}, false
	}
	var p tilePath
	if m[1] == "data" {
		p.data = true
	} else {
		p.level = uint64(m[1][0] - '0')
	}
	var err error
	digits := strings.NewReplacer("x", "", "/", "").Replace(m[2])
	if p.index, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return tilePath{}, false
	}
	p.width = layout.TileWidth
	partial := uint8(0)
	if m[3] != "" {
		n, err := strconv.ParseUint(m[3], 10, 8)
		if err != nil {
			return tilePath{}, false
		}
		partial, p.width = uint8(n), n
	}
	canonical := layout.TilePath(p.level, p.index, partial)
	if p.data {
		canonical = bundlePath(p.index, partial)
	}
	return p, canonical == path
}

// entries is the size a tree must have for the tile to be final.
func (p tilePath) entries() uint64 {
	n := p.index*layout.TileWidth + p.width
	shift := 8 * int(p.level)
	if bits.Len64(n)+shift > 63 {
		return math.MaxUint64
	}
	return n << shift
}

func (p tilePath) partial() bool { return p.width < layout.TileWidth }

// full is the tile that a partial one becomes.
func (p tilePath) full() tilePath {
	p.width = layout.TileWidth
	return p
}
