package auditor

import (
	"fmt"
	"slices"
	"testing"
	"time"
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
