package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// crash leaves a journal as a killed process does: three intents of which one
// has an outcome, nothing closed.
func crash(t testing.TB) string {
	t.Helper()
	dir := newDir(t)
	j := openJournal(t, config(dir))
	for n := range uint64(3) {
		mustIntent(t, j, n+1)
	}
	mustOutcome(t, j, issued(2, 2))
	return cloneDir(t, dir)
}

func TestOpenClosesWhatACrashLeftOpen(t *testing.T) {
	dir := crash(t)
	closeJournal(t, openJournal(t, config(dir)))
	rs := records(t, dir)
	unknown := map[float64]bool{}
	for _, r := range ofType(rs, typeOutcome) {
		if r.Body["result"] == resultUnknown {
			unknown[r.Body["intent"].(float64)] = true
			if note, _ := r.Body["note"].(string); !strings.Contains(note, "treat as issued") {
				t.Errorf("unknown outcome says %q, want to treat it as issued", note)
			}
		}
	}
	if len(unknown) != 2 || !unknown[1] || !unknown[3] {
		t.Errorf("intents closed as unknown: %v, want 1 and 3", unknown)
	}
	if got := ofType(rs, typeRecovered); len(got) != 1 || got[0].Body["open_intents"] != 2.0 {
		t.Errorf("recovered records: %v, want one with 2 open intents", got)
	}
	r := mustVerify(t, dir)
	if len(r.Open) != 0 || r.Unknown != 2 || r.Issued != 1 {
		t.Errorf("report %+v, want none open, 2 unknown, 1 issued", r)
	}
	// After an orderly end there is nothing to recover.
	closeJournal(t, openJournal(t, config(dir)))
	if got := ofType(records(t, dir), typeRecovered); len(got) != 1 {
		t.Errorf("%d recovered records after an orderly restart, want 1", len(got))
	}
}

// The last record and the one before it, cut at every byte.
func TestOpenCutsATornTailAtEveryByte(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	mustIntent(t, j, 1)
	mustOutcome(t, j, ca.Outcome{Intent: mustIntent(t, j, 2), Serial: serial(2), Err: ca.Refuse(ca.KindInternal, ca.ReasonInternal, "x")})
	if err := j.Event(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	whole := lines(t, dir)
	text := journalOf(whole...)
	first := len(journalOf(whole[:len(whole)-2]...))
	lockText := readFile(t, filepath.Join(dir, lockName))
	// Recovery waits for the disk most of the time; many at once wait together.
	root := t.TempDir()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for n := first; n <= len(text); n++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := recoverFrom(filepath.Join(root, strconv.Itoa(n)), text[:n], lockText); err != nil {
				t.Errorf("cut at byte %d of %d: %v", n, len(text), err)
			}
		})
	}
	wg.Wait()
}

// recoverFrom opens a journal with the given text, and says what is wrong with
// what comes of it.
func recoverFrom(dir string, text, lockText []byte) error {
	kept := text[:bytes.LastIndexByte(text, '\n')+1]
	torn := int64(len(text) - len(kept))
	file := filepath.Join(dir, segmentName(0))
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(file, text, 0o600),
		os.WriteFile(filepath.Join(dir, lockName), lockText, 0o600)); err != nil {
		return err
	}
	r, err := Verify(dir)
	if err != nil {
		return fmt.Errorf("Verify before: %w", err)
	}
	if r.TornBytes != torn {
		return fmt.Errorf("Verify before = %d bytes torn, want %d", r.TornBytes, torn)
	}
	j, err := Open(context.Background(), config(dir))
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	if err := j.Close(context.Background()); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(got, kept) {
		return errors.New("whole records were lost")
	}
	if want := fmt.Sprintf(`"body":{"cut_bytes":%d,`, torn); !bytes.Contains(got[len(kept):], []byte(want)) {
		return fmt.Errorf("no record with %s in %s", want, got[len(kept):])
	}
	if r, err := Verify(dir); err != nil || len(r.Open) != 0 || r.TornBytes != 0 || r.Unknown < 1 {
		return fmt.Errorf("Verify after = %+v, %w; want none open, nothing torn", r, err)
	}
	return nil
}

// Zeros at the end are what a file system may leave after a power cut.
func TestOpenCutsZerosAtTheEnd(t *testing.T) {
	dir := crash(t)
	file := filepath.Join(dir, segmentName(0))
	writeFile(t, file, append(readFile(t, file), make([]byte, 4096)...))
	closeJournal(t, openJournal(t, config(dir)))
	if r := mustVerify(t, dir); len(r.Open) != 0 {
		t.Errorf("report %+v, want none open", r)
	}
}

