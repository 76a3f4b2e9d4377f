package audit

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// story writes a small journal of one segment: 0 genesis, 1 to 3 intents, 4 and
// 5 outcomes, 6 refused, 7 event, 8 outcome, 9 closed.
func story(t testing.TB) string {
	t.Helper()
	dir := newDir(t)
	j := openJournal(t, config(dir))
	for n := range uint64(3) {
		mustIntent(t, j, n+1)
	}
	mustOutcome(t, j, issued(2, 2))
	mustOutcome(t, j, ca.Outcome{Intent: 1, Serial: serial(1), Err: ca.Refuse(ca.KindUnavailable, ca.ReasonLogFailed, "down")})
	if err := j.Refused(t.Context(), request(t), decision(t), ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no")); err != nil {
		t.Fatal(err)
	}
	if err := j.Event(t.Context(), "self-test"); err != nil {
		t.Fatal(err)
	}
	mustOutcome(t, j, issued(3, 3))
	closeJournal(t, j)
	return dir
}

func journalOf(lines ...[]byte) []byte {
	var out []byte
	for _, line := range lines {
		out = append(append(out, line...), '\n')
	}
	return out
}

func TestVerifyNamesTheFirstBadRecord(t *testing.T) {
	dir := story(t)
	file := filepath.Join(dir, segmentName(0))
	whole := lines(t, dir)
	if len(whole) != 10 {
		t.Fatalf("story has %d records, want 10", len(whole))
	}
	last := len(whole) - 1
	check := func(what string, text []byte, line int) {
		t.Helper()
		writeFile(t, file, text)
		_, err := Verify(dir)
		badAt(t, what, err, line, uint64(line-1))
		// What Verify refuses, the service does not start on.
		if j, err := Open(t.Context(), config(dir)); err == nil {
			t.Errorf("%s: Open succeeded", what)
			closeJournal(t, j)
		}
		if got := readFile(t, file); !bytes.Equal(got, text) {
			t.Errorf("%s: Open changed the journal that it refused", what)
		}
	}
	for k := range whole {
		line := whole[k]
		edited := bytes.Replace(line, []byte(`"node":"ca-1"`), []byte(`"node":"ca-2"`), 1)
		check("edited", journalOf(slices.Concat(whole[:k], [][]byte{edited}, whole[k+1:])...), k+1)
		check("cut short", journalOf(slices.Concat(whole[:k], [][]byte{line[:len(line)/2]}, whole[k+1:])...), k+1)
		check("emptied", journalOf(slices.Concat(whole[:k], [][]byte{nil}, whole[k+1:])...), k+1)
		check("padded", journalOf(slices.Concat(whole[:k], [][]byte{append(bytes.Clone(line), ' ')}, whole[k+1:])...), k+1)
		check("duplicated", journalOf(slices.Concat(whole[:k+1], whole[k:])...), k+2)
		if k < last {
			check("deleted", journalOf(slices.Concat(whole[:k], whole[k+1:])...), k+1)
			swapped := slices.Clone(whole)
			swapped[k], swapped[k+1] = swapped[k+1], swapped[k]
			check("exchanged with the next", journalOf(swapped...), k+1)
		}
	}
	writeFile(t, file, journalOf(whole...))
	mustVerify(t, dir)
}

// Every single byte matters, in every record.
func TestVerifyFindsEveryFlippedBit(t *testing.T) {
	whole := lines(t, story(t))
	c := newChain()
	for k, line := range whole {
		text := journalOf(line)
		if k+1 < len(whole) {
			text = journalOf(line, whole[k+1])
		}
		for pos := range len(line) + 1 {
			bad := bytes.Clone(text)
			bad[pos] ^= 1 << (pos % 8)
			s := newScan()
			s.chain = c // a refusal leaves it as it is
			err := s.read(t.Context(), "x", bytes.NewReader(bad))
			if pos == len(text)-1 {
				// Without its newline the last record is unfinished.
				if err != nil || s.torn == 0 {
					t.Errorf("bit flipped in the last newline: error %v, %d bytes torn; want a torn tail", err, s.torn)
				}
				continue
			}
			badAt(t, "bit flipped after "+string(text[max(0, pos-10):pos]), err, 1, uint64(k))
		}
		if err := c.accept(line); err != nil {
			t.Fatalf("accept(%s): %v", line, err)
		}
	}
}

// Someone who recomputes the checksum still breaks the chain, one record later.
func TestVerifyFindsAResealedRecord(t *testing.T) {
	dir := story(t)
	whole := lines(t, dir)
	h, body, err := parseLine(whole[4])
	if err != nil {
		t.Fatal(err)
	}
	whole[4] = appendLine(nil, h, bytes.Replace(body, []byte(`"issued"`), []byte(`"unknown"`), 1))
	writeFile(t, filepath.Join(dir, segmentName(0)), journalOf(whole...))
	_, err = Verify(dir)
	badAt(t, "resealed", err, 6, 5)
}

