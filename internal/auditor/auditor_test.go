package auditor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// withLog is an office with a log of numbered certificates that the journal knows,
// SCTs included.
func withLog(t *testing.T, n uint64) (*office, *testLog) {
	t.Helper()
	o := newOffice(t)
	l := newTestLog(t, "box", o.clock, numbered)
	o.targets.Logs = []Log{l.target()}
	for i := range n {
		promiseIn(t, o.journal, intend(t, o.journal, i, numbered(i)), i, l, numbered(i), int64(i))
	}
	l.grow(n)
	o.open()
	return o, l
}

func TestALogAndAJournalThatAgree(t *testing.T) {
	o, l := withLog(t, 600)
	r := o.round()
	if got := r.Logs[0]; got.Size != 600 || got.Ours != 600 || got.Others != 0 || !r.CaughtUp || r.Pending != 0 || r.Promised != 0 {
		t.Errorf("report %+v", r)
	}
	if want := []string{"log.head"}; !slices.Equal(o.events, want) {
		t.Errorf("recorded %q, want %q", o.events, want)
	}
	// A head that is only newer is not worth a record, nor is one within the interval.
	o.clock.advance(20 * time.Second)
	l.grow(0)
	o.round()
	if len(o.events) != 1 {
		t.Errorf("recorded %q", o.events)
	}
}

func TestAnEntryThatNoJournalKnowsIsAnAlarm(t *testing.T) {
	o, l := withLog(t, 300)
	o.round()
	o.clock.advance(30 * time.Second)
	l.grow(1)
	r := o.round(Unexplained)
	if text := r.Alarms[0].Text; !strings.Contains(text, "entry 300") {
		t.Errorf("alarm %q does not name the entry", text)
	}
	if !slices.Contains(o.events, "log.alarm") {
		t.Errorf("recorded %q, want an alarm", o.events)
	}
	// It neither goes away by itself nor by a restart.
	o.round(Unexplained)
	o.restart()
	o.round(Unexplained)
	if o.auditor.Well() {
		t.Error("well, with an alarm")
	}
	// Somebody looked into it.
	if err := Accept(o.config.Dir, r.Alarms[0].ID, "incident 7: test with the offline copy of the key"); err != nil {
		t.Fatal(err)
	}
	o.round()
	o.restart()
	o.round()
}

func TestAJournalThatWasForgottenExplains(t *testing.T) {
	o, l := withLog(t, 10)
	other := openJournal(t, o.path("replica"), o.clock, 0)
	intend(t, other, 10, numbered(10))
	l.grow(1)
	// The harmless cause is by far the most frequent, so it is named first, with the
	// journals that were read.
	alarm := o.round(Unexplained).Alarms[0]
	if want := "no journal knows it (read: own): "; !strings.Contains(alarm.Text, want) {
		t.Errorf("alarm %q, want %q in it", alarm.Text, want)
	}
	if want := "first see that log_audit.journals (or --journal) names the journal of every other service"; !strings.HasPrefix(alarm.Remedy, want) {
		t.Errorf("remedy %q, want it to begin with %q", alarm.Remedy, want)
	}
	o.targets.Journals = append(o.targets.Journals, Journal{Name: "replica", Dir: o.path("replica"), Live: true})
	o.round()
}

func TestACopyThatLagsIsWaitedFor(t *testing.T) {
	o, l := withLog(t, 10)
	original, copied := o.path("replica"), o.path("copy")
	other := openJournal(t, original, o.clock, 0)
	copyJournal(t, original, copied)
	o.targets.Journals = append(o.targets.Journals, Journal{Name: "replica", Dir: copied})
	intend(t, other, 10, numbered(10))
	l.grow(2) // the last one is known to nobody
	if r := o.round(); r.Pending != 2 {
		t.Fatalf("%d entries wait, want 2", r.Pending)
	}
	// A copy that has the intent, but says nothing about the time after the entry was
	// seen, explains one and does not judge the other.
	copyJournal(t, original, copied)
	o.restart()
	if r := o.round(); r.Pending != 1 {
		t.Fatalf("%d entries wait, want 1", r.Pending)
	}
	o.clock.advance(10 * time.Second)
	l.grow(0)
	if err := other.Mark(); err != nil {
		t.Fatal(err)
	}
	o.round() // not copied yet
	copyJournal(t, original, copied)
	o.round(Unexplained)
}

