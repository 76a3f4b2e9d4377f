package embedded

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// viewOf makes a log of n entries, closed, with its view.
func viewOf(t *testing.T, n int) (*View, string) {
	t.Helper()
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(t.TempDir(), "record")
	fill(t, c, testca.New(t), n)
	return openView(t, dir), c.CheckpointRecord
}

func openView(t *testing.T, dir string) *View {
	t.Helper()
	v, err := OpenView(dir)
	if err != nil {
		t.Fatalf("OpenView(%s): %v", dir, err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func check(t *testing.T, v *View, record string) Report {
	t.Helper()
	r, err := v.Check(t.Context(), CheckConfig{CheckpointRecord: record})
	if err != nil {
		t.Fatalf("Check: %v", err)
	}
	return r
}

func TestCheckAcceptsAWholeLogAndAnOpenOne(t *testing.T) {
	v, record := viewOf(t, 520)
	r := check(t, v, record)
	if len(r.Faults) > 0 || r.Cut || r.Entries != 520 || r.Issuers == 0 {
		t.Errorf("got %+v, want 520 entries without fault", r)
	}
	c := testConfig(t, v.dir)
	c.CheckpointRecord = record
	l := openLog(t, c)
	s := testca.New(t).Precertificate(t)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for ctx.Err() == nil {
				if _, err := l.Submit(ctx, s); err != nil && ctx.Err() == nil {
					t.Errorf("Submit: %v", err)
					return
				}
			}
		})
	}
	defer writers.Wait()
	defer cancel()
	// Across some borders of tiles and segments.
	for before := uint64(0); before < 2000; {
		r := check(t, v, record)
		if len(r.Faults) > 0 || r.Cut || r.Entries < before {
			t.Fatalf("beside a writer: got %+v, want no faults and %d entries or more", r, before)
		}
		before = r.Entries
	}
}