// Records that fit the chain but not each other: only we could have written
// them, by a bug.
func TestChainRefusesWhatMakesNoSense(t *testing.T) {
	one, two := serial(1), serial(2)
	intent := func(s string) []byte { return []byte(`{"certificate":{"serial":"` + s + `"}}`) }
	outcome := func(rest string) []byte {
		return []byte(`{"intent":1,"serial":"` + hex.EncodeToString(one[:]) + `",` + rest + `}`)
	}
	for _, c := range []struct {
		name, typ, body, want string
	}{
		{"second genesis", typeGenesis, `{}`, "first record"},
		{"unknown type", "gossip", `{}`, "not known"},
		{"body is a list", typeEvent, `[]`, "not a JSON object"},
		{"body is cut", typeEvent, `{"a":`, "not a JSON object"},
		{"intent without serial", typeIntent, `{}`, "20 octets"},
		{"intent with a short serial", typeIntent, string(intent("40")), "20 octets"},
		{"outcome without intent", typeOutcome, `{"serial":"` + hex.EncodeToString(one[:]) + `","result":"issued"}`, "names no intent"},
		{"outcome of another serial", typeOutcome, `{"intent":1,"serial":"` + hex.EncodeToString(two[:]) + `","result":"issued"}`, "want 40"},
		{"outcome without result", typeOutcome, string(outcome(`"x":1`)), "result"},
		{"outcome with a new result", typeOutcome, string(outcome(`"result":"maybe"`)), "result"},
	} {
		ch := newChain()
		for _, r := range []struct {
			typ  string
			body []byte
		}{{typeGenesis, []byte(`{}`)}, {typeIntent, intent(hex.EncodeToString(one[:]))}} {
			line := appendLine(nil, header{seq: ch.next, time: testTime, node: "n", prev: ch.prev, typ: r.typ}, r.body)
			if err := ch.accept(line); err != nil {
				t.Fatalf("accept(%s): %v", line, err)
			}
		}
		line := appendLine(nil, header{seq: 2, time: testTime, node: "n", prev: ch.prev, typ: c.typ}, []byte(c.body))
		before := *ch
		if err := ch.accept(line); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: accept(%s) = %v, want an error with %q", c.name, line, err, c.want)
		}
		if ch.next != before.next || ch.prev != before.prev {
			t.Errorf("%s: the chain moved on after a refusal", c.name)
		}
	}
}

func TestVerifySpansSegments(t *testing.T) {
	dir := newDir(t)
	c := config(dir)
	c.SegmentBytes = 1000
	j := openJournal(t, c)
	for n := range uint64(6) {
		mustOutcome(t, j, issued(mustIntent(t, j, n), n))
	}
	closeJournal(t, j)
	files := segmentFiles(t, dir)
	if r := mustVerify(t, dir); r.Segments != len(files) || r.Segments < 4 {
		t.Fatalf("report shows %d segments, want %d and at least 4", r.Segments, len(files))
	}
	for i, file := range files {
		clone := cloneDir(t, dir)
		if err := os.Remove(filepath.Join(clone, filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(clone)
		if i == len(files)-1 {
			// Nothing inside tells that the end is gone; a head kept elsewhere does.
			seq, hash := j.Head()
			_, err = Verify(clone, Head{seq, hash})
		}
		if err == nil {
			t.Errorf("Verify without segment %d of %d succeeded", i+1, len(files))
		}
	}
	// A torn line is a crash at the very end, and damage anywhere else.
	clone := cloneDir(t, dir)
	second := filepath.Join(clone, filepath.Base(files[1]))
	text := readFile(t, second)
	writeFile(t, second, text[:len(text)-5])
	seq, _ := segmentSeq(filepath.Base(files[1]))
	_, err := Verify(clone)
	badAt(t, "torn in the middle", err, bytes.Count(text, []byte("\n")), seq+uint64(bytes.Count(text, []byte("\n")))-1)
}

func TestVerifyKnowsHeadsKeptElsewhere(t *testing.T) {
	dir := story(t)
	r := mustVerify(t, dir)
	mustVerify(t, dir, r.Head)
	whole := lines(t, dir)
	file := filepath.Join(dir, segmentName(0))
	writeFile(t, file, journalOf(whole[:7]...))
	mustVerify(t, dir) // whole in itself
	_, err := Verify(dir, r.Head)
	badAt(t, "end is missing", err, 8, 7)

	other := story(t)
	_, err = Verify(other, Head{Sequence: 3, Hash: [32]byte{1}}, r.Head)
	badAt(t, "made anew", err, 4, 3)
}

func TestVerifyWantsAJournal(t *testing.T) {
	if _, err := Verify(t.TempDir()); err == nil {
		t.Error("Verify of an empty directory succeeded")
	}
	if _, err := Verify(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("Verify of a missing directory succeeded")
	}
	dir := story(t)
	file := filepath.Join(dir, segmentName(0))
	if err := os.Rename(file, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("away", file); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); err == nil {
		t.Error("Verify followed a symbolic link")
	}
}

func TestReportCountsOutcomes(t *testing.T) {
	dir := newDir(t)
	j := openJournal(t, config(dir))
	mustOutcome(t, j, issued(mustIntent(t, j, 1), 1))
	mustOutcome(t, j, ca.Outcome{Intent: mustIntent(t, j, 2), Serial: serial(2), Err: ca.Refuse(ca.KindUnavailable, ca.ReasonLogFailed, "down")})
	open := mustIntent(t, j, 3)
	r := mustVerify(t, dir)
	if r.Intents != 3 || r.Issued != 1 || r.NotIssued != 1 || r.Unknown != 0 || !slices.Equal(r.Open, []uint64{open}) {
		t.Errorf("report %+v, want 3 intents: 1 issued, 1 not issued, %d open", r, open)
	}
}