func TestACopyThatStandsStillIsAnAlarm(t *testing.T) {
	o, l := withLog(t, 10)
	openJournal(t, o.path("replica"), o.clock, 0)
	copyJournal(t, o.path("replica"), o.path("copy"))
	o.targets.Journals = append(o.targets.Journals, Journal{Name: "replica", Dir: o.path("copy")})
	l.grow(1)
	o.round()
	o.clock.advance(11 * time.Minute)
	l.grow(0)
	o.round(Behind)
}

func TestAMissingJournalIsAnAlarm(t *testing.T) {
	o, _ := withLog(t, 1)
	o.targets.Journals = append(o.targets.Journals, Journal{Name: "replica", Dir: o.path("nowhere")})
	o.round(BadJournal)
}

func TestEntriesOfOthersAreCounted(t *testing.T) {
	o := newOffice(t)
	l := newTestLog(t, "shared", o.clock, func(n uint64) item {
		i := numbered(n)
		i.issuerKey = hash{9}
		return i
	})
	l.grow(300)
	o.targets.Logs = []Log{l.target()}
	o.open()
	if r := o.round(); r.Logs[0].Others != 300 || r.Logs[0].Ours != 0 {
		t.Errorf("report %+v", r.Logs[0])
	}
}

func TestAKeyThatIsNotConfiguredAnyMoreIsStillOurs(t *testing.T) {
	o, l := withLog(t, 10)
	o.targets.Issuers = nil
	l.grow(1)
	o.round(Unexplained)
}

func TestAPromiseThatIsNotKept(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	// The certificate of intent 10 has an SCT for index 3, where another one is.
	promiseIn(t, o.journal, intend(t, o.journal, 10, numbered(10)), 10, l, numbered(10), 3)
	o.round(Missing)
	o.restart()
	o.round(Missing)
}

func TestAPromiseMayBeKeptLater(t *testing.T) {
	o, l := withLog(t, 10)
	promiseIn(t, o.journal, intend(t, o.journal, 10, numbered(10)), 10, l, numbered(10), 10)
	if r := o.round(); r.Promised != 1 {
		t.Fatalf("%d promises, want 1", r.Promised)
	}
	// No later than the log promises, though.
	o.clock.advance(2 * time.Minute)
	l.grow(0)
	o.round(Missing)
	l.grow(1)
	o.round()
}

func TestOldEntriesMayBeSubmittedAgain(t *testing.T) {
	o := newOffice(t)
	items := func(n uint64) item {
		if n < 40 {
			return numbered(n)
		}
		again := numbered(n - 40) // with the time of its second submission
		again.at = began.AddDate(1, 0, 0)
		return again
	}
	o.journal = nil
	journal := openJournal(t, o.path("small"), o.clock, 4096) // many segments, so that there are runs
	o.targets.Journals = []Journal{{Name: "own", Dir: o.path("small"), Live: true}}
	l := newTestLog(t, "box", o.clock, items)
	o.targets.Logs = []Log{l.target()}
	for i := range uint64(40) {
		intend(t, journal, i, numbered(i))
	}
	l.grow(40)
	o.open()
	o.round()
	if len(o.auditor.journals[0].index.list) < 5 {
		t.Fatalf("%d runs", len(o.auditor.journals[0].index.list))
	}
	o.clock.advance(365 * 24 * time.Hour)
	l.grow(40)
	o.restart()
	o.round()
}

func TestAForkIsAnAlarm(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	o.clock.advance(time.Second)
	l.set(func() { l.note = l.sign(10, hash{1}, o.clock.Now()) })
	o.round(Forked)
	l.grow(0)
	o.round(Forked) // it was seen
	o.restart()
	o.round(Forked)
}

