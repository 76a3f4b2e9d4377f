package auditor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What a log showed and could not prove must not pass for a promise kept.
func TestAPromiseIsNotKeptByAnEntryThatWasNeverProven(t *testing.T) {
	for name, promisedFirst := range map[string]bool{"promise, then entry": true, "entry, then promise": false} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			l := newTestLog(t, "liar", o.clock, func(n uint64) item { return secretly(n + 1) })
			o.targets.Logs = []Log{l.target()}
			o.open()
			intent := intend(t, o.journal, 0, numbered(0))
			if promisedFirst {
				promiseIn(t, o.journal, intent, 0, l, numbered(0), 0)
			}
			shown, _ := numbered(0).leaf(0)
			l.grow(300)
			l.set(func() {
				l.files["tile/data/000"] = append(shown, bundle(1, 256)...)
				l.files["tile/data/001.p/44"] = []byte{1}
			})
			o.round(Damaged)
			if !promisedFirst {
				promiseIn(t, o.journal, intent, 0, l, numbered(0), 0)
				o.round(Damaged)
			}
			l.set(func() { delete(l.files, "tile/data/001.p/44") })
			o.round(Damaged)
			l.set(func() { clear(l.files) })
			o.round(Missing)
		})
	}
}

// A disk that cannot be read for a moment decides nothing.
func TestAnIndexThatCannotBeReadHidesNothing(t *testing.T) {
	o, l := withLog(t, 1)
	promiseIn(t, o.journal, intend(t, o.journal, 1, numbered(1)), 1, l, numbered(1), 1)
	o.round()
	j, s := o.auditor.journals[0], o.auditor.logs[0]
	away := &run{path: filepath.Join(t.TempDir(), "away"), header: runHeader{Count: 1, From: began.Add(-48 * time.Hour), To: began.Add(-24 * time.Hour)}}
	before := [][]*run{j.index.list, s.index.list}
	j.index.list, s.index.list = append(j.index.list, away), append(s.index.list, away)
	l.items = func(n uint64) item {
		if n == 0 {
			return numbered(0)
		}
		return secretly(n - 1)
	}
	l.grow(2)
	o.auditor.Round(t.Context())
	j.index.list, s.index.list = before[0], before[1]
	o.clock.advance(time.Second)
	o.round(Unexplained, Missing)
}

// Whoever removes the state removes what was found: that shows.
func TestAStateThatIsGoneIsMissed(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	if err := o.auditor.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.config.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	o.open()
	o.round(Forgotten)
	o.restart()
	o.clock.advance(time.Second)
	l.grow(1)
	o.round(Unexplained, Forgotten)
}

// The service tries again when the audit could not be opened.
func TestOpenMayBeTriedAgain(t *testing.T) {
	o, _ := withLog(t, 1)
	o.config.Dir, o.config.Registerer = o.path("other"), prometheus.NewRegistry()
	inTheWay := filepath.Join(o.config.Dir, stateName)
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if a, err := Open(o.config); err == nil {
		_ = a.Close()
		t.Fatal("a directory passes for a state")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	a, err := Open(o.config)
	if err != nil {
		t.Fatalf("Open again: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
