package auditor

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transparency-dev/merkle/compact"
)

// secret is a certificate that no journal knows.
var secret = item{at: began, issuerKey: issuerKey, tbs: []byte("made behind our back")}

// secretly is a log that has nothing but the secret, and then what others log.
func secretly(n uint64) item {
	if n == 0 {
		return secret
	}
	return item{at: began, issuerKey: hash{9}, tbs: fmt.Appendf(nil, "other %d", n)}
}

// A log that never proves what it shows must not keep another one's entry from
// being judged, by showing the same first.
func TestALogThatProvesNothingHidesNoEntryOfAnother(t *testing.T) {
	for name, lies := range map[string][2]func(l *testLog){
		"entries that do not hash": {
			func(l *testLog) {
				l.note = l.sign(300, hash{1}, l.clock.Now())
				l.files["tile/data/001.p/44"] = bundle(0, 1)
			},
			func(l *testLog) { l.files["tile/data/001.p/44"] = bundle(256, 300) },
		},
		"a tree without end": {
			func(l *testLog) { l.note = l.sign(1<<40, hash{1}, l.clock.Now()) },
			func(*testLog) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			liar, honest := newTestLog(t, "liar", o.clock, secretly), newTestLog(t, "honest", o.clock, secretly)
			o.targets.Logs = []Log{liar.target(), honest.target()}
			o.open()
			liar.set(func() { liar.files["tile/data/000"] = bundle(0, 256); lies[0](liar) })
			o.auditor.Round(t.Context()) // the liar's is the first
			honest.grow(1)
			o.auditor.Round(t.Context())
			liar.set(func() { lies[1](liar) })
			for range 3 {
				o.clock.advance(30 * time.Second)
				o.auditor.Round(t.Context())
			}
			is := func(a Alarm) bool { return a.Class == Unexplained && a.Log == "honest" }
			if r := o.auditor.Report(); !slices.ContainsFunc(r.Alarms, is) {
				t.Errorf("the entry is not found: %+v", r)
			}
		})
	}
}

// bundle is some entries of secretly.
func bundle(from, to uint64) (raw []byte) {
	for i := from; i < to; i++ {
		leaf, _ := secretly(i).leaf(i)
		raw = append(raw, leaf...)
	}
	return raw
}

// between is a source that something happens to.
type between struct {
	Source
	head    func(h *Head)
	entries func(ctx context.Context, from uint64) error
	extends func(ctx context.Context) error
}

func (b between) Head(ctx context.Context) (Head, error) {
	h, err := b.Source.Head(ctx)
	if b.head != nil && err == nil {
		b.head(&h)
	}
	return h, err
}

func (b between) Entries(ctx context.Context, head Head, from uint64) ([]Entry, error) {
	if b.entries != nil {
		if err := b.entries(ctx, from); err != nil {
			return nil, err
		}
	}
	return b.Source.Entries(ctx, head, from)
}

func (b between) Extends(ctx context.Context, kept *compact.Range, old, head Head) error {
	if b.extends != nil {
		return b.extends(ctx)
	}
	return b.Source.Extends(ctx, kept, old, head)
}