func TestATreeThatDoesNotExtendTheLastIsAFork(t *testing.T) {
	o, l := withLog(t, 300)
	o.round()
	o.clock.advance(time.Second)
	// The same log with another past: entry 5 is another one.
	other := newTestLog(t, "box", o.clock, func(n uint64) item {
		if n == 5 {
			return numbered(1000)
		}
		return numbered(n)
	})
	other.key, other.public, other.origin = l.key, l.public, l.origin
	other.grow(301)
	o.targets.Logs[0] = other.target()
	intend(t, o.journal, 300, numbered(300))
	o.round(Forked)
	// And after a restart, from what was kept.
	o.restart()
	o.round(Forked)
}

func TestATreeThatShrinksIsAnAlarm(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	small := newTestLog(t, "box", o.clock, numbered)
	small.key, small.public, small.origin = l.key, l.public, l.origin
	o.clock.advance(time.Second)
	small.grow(5)
	o.targets.Logs[0] = small.target()
	o.round(Shrunk)
}

func TestAnOlderHeadFromACacheIsNoAlarm(t *testing.T) {
	o, l := withLog(t, 10)
	old := slices.Clone(l.note)
	o.clock.advance(time.Second)
	intend(t, o.journal, 10, numbered(10))
	l.grow(1)
	o.round()
	l.set(func() { l.files["checkpoint"] = old })
	o.round()
	o.clock.advance(2 * time.Minute)
	o.round(Stale)
}

func TestHeadsThatAreNotToBeBelieved(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	other := newTestLog(t, "box", o.clock, numbered)
	other.grow(10)
	l.set(func() { l.files["checkpoint"] = other.note })
	o.round(Impostor)
	l.set(func() { l.files["checkpoint"] = nil; delete(l.files, "checkpoint") })
	o.round()
	l.set(func() { l.note = l.sign(10, o.auditor.logs[0].saved.Root, o.clock.Now().Add(2*time.Minute)) })
	o.round(Future)
}

func TestATileThatDoesNotHashIsAnAlarm(t *testing.T) {
	for name, damage := range map[string]func(raw []byte) []byte{
		"flipped bit": func(raw []byte) []byte { raw[60] ^= 1; return raw },
		"short":       func(raw []byte) []byte { return raw[:len(raw)-1] },
		"an entry less": func(raw []byte) []byte {
			leaf, _ := numbered(9).leaf(9)
			return raw[:len(raw)-len(leaf)]
		},
		"exchanged": func(raw []byte) []byte {
			a, _ := numbered(0).leaf(0)
			return append(slices.Clone(a), raw...)[:len(raw)]
		},
		"empty": func([]byte) []byte { return []byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			o, l := withLog(t, 10)
			raw, err := l.fetch(t.Context(), "tile/data/000.p/10", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			l.set(func() { l.files["tile/data/000.p/10"] = damage(slices.Clone(raw)) })
			o.round(Damaged) // and no alarm about an entry that is not what it seems
			l.set(func() { clear(l.files) })
			o.round()
		})
	}
}

func TestALogThatIsAwayIsAnAlarmInTime(t *testing.T) {
	o, l := withLog(t, 10)
	o.round()
	l.set(func() { l.failed = errors.New("connection refused") })
	if r := o.round(); r.CaughtUp || r.Logs[0].Problem == "" {
		t.Errorf("report %+v does not say that the log could not be read", r)
	}
	o.clock.advance(11 * time.Minute)
	o.round(Stale, Unreachable)
	l.set(func() { l.failed = nil })
	l.grow(0)
	o.round()
}

func TestDamageToTheStateIsSetAside(t *testing.T) {
	o, l := withLog(t, 10)
	l.grow(1)
	o.round(Unexplained)
	if err := o.auditor.Close(); err != nil {
		t.Fatal(err)
	}
	damageFile(t, o.config.Dir+"/state.json")
	o.open()
	o.round(Unexplained, Forgotten)
}

func TestOneProcessAuditsWithADirectory(t *testing.T) {
	o, _ := withLog(t, 1)
	if _, err := Open(o.config); !errors.Is(err, ErrLocked) {
		t.Errorf("Open: %v, want %v", err, ErrLocked)
	}
}
