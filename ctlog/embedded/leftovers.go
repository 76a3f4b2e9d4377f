package embedded

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Tessera wrote to a temporary file beside its target, named like it with
// random digits behind.
var (
	tempInTile  = regexp.MustCompile(`^[0-9]+$`)
	tempInState = regexp.MustCompile(`^(treeState|gcState|version)[0-9]+$`)
	tempInTree  = regexp.MustCompile(`^checkpoint[0-9]+$`)
)

// tesseraBatch is the most entries that a batch of Tessera's had.
const tesseraBatch = 1024

// leftovers are files that an interrupted process left in the tree.
type leftovers struct {
	// temporary files never had a name that a reader asks for.
	temporary []string
	// unacknowledged tiles and bundles belong to a batch whose tree state was
	// never written, so no SCT was given for their entries.
	unacknowledged []string
}

// findLeftovers looks through the tree. Only one batch is ever outstanding, so
// tiles more than one batch beyond the tree state are not left over from it: then
// the state is older than the tiles, as in a restored copy, and the newer tiles
// may be all that is left of signed entries.
func findLeftovers(tree string, size uint64) (leftovers, error) {
	var found leftovers
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if t, ok := parseTilePath(rel); ok {
			need := t.entries()
			if need > size+tesseraBatch {
				return fmt.Errorf("%s belongs to a tree of %d entries, but the tree state says %d: "+
					"the state is an old copy", rel, need, size)
			}
			switch {
			case need > size:
				found.unacknowledged = append(found.unacknowledged, path)
			case t.partial() && t.full().entries() <= size:
				// Tessera collected these once a minute.
				found.temporary = append(found.temporary, path)
			}
			return nil
		}
		if isTemporary(rel) {
			found.temporary = append(found.temporary, path)
		}
		return nil
	})
	if err != nil {
		return leftovers{}, fmt.Errorf("looking through the tree: %w", err)
	}
	return found, nil
}

func isTemporary(rel string) bool {
	dir, name := filepath.Split(rel)
	first, _, _ := strings.Cut(rel, "/")
	switch {
	case first == "tile":
		return tempInTile.MatchString(name)
	case first == "issuer":
		return strings.HasPrefix(name, ".tmp-")
	case dir == ".state/":
		return tempInState.MatchString(name)
	case dir == "":
		return tempInTree.MatchString(name)
	}
	return false
}

// remove deletes what was found. The removals need no sync: what a crash brings
// back is found again.
func (l leftovers) remove() error {
	for _, list := range [][]string{l.temporary, l.unacknowledged} {
		for _, path := range list {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing leftover: %w", err)
			}
		}
	}
	return nil
}