// A log that is asked for a proof answers when it likes. The others go on.
func TestALogThatIsSlowToExplainItselfHoldsNoOther(t *testing.T) {
	o := newOffice(t)
	liar, honest := newTestLog(t, "liar", o.clock, secretly), newTestLog(t, "honest", o.clock, secretly)
	asked, done := make(chan struct{}), make(chan struct{})
	lying, telling := liar.target(), honest.target()
	lying.Source = between{Source: lying.Source, extends: func(ctx context.Context) error {
		close(asked)
		select {
		case <-done:
			return errors.New("well")
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	telling.Source = between{Source: telling.Source, entries: func(_ context.Context, from uint64) error {
		<-asked
		if from >= 3*tileWidth {
			close(done)
		}
		return nil
	}}
	o.targets.Logs = []Log{lying, telling}
	o.open()
	liar.grow(1)
	liar.set(func() { liar.note = liar.sign(1, hash{1}, o.clock.Now()) })
	honest.grow(4 * tileWidth)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if r := o.auditor.Round(ctx); r.Logs[1].Size != 4*tileWidth {
		t.Errorf("while another log was asked for a proof, %d entries of %d were read", r.Logs[1].Read, 4*tileWidth)
	}
}

// Nor does one that is slow to answer keep the alarm away.
func TestAnAlarmComesInTimeBesideASlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		slow, honest := newTestLog(t, "slow", o.clock, secretly), newTestLog(t, "honest", o.clock, secretly)
		dripping := slow.target()
		dripping.Source = between{Source: dripping.Source, entries: func(ctx context.Context, _ uint64) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		o.targets.Logs = []Log{dripping, honest.target()}
		o.open()
		slow.grow(1)
		honest.grow(1)
		start := time.Now()
		r := o.auditor.Round(t.Context())
		if took := time.Since(start); took > 25*time.Second || len(r.Alarms) == 0 || r.Alarms[0].Class != Unexplained {
			t.Errorf("after %s: %+v; want the alarm, so that it comes within a minute of the entry", took, r.Alarms)
		}
	})
}

// A log that can make findings without end must not crowd out those of another.
func TestFindingsOfOneLogDoNotCrowdOutAnothers(t *testing.T) {
	o := newOffice(t)
	liar, honest := newTestLog(t, "liar", o.clock, numbered), newTestLog(t, "honest", o.clock, secretly)
	o.targets.Logs = []Log{liar.target(), honest.target()}
	for i := range uint64(5) {
		intend(t, o.journal, i, numbered(i))
	}
	o.open()
	liar.grow(5)
	o.auditor.Round(t.Context())
	small := newTestLog(t, "liar", o.clock, numbered)
	small.key, small.public, small.origin = liar.key, liar.public, liar.origin
	o.targets.Logs[0] = small.target()
	for range 1 + maxFindings {
		o.clock.advance(30 * time.Second)
		small.grow(0)
		h, err := o.auditor.logs[0].Source.Head(t.Context())
		o.auditor.logs[0].Source = small.target().Source
		o.auditor.meet(o.auditor.logs[0], h, err, o.clock.Now())
	}
	honest.grow(1)
	r := o.auditor.Round(t.Context())
	if len(r.Alarms) == 0 || r.Alarms[0].Class != Unexplained {
		t.Errorf("the first of %d alarms is %+v, want the entry that nobody knows", len(r.Alarms), r.Alarms[:min(1, len(r.Alarms))])
	}
	if len(r.Alarms) > 100 {
		t.Errorf("one log has made %d findings", len(r.Alarms))
	}
}

// An answer within its bound may be made of entries that are next to nothing.
func TestAnAnswerOfTinyEntriesCostsLittle(t *testing.T) {
	answer := []byte(`{"entries":[` + strings.Repeat(`{},`, maxBundle/3-100) + `{}]}`)
	r := NewRFC6962(func(context.Context, string, int64) ([]byte, error) { return answer, nil }, Key{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := r.Entries(t.Context(), Head{Size: 1000}, 0)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, errEntries) {
		t.Errorf("Entries: %v, want errEntries", err)
	}
	if spent := (after.TotalAlloc - before.TotalAlloc) >> 20; spent > 32 {
		t.Errorf("reading %d MiB took %d MiB of memory", len(answer)>>20, spent)
	}
}

// A log that promises more entries than it ever gives is never proven, and has
// fresh heads all the time.
func TestALogThatIsNeverProvenIsAnAlarm(t *testing.T) {
	o := newOffice(t)
	l := newTestLog(t, "endless", o.clock, secretly)
	target := l.target()
	var stop context.CancelFunc
	target.Source = between{Source: target.Source, head: func(h *Head) { h.Size, h.Root = 1<<40, hash{1} },
		entries: func(ctx context.Context, from uint64) error {
			if from == 0 {
				return nil
			}
			stop() // or a million more
			return ctx.Err()
		}}
	o.targets.Logs = []Log{target}
	o.open()
	reading := func(o *office) Report {
		var ctx context.Context
		ctx, stop = context.WithCancel(t.Context())
		defer stop()
		return o.auditor.Round(ctx)
	}
	l.grow(256)
	for range 5 {
		l.grow(0)
		o.clock.advance(24 * time.Minute)
		if r := reading(o); len(r.Alarms) > 0 && r.Alarms[0].Class != Stale {
			t.Fatalf("too early: %+v", r.Alarms)
		}
	}
	o.clock.advance(25 * time.Minute)
	l.grow(0)
	r := reading(o)
	if !slices.ContainsFunc(r.Alarms, func(a Alarm) bool { return a.Class == Behind && a.Log == "endless" }) {
		t.Errorf("after two hours without proof: %+v", r.Alarms)
	}
}

// A head goes into the journal with its text, which is the log's to choose: it must
// not be able to choose one that the journal does not take.
func TestTheJournalTakesWhateverALogSays(t *testing.T) {
	o := newOffice(t)
	l := newTestLog(t, "wordy", o.clock, secretly)
	l.grow(1)
	var sth []byte
	head := func(root [32]byte) {
		at := o.clock.Now()
		sth = fmt.Appendf(nil, `{"tree_size":1,"timestamp":%d,"sha256_root_hash":"%s","tree_head_signature":"%s","padding":"`,
			at.UnixMilli(), base64.StdEncoding.EncodeToString(root[:]), base64.StdEncoding.EncodeToString(l.treeHead(1, root, at)))
		sth = append(append(sth, bytes.Repeat([]byte{0xff}, maxHead-len(sth)-2)...), `"}`...)
	}
	_, leaf := secretly(0).leaf(0)
	head(leaf)
	target := l.target()
	target.Source = NewRFC6962(func(_ context.Context, path string, limit int64) ([]byte, error) {
		if path == "ct/v1/get-sth" {
			return sth[:min(int64(len(sth)), limit)], nil
		}
		raw, _ := secretly(0).leaf(0)
		end := 8 + 2 + 32 + 3 + len(secret.tbs) + 2 + 8
		return fmt.Appendf(nil, `{"entries":[{"leaf_input":"%s"}]}`, base64.StdEncoding.EncodeToString(append([]byte{0, 0}, raw[:end]...))), nil
	}, l.public)
	o.targets.Logs = []Log{target}
	o.config.Record = func(ctx context.Context, kind string, attrs ...slog.Attr) error {
		err := o.journal.Event(ctx, kind, attrs...)
		if err != nil {
			t.Errorf("%s is not recorded: %v", kind, err)
		}
		return err
	}
	o.open()
	o.round(Unexplained)
	o.clock.advance(time.Second)
	head(hash{1})
	o.round(Unexplained, Forked)
}
