package sequence

import (
	"strings"
	"testing"
)

// TestLookBelievesDamageThatStays: a writer may be in the middle of a group when
// it is read, and the group behind it may be there already. That is no damage; what
// is still there at the next look is.
func TestLookBelievesDamageThatStays(t *testing.T) {
	c := newFile(t, 0)
	f, _ := open(t, c)
	appendTo(t, f, MaxPayload, 100, 100)
	paths := segments(t, c)
	if len(paths) != 2 {
		t.Fatalf("got segments %v, want two", paths)
	}
	const inFirstGroup = block + groupHead + 10
	looks := 0
	// harm flips a byte of the second segment when the first one was read for the
	// times given.
	harm := func(at ...int) error {
		looks = 0
		_, err := Look(c.Dir, c.Instance, func(g Group) error {
			if g.First == 0 {
				looks++
				for _, n := range at {
					if n == looks {
						flip(t, paths[1], inFirstGroup)
					}
				}
			}
			return nil
		})
		return err
	}
	if err := harm(1, 2); err != nil || looks != 2 {
		t.Errorf("damage that went: error %v after %d looks, want none after 2", err, looks)
	}
	if err := harm(1); err == nil || !strings.Contains(err.Error(), "damaged") || looks != 2 {
		t.Errorf("damage that stays: error %v after %d looks, want it after 2", err, looks)
	}
}
