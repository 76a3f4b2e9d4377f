package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fixedJournal is the same on every run, so that corpora keep their meaning.
func fixedJournal(t testing.TB) []byte {
	t.Helper()
	one, two := serial(1), serial(2)
	var out []byte
	c := newChain()
	for _, r := range []struct {
		typ, body string
		effect    effect
	}{
		{typeGenesis, `{"format":"mayfly audit journal","id":"x","hash":"sha256"}`, effect{}},
		{typeIntent, fmt.Sprintf(`{"certificate":{"serial":"%x"}}`, one), effect{opens: true, serial: one}},
		{typeIntent, fmt.Sprintf(`{"certificate":{"serial":"%x"}}`, two), effect{opens: true, serial: two}},
		{typeOutcome, fmt.Sprintf(`{"intent":1,"serial":"%x","result":"issued"}`, one), effect{closes: true, intent: 1, serial: one, result: resultIssued}},
		{typeEvent, `{"kind":"stop","facts":{}}`, effect{}},
	} {
		var err error
		out, err = c.seal(out, header{time: testTime, node: "ca-1", typ: r.typ}, []byte(r.body), r.effect)
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// FuzzModifiedJournal changes a good journal and demands that what is accepted
// of it is a beginning of the good one, record by record.
func FuzzModifiedJournal(f *testing.F) {
	good := fixedJournal(f)
	f.Add(uint16(0), uint16(0), []byte{})
	f.Add(uint16(10), uint16(1), []byte("2"))
	f.Add(uint16(bytes.IndexByte(good, '\n')+1), uint16(0), good[:bytes.IndexByte(good, '\n')+1])
	f.Add(uint16(0), uint16(bytes.IndexByte(good, '\n')+1), []byte{})
	f.Add(uint16(len(good)-3), uint16(3), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, pos, remove uint16, insert []byte) {
		from := min(int(pos), len(good))
		to := min(from+int(remove), len(good))
		text := append(append(bytes.Clone(good[:from]), insert...), good[to:]...)
		s := newScan()
		err := s.read(context.Background(), "x", bytes.NewReader(text))
		if s.valid > int64(len(good)) || !bytes.Equal(text[:s.valid], good[:s.valid]) {
			t.Fatalf("accepted %q, which is not how the journal begins", text[:s.valid])
		}
		if err == nil && s.torn == 0 && s.valid != int64(len(text)) {
			t.Fatalf("no error, nothing torn, and %d of %d bytes read", s.valid, len(text))
		}
	})
}

// FuzzRecovery opens whatever bytes a disk may hold. Either that is refused and
// left alone, or the journal goes on from its whole records and is sound.
func FuzzRecovery(f *testing.F) {
	good := fixedJournal(f)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Add([]byte("\n"))
	f.Add(make([]byte, 100))
	f.Add(append(bytes.Clone(good), good...))
	dir := filepath.Join(f.TempDir(), "journal")
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, file := range segmentFiles(t, dir) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(dir, lockName), nil)
		file := filepath.Join(dir, segmentName(0))
		writeFile(t, file, text)
		_, verr := Verify(dir)
		j, err := Open(context.Background(), config(dir))
		if (err == nil) != (verr == nil) {
			t.Fatalf("Open: %v, but Verify: %v", err, verr)
		}
		got := readFile(t, file)
		if err != nil {
			if !bytes.Equal(got, text) {
				t.Fatalf("a refused journal was changed from %q to %q", text, got)
			}
			return
		}
		closeJournal(t, j)
		if kept := text[:bytes.LastIndexByte(text, '\n')+1]; !bytes.HasPrefix(got, kept) {
			t.Fatalf("whole records were lost: %q became %q", text, got)
		}
		if r := mustVerify(t, dir); len(r.Open) != 0 {
			t.Fatalf("intents %v are still open", r.Open)
		}
	})
}

// FuzzParseLine: what is accepted is what would be written.
func FuzzParseLine(f *testing.F) {
	for line := range bytes.Lines(fixedJournal(f)) {
		f.Add(bytes.TrimSuffix(line, []byte("\n")), true)
		f.Add(line[:len(line)-1-sumLength], false)
	}
	f.Fuzz(func(t *testing.T, line []byte, whole bool) {
		if !whole { // a content with the checksum that fits
			sum := sha256.Sum256(line)
			line = fmt.Appendf(bytes.Clone(line), `%s%x"}`, sumMember, sum)
		}
		h, body, err := parseLine(line)
		if err != nil {
			return
		}
		if again := appendLine(nil, h, body); !bytes.Equal(again, line) {
			t.Fatalf("accepted %q, would write %q", line, again)
		}
	})
}
