package audit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// followAll reads to the end and returns what was shown, with the last position
// between two segments.
func followAll(t testing.TB, f *Follower) (shown []Followed, last Position) {
	t.Helper()
	for {
		more, err := f.Read(context.Background(), func(r Followed) error {
			shown = append(shown, r)
			return nil
		})
		if err != nil {
			t.Fatalf("Read after %d records: %v", len(shown), err)
		}
		if !more {
			return shown, last
		}
		last = f.Position()
	}
}

// written is a journal of n certificates in many segments, the last two of which
// have no outcome.
func written(t testing.TB, n uint64) (string, *Journal) {
	t.Helper()
	c := config(newDir(t))
	c.SegmentBytes = 4 << 10
	j := openJournal(t, c)
	for i := range n {
		seq := mustIntent(t, j, i)
		if i < n-2 {
			mustOutcome(t, j, issued(seq, i))
		}
	}
	return c.Dir, j
}

func TestAFollowerShowsIntentsAndPromises(t *testing.T) {
	dir, _ := written(t, 12)
	shown, _ := followAll(t, Follow(dir, Position{}))
	var intents, promises int
	for i, r := range shown {
		if r.Sequence != uint64(i) {
			t.Fatalf("record %d has sequence %d", i, r.Sequence)
		}
		if r.Intent != nil {
			if want := intent(t, uint64(intents)); r.Intent.Serial != want.Serial || r.Intent.TBSHash != want.TBSHash || r.Intent.IssuerKeyHash != want.IssuerKeyHash {
				t.Errorf("intent %d is shown as %+v", intents, r.Intent)
			}
			intents++
		}
		if r.Promise != nil {
			want := issued(0, uint64(promises)).SCT
			if p := r.Promise; p.Serial != serial(uint64(promises)) || p.LogID != want.LogID || p.Index != want.Index || !p.Timestamp.Equal(want.Timestamp) || p.TBSHash != [32]byte{5} {
				t.Errorf("promise %d is shown as %+v", promises, r.Promise)
			}
			promises++
		}
	}
	if intents != 12 || promises != 10 {
		t.Errorf("%d intents and %d promises, want 12 and 10", intents, promises)
	}
}

func TestAFollowerGoesOn(t *testing.T) {
	dir, j := written(t, 12)
	f := Follow(dir, Position{})
	shown, last := followAll(t, f)
	if last.Next == 0 {
		t.Fatal("there was only one segment")
	}
	if id, err := Identity(dir); err != nil || id != last.Journal || id == ([32]byte{}) {
		t.Errorf("identity %x, %v; the position says %x", id, err, last.Journal)
	}
	mustIntent(t, j, 100)
	again, _ := followAll(t, f)
	if len(again) != 1 || again[0].Intent == nil || again[0].Sequence != uint64(len(shown)) {
		t.Errorf("showed %+v, want the new intent", again)
	}
	// From a position, with outcomes of intents before it.
	rest, _ := followAll(t, Follow(dir, last))
	if uint64(len(rest)) != uint64(len(shown)+1)-last.Next {
		t.Errorf("%d records from %d, want up to %d", len(rest), last.Next, len(shown)+1)
	}
	for _, r := range rest {
		if r.Promise != nil && r.Promise.TBSHash == ([32]byte{}) {
			t.Errorf("record %d shows a promise without its intent", r.Sequence)
		}
	}
}

func TestAFollowerSeesWhatIsWrong(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, dir string, files []string){
		"another journal": func(t *testing.T, _ string, files []string) {
			other, _ := written(t, 16)
			for i, f := range segmentFiles(t, other) {
				if i < len(files) {
					writeFile(t, files[i], readFile(t, f))
				}
			}
		},
		"cut": func(t *testing.T, _ string, files []string) {
			text := readFile(t, files[len(files)-1])
			writeFile(t, files[len(files)-1], text[:len(text)/2])
		},
		"changed": func(t *testing.T, _ string, files []string) {
			f, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("{}\n"); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			original, j := written(t, 12)
			dir := cloneDir(t, original)
			f := Follow(dir, Position{})
			followAll(t, f)
			mustIntent(t, j, 100)
			harm(t, dir, segmentFiles(t, dir))
			_, err := f.Read(t.Context(), func(Followed) error { return nil })
			if _, ok := errors.AsType[*BadRecord](err); !ok {
				t.Errorf("Read: %v, want a bad record", err)
			}
		})
	}
}

func TestAFollowerWaitsForAJournal(t *testing.T) {
	f := Follow(newDir(t), Position{})
	if _, err := f.Read(t.Context(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestAFollowerWaitsForTheRestOfALine(t *testing.T) {
	original, _ := written(t, 4)
	dir := cloneDir(t, original)
	files := segmentFiles(t, dir)
	last := files[len(files)-1]
	text := readFile(t, last)
	writeFile(t, last, text[:len(text)-10])
	f := Follow(dir, Position{})
	shown, _ := followAll(t, f)
	writeFile(t, last, text)
	rest, _ := followAll(t, f)
	if len(rest) != 1 || rest[0].Sequence != uint64(len(shown)) {
		t.Errorf("showed %+v, want the one record", rest)
	}
}

func TestAMarkSaysUntilWhenACopyIsWhole(t *testing.T) {
	now := testTime
	c := config(newDir(t))
	c.Clock = func() time.Time { return now }
	j := openJournal(t, c)
	mustIntent(t, j, 1)
	f := Follow(c.Dir, Position{})
	followAll(t, f)
	if got := f.Until(); !got.Equal(testTime) {
		t.Errorf("without a mark, until %v, want %v", got, testTime)
	}
	now = testTime.Add(time.Minute)
	mark := func() {
		t.Helper()
		if err := j.Mark(); err != nil {
			t.Fatal(err)
		}
	}
	mark()
	if got := f.Until(); !got.Equal(now) {
		t.Errorf("with a mark, until %v, want %v", got, now)
	}
	// A mark that speaks of records which were not read says nothing.
	mustIntent(t, j, 2)
	now = testTime.Add(2 * time.Minute)
	mark()
	if got := f.Until(); !got.Equal(testTime) {
		t.Errorf("with a mark beyond what was read, until %v, want %v", got, testTime)
	}
	followAll(t, f)
	if got := f.Until(); !got.Equal(now) {
		t.Errorf("after reading, until %v, want %v", got, now)
	}
	// Nor does one of another journal.
	path := filepath.Join(c.Dir, markName)
	text := string(readFile(t, path))
	_, hash := j.Head()
	writeFile(t, path, []byte(strings.Replace(text, `"hash":"`, `"hash":"00`, 1)))
	if got := f.Until(); !got.Equal(testTime.Add(time.Minute)) {
		t.Errorf("with a mark of another journal than %x, until %v, want the last record's", hash, got)
	}
}