func TestOpenSurvivesACrashOfItsOwn(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"new segment without a record": func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, segmentName(5)), nil)
		},
		"new segment with a torn record": func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, segmentName(5)), []byte(`{"v":1,"seq":5,`))
		},
		"copy of a segment left behind": func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, temporary), []byte("half"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := crash(t)
			prepare(t, dir)
			j := openJournal(t, config(dir))
			mustOutcome(t, j, issued(mustIntent(t, j, 9), 9))
			closeJournal(t, j)
			if r := mustVerify(t, dir); r.Issued != 2 || r.Unknown != 2 {
				t.Errorf("report %+v, want 2 issued, 2 unknown", r)
			}
			if _, err := os.Stat(filepath.Join(dir, temporary)); err == nil {
				t.Error("the copy is still there")
			}
		})
	}
	t.Run("first segment without a record", func(t *testing.T) {
		dir := newDir(t)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, segmentName(0)), nil)
		closeJournal(t, openJournal(t, config(dir)))
		mustVerify(t, dir)
	})
}

// A journal that is gone is not a new beginning.
func TestOpenMissesAJournalThatIsGone(t *testing.T) {
	dir := story(t)
	if err := os.Remove(filepath.Join(dir, segmentName(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config(dir)); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("Open without the journal that was there: %v, want that it is gone", err)
	}
	other := story(t)
	writeFile(t, filepath.Join(dir, segmentName(0)), readFile(t, filepath.Join(other, segmentName(0))))
	if _, err := Open(t.Context(), config(dir)); err == nil || !strings.Contains(err.Error(), "not the journal") {
		t.Errorf("Open with another journal: %v, want that it is not the one", err)
	}
}

// After a failed sync the file reads back well, but from memory.
func TestOpenWritesTheLastSegmentAnew(t *testing.T) {
	dir := crash(t)
	file := filepath.Join(dir, segmentName(0))
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	closeJournal(t, openJournal(t, config(dir)))
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Error("after a crash the last segment is the same file, want a synced copy")
	}
	closeJournal(t, openJournal(t, config(dir)))
	again, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(after, again) {
		t.Error("after an orderly end the last segment was copied, want it left alone")
	}
}

func TestManyOpenIntentsAreClosed(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	const n = maxGroup + 100
	done := make(chan error, n)
	for i := range uint64(n) {
		go func() {
			_, err := j.Intent(t.Context(), intent(t, i))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	dir = cloneDir(t, dir)
	closeJournal(t, openJournal(t, config(dir)))
	if r := mustVerify(t, dir); r.Unknown != n || len(r.Open) != 0 {
		t.Errorf("report shows %d unknown, %d open; want %d, 0", r.Unknown, len(r.Open), n)
	}
}

// Overload is shed without a wait for the disk, and takes no place from refusals
// that tell something.
func TestRefusalsInAnOverloadAreCounted(t *testing.T) {
	dir := newDir(t)
	c := config(dir)
	c.RefusalRate, c.RefusalBurst = 1, 1
	j := openJournal(t, c)
	for range 100 {
		if err := j.Refused(t.Context(), request(t), ca.Decision{}, ca.Refuse(ca.KindUnavailable, ca.ReasonOverloaded, "full")); err != nil {
			t.Fatalf("Refused: %v", err)
		}
	}
	if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); err != nil {
		t.Fatalf("Refused: %v", err)
	}
	closeJournal(t, j)
	rs := records(t, dir)
	refused := ofType(rs, typeRefused)
	if len(refused) != 1 || at(refused[0].Body, "refusal.reason") != "policy" {
		t.Errorf("%d refusals recorded one by one, want the one by policy", len(refused))
	}
	counts := ofType(rs, typeRefusals)
	if len(counts) != 1 || at(counts[0].Body, "dropped.overloaded") != 100.0 {
		t.Errorf("counts are %+v, want 100 overloaded", counts)
	}
}

func TestRefusalsBeyondTheLimitAreCounted(t *testing.T) {
	dir := newDir(t)
	c := config(dir)
	c.RefusalRate, c.RefusalBurst = 1, 5
	j := openJournal(t, c)
	for range 100 {
		if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); err != nil {
			t.Fatalf("Refused: %v", err)
		}
	}
	for range 1000 {
		j.CountRefusal(ca.ReasonExpired)
	}
	closeJournal(t, j)
	rs := records(t, dir)
	if got := len(ofType(rs, typeRefused)); got != 5 {
		t.Errorf("%d refusals recorded one by one, want 5", got)
	}
	counts := ofType(rs, typeRefusals)
	if len(counts) != 1 {
		t.Fatalf("%d records of counts, want 1", len(counts))
	}
	if got := at(counts[0].Body, "dropped.policy"); got != 95.0 {
		t.Errorf("dropped refusals by policy: %v, want 95", got)
	}
	if got := at(counts[0].Body, "unverified.expired"); got != 1000.0 {
		t.Errorf("unverified refusals as expired: %v, want 1000", got)
	}
	refused := ofType(rs, typeRefused)[0]
	for path, want := range map[string]any{
		"refusal.reason": "policy", "refusal.kind": "denied", "refusal.cause": "no",
		"identity.subject": "repo:a/b", "decision.rule": "developers", "key.kind": "ecdsa-p256",
	} {
		if got := at(refused.Body, path); got != want {
			t.Errorf("refusal has %s = %v, want %v", path, got, want)
		}
	}
}