// Every file that a log consists of is missed when it is gone, and noticed when a
// byte of it is another one.
func TestCheckNamesTheDamagedFile(t *testing.T) {
	v, record := viewOf(t, 300)
	files := []string{
		"tree/checkpoint", "tree/tile/0/000", "tree/tile/0/001.p/44", "tree/tile/1/000.p/1",
		"tree/tile/data/000", "tree/tile/data/001.p/44",
	}
	issuers, err := filepath.Glob(filepath.Join(v.tree, issuerDir, "*"))
	if err != nil || len(issuers) == 0 {
		t.Fatalf("got issuers %v, error %v, want some", issuers, err)
	}
	segments, err := filepath.Glob(filepath.Join(v.dir, sequenceDir, "*.seq"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("got segments %v, error %v, want some", segments, err)
	}
	for _, path := range slices.Concat(issuers[:1], segments[:1]) {
		rel, err := filepath.Rel(v.dir, path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, rel)
	}
	for _, rel := range files {
		path := filepath.Join(v.dir, rel)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damaged := slices.Clone(whole)
		damaged[20] ^= 1
		for name, change := range map[string]func() error{
			"gone":    func() error { return os.Remove(path) },
			"cut":     func() error { return os.WriteFile(path, whole[:10], 0o600) },
			"damaged": func() error { return os.WriteFile(path, damaged, 0o600) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			r := check(t, v, record)
			// A segment that is gone shows at the directory.
			if !slices.ContainsFunc(r.Faults, func(f Fault) bool {
				return strings.HasPrefix(path, f.File) && f.Problem != "" && f.Remedy != ""
			}) {
				t.Errorf("%s %s: got faults %+v, want one about it", rel, name, r.Faults)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := check(t, v, record); len(r.Faults) > 0 {
		t.Errorf("after all was put back: got faults %+v, want none", r.Faults)
	}
}

func TestCheckNoticesAnOldCopyByTheRecord(t *testing.T) {
	v, record := viewOf(t, 3)
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, v.dir, old)
	c := testConfig(t, v.dir)
	c.CheckpointRecord = record
	fill(t, c, testca.New(t), 2)
	if r := check(t, openView(t, old), record); len(r.Faults) != 1 || r.Faults[0].File != record || !strings.Contains(r.Faults[0].Problem, "old copy") {
		t.Errorf("got faults %+v, want one about the record", r.Faults)
	}
	if r := check(t, v, record); len(r.Faults) > 0 {
		t.Errorf("the log itself: got faults %+v, want none", r.Faults)
	}
	if r := check(t, v, record+"-gone"); len(r.Faults) != 1 || r.Faults[0].File != record+"-gone" {
		t.Errorf("without the record: got faults %+v, want one about it", r.Faults)
	}
	dir, _ := initLog(t)
	if r := check(t, openView(t, dir), record+"-gone"); len(r.Faults) > 0 {
		t.Errorf("a log that was never opened: got faults %+v, want none", r.Faults)
	}
}

func TestCheckNoticesASequenceFileOfAnotherCopy(t *testing.T) {
	v, _ := viewOf(t, 3)
	other := filepath.Join(t.TempDir(), "other")
	copyTree(t, v.dir, other)
	for _, dir := range []string{v.dir, other} {
		fill(t, testConfig(t, dir), testca.New(t), 1)
	}
	sequenced := filepath.Join(v.dir, sequenceDir)
	if err := os.RemoveAll(sequenced); err != nil {
		t.Fatal(err)
	}
	copyTree(t, filepath.Join(other, sequenceDir), sequenced)
	if r := check(t, v, ""); len(r.Faults) != 1 || r.Faults[0].File != sequenced || !strings.Contains(r.Faults[0].Problem, "entry 3 is another one") {
		t.Errorf("got faults %+v, want one about entry 3 of the sequence file", r.Faults)
	}
}

func TestEntriesAreReadAndProven(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	clock := &testClock{now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin, Clock: clock.read}); err != nil {
		t.Fatal(err)
	}
	c := testConfig(t, dir)
	c.Clock = clock.read
	l := openLog(t, c)
	ca := testca.New(t)
	var precerts [][]byte
	for range 5 {
		clock.step(time.Minute)
		s := ca.Precertificate(t)
		submit(t, l, s)
		precerts = append(precerts, s.Precertificate)
	}
	closeLog(t, l)
	v := openView(t, dir)
	head, err := v.Head()
	if err != nil {
		t.Fatal(err)
	}
	var got []LoggedEntry
	if err := v.Entries(t.Context(), head, 2, func(e LoggedEntry) bool { got = append(got, e); return true }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("got %d entries from 2 on, want 3", len(got))
	}
	for i, e := range got {
		if e.Index != uint64(i+2) || !slices.Equal(e.Precertificate, precerts[i+2]) || len(e.Issuers) == 0 {
			t.Errorf("got entry %+v, want number %d", e, i+2)
		}
		if err := v.VerifyEntry(t.Context(), head, e); err != nil {
			t.Error(err)
		}
	}
	got[0].LeafHash[0] ^= 1
	if err := v.VerifyEntry(t.Context(), head, got[0]); err == nil {
		t.Error("VerifyEntry accepted another leaf")
	}
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for minutes, want := range map[float64]uint64{0: 0, 1: 0, 1.5: 1, 3: 2, 5: 4, 5.1: 5, 100: 5} {
		at := start.Add(time.Duration(minutes * float64(time.Minute)))
		if index, err := v.Since(head, at); err != nil || index != want {
			t.Errorf("Since(%s): got %d, error %v, want %d", at, index, err, want)
		}
	}
}

func TestFrozenLogIsReadAndNeverWrittenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	activate := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	place := json.RawMessage(`{"file":"x"}`)
	if _, err := Init(t.Context(), InitConfig{Dir: dir, Origin: testOrigin, Activate: activate, KeyPlace: place}); err != nil {
		t.Fatal(err)
	}
	c := testConfig(t, dir)
	l := openLog(t, c)
	submit(t, l, testca.New(t).Precertificate(t))
	if err := Freeze(dir, time.Now()); err == nil || !strings.Contains(err.Error(), "is open already") {
		t.Errorf("freezing an open log: got error %v, want that it is open", err)
	}
	closeLog(t, l)
	if err := Freeze(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := Freeze(dir, time.Now()); err != nil {
		t.Errorf("freezing again: got error %v, want none", err)
	}
	refused(t, c, "frozen")
	info, err := Inspect(dir)
	if err != nil || info.Frozen.IsZero() || !info.Activate.Equal(activate) || !strings.Contains(string(info.KeyPlace), `"x"`) {
		t.Errorf("got %+v, error %v, want the log's activation, key place and time of freezing", info, err)
	}
	// The key has done its work.
	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
		t.Fatal(err)
	}
	v := openView(t, dir)
	handler, err := v.ReadHandler()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/checkpoint": 200, "/tile/0/000.p/1": 200, "/tile/0/000": 404, "/log.pub": 404} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
		if answer.Code != want {
			t.Errorf("GET %s: got status %d, want %d", path, answer.Code, want)
		}
	}
	if r := check(t, v, ""); len(r.Faults) > 0 || r.Entries != 1 {
		t.Errorf("got %+v, want one entry without fault", r)
	}
}

func TestFreezeRefusesWhatIsNotPublished(t *testing.T) {
	v, _ := viewOf(t, 3)
	old := filepath.Join(t.TempDir(), "checkpoint")
	copyFile(t, filepath.Join(v.tree, "checkpoint"), old)
	fill(t, testConfig(t, v.dir), testca.New(t), 1)
	copyFile(t, old, filepath.Join(v.tree, "checkpoint"))
	if err := Freeze(v.dir, time.Now()); err == nil || !strings.Contains(err.Error(), "covers 3 entries of 4") {
		t.Errorf("got error %v, want that an entry is not under the checkpoint", err)
	}
}

// What parses as a bundle comes apart as entries: nothing is checked twice.
func FuzzEntriesOfABundle(f *testing.F) {
	for _, precert := range []bool{true, false} {
		e := ctonly.Entry{Timestamp: 1, IsPrecert: precert, Certificate: []byte("tbs"), FingerprintsChain: [][32]byte{{1}, {2}}}
		if precert {
			e.Precertificate = []byte("precertificate")
		}
		f.Add(append(e.LeafData(0), e.LeafData(1)...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		leaves, err := parseBundle(raw)
		if err != nil {
			return
		}
		for i, l := range leaves {
			e, err := l.entry()
			if err != nil || e.Index != l.index || !e.Time.Equal(l.time) || e.LeafHash != l.hash || len(e.Certificate) == 0 {
				t.Errorf("entry %d of %x: got %+v, error %v, want what the leaf says", i, raw, e, err)
			}
		}
	})
}
