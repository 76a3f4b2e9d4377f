package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// times of the tests below, in hours from testTime.
func hour(h float64) time.Time { return testTime.Add(time.Duration(h * float64(time.Hour))) }

// entry is one chain of a configuration: which PKI, and when.
type entry struct {
	name, authority           string
	pki                       int
	publish, activate, retire float64 // hours; 0 for publish and retire is none
	minLead                   time.Duration
	emergency                 bool
}

func (e entry) chain(t testing.TB, pkis []pki) *Chain {
	t.Helper()
	c := *pkis[e.pki].known(t)
	c.name, c.authority, c.emergency = e.name, orDefault(e.authority), e.emergency
	c.activate, c.publishFrom, c.retire = hour(e.activate), time.Time{}, time.Time{}
	if e.publish != 0 {
		c.publishFrom = hour(e.publish)
	}
	if e.retire != 0 {
		c.retire = hour(e.retire)
	}
	if e.minLead != 0 {
		c.minLead = e.minLead
	}
	return &c
}

// made keeps the chain of each PKI: only names and times differ below.
var made sync.Map // of *Chain by the issuing certificate

func (p pki) known(t testing.TB) *Chain {
	t.Helper()
	if c, ok := made.Load(p.intermediate); ok {
		return c.(*Chain)
	}
	c := p.chain(t)
	made.Store(p.intermediate, c)
	return c
}

func makePKIs(t testing.TB, n int) []pki {
	t.Helper()
	pkis := make([]pki, n)
	for i := range pkis {
		pkis[i] = newPKI(t, p256(t), func(r, c *x509.Certificate) {
			r.Subject.CommonName, c.Subject.CommonName = fmt.Sprintf("Root %d", i), fmt.Sprintf("CA %d", i)
		})
	}
	return pkis
}

// reload makes the authority that follows before at a time.
func reload(t testing.TB, before *Authority, at time.Time, chains ...*Chain) (*Authority, error) {
	t.Helper()
	return New(Config{
		Chains: chains, Recorder: &memRecorder{t: t}, WithoutLog: true, Previous: before,
		Policy: func(context.Context, Request) (Decision, error) { return Decision{}, nil },
		Clock:  func() time.Time { return at },
	})
}

func TestSuccessionGivesClientsTime(t *testing.T) {
	pkis := makePKIs(t, 3)
	old := entry{name: "old", pki: 0, activate: -1000}
	for _, tc := range []struct {
		name   string
		before []entry
		at     float64 // of the reload; the process started at 0
		after  []entry
		want   string // "" is accepted
	}{
		{"nothing changes", []entry{old}, 1, []entry{old}, ""},
		{"exactly the lead", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: 25}}, ""},
		{"a second less", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: 25 - 1./3600}}, `chain "new" would sign from 2026-11-23T10:30:14Z, 23h59m59s after`},
		{"says what to write", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: 2}}, "Write activate: 2026-11-23T10:30:16Z or later"},
		{"at once", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: -1}}, "would sign from"},
		{"at once in an emergency", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: 1, emergency: true}}, ""},
		{"lead of its own", []entry{old}, 1, []entry{old, {name: "new", pki: 1, activate: 3, minLead: time.Hour}}, ""},
		{"published later than loaded", []entry{old}, 1, []entry{old, {name: "new", pki: 1, publish: 10, activate: 30}}, "20h0m0s after"},
		{"a published past that no client saw", []entry{old}, 1, []entry{old, {name: "new", pki: 1, publish: -100, activate: 2}}, "1h0m0s after"},
		{"published long ago, now brought forward", []entry{old, {name: "new", pki: 1, activate: 100}}, 30, []entry{old, {name: "new", pki: 1, activate: 30}}, ""},
		{"published from later, now brought forward", []entry{old, {name: "new", pki: 1, publish: 20, activate: 100}}, 30, []entry{old, {name: "new", pki: 1, publish: 20, activate: 31}}, "11h0m0s after"},
		{"published at once after all", []entry{old, {name: "new", pki: 1, publish: 20, activate: 100}}, 1, []entry{old, {name: "new", pki: 1, activate: 26}}, ""},
		{"publication put off", []entry{old, {name: "new", pki: 1, activate: 30}}, 1, []entry{old, {name: "new", pki: 1, publish: 29, activate: 30}}, "1h0m0s after"},
		{"the start had decided it", []entry{old, {name: "new", pki: 1, activate: 2}}, 1, []entry{old, {name: "new", pki: 1, activate: 2}}, ""},
		{"sooner than the start had decided", []entry{old, {name: "new", pki: 1, activate: 3}}, 1, []entry{old, {name: "new", pki: 1, activate: 2}}, "2h0m0s after"},
		{"later than the start had decided", []entry{old, {name: "new", pki: 1, activate: 2}}, 1, []entry{old, {name: "new", pki: 1, activate: 3}}, ""},
		{"one that never signs", []entry{old}, 1, []entry{old, {name: "late", pki: 1, activate: -2000}}, ""},
		{"one that had retired before it could", []entry{old}, 1, []entry{{name: "x", pki: 1, activate: -3000, retire: -2500}, old}, ""},
		{"first of an authority", []entry{old}, 1, []entry{old, {name: "team", authority: "team", pki: 1, activate: 1}}, ""},
		{"second of a new authority", []entry{old}, 1, []entry{old, {name: "team", authority: "team", pki: 1, activate: 1}, {name: "team2", authority: "team", pki: 2, activate: 5}}, `chain "team2" would sign`},
		{"new after a retired one", []entry{{name: "old", pki: 0, activate: -1000, retire: -10}}, 1, []entry{{name: "old", pki: 0, activate: -1000, retire: -10}, {name: "new", pki: 1, activate: 1}}, `chain "new" would sign`},
		{"moved to another authority", []entry{old, {name: "team", authority: "team", pki: 1, activate: -1000}}, 1, []entry{old, {name: "team", authority: "team", pki: 1, activate: -1000}, {name: "guest", pki: 1, activate: 1}}, `chain "guest" would sign`},
		{"the signing one is gone", []entry{old, {name: "new", pki: 1, activate: 100}}, 50, []entry{{name: "new", pki: 1, activate: 50}}, `chain "old" signs now, and is not published any more`},
		{"gone in an emergency", []entry{old}, 1, []entry{{name: "new", pki: 1, activate: 1, emergency: true}}, ""},
		{"the signing one retires first", []entry{old}, 1, []entry{{name: "old", pki: 0, activate: -1000, retire: 0.5}}, ""},
		{"then it goes", []entry{{name: "old", pki: 0, activate: -1000, retire: 0.5}, {name: "new", pki: 1, activate: 100}}, 1, []entry{{name: "new", pki: 1, activate: 100}}, ""},
		{"an authority goes while it signs", []entry{old, {name: "team", authority: "team", pki: 1, activate: -1}}, 1, []entry{old}, `chain "team" signs now`},
		{"hidden from clients", []entry{old}, 1, []entry{{name: "old", pki: 0, publish: 5, activate: 50}}, "not published any more"},
		{"renamed", []entry{old}, 1, []entry{{name: "older", pki: 0, activate: -1000}}, ""},
		{"another key under the same name", []entry{old}, 1, []entry{{name: "old", pki: 1, activate: -1000}}, "an entry with a name of its own"},
		{"an emergency that is over, for another key", []entry{{name: "old", pki: 0, activate: -1000, emergency: true}}, 30, []entry{{name: "old", pki: 1, activate: -1000, emergency: true}}, "an entry with a name of its own"},
		{"an emergency that is over, to drop what signs", []entry{{name: "old", pki: 0, activate: -1000, emergency: true}, {name: "new", pki: 1, activate: -1}}, 30,
			[]entry{{name: "old", pki: 0, activate: -1000, emergency: true}}, `chain "new" signs now, and is not published any more`},
		{"back to the old key in an emergency", []entry{old, {name: "new", pki: 1, activate: -1}}, 30, []entry{{name: "old", pki: 0, activate: -1000, emergency: true}}, ""},
		{"an emergency that is over, moved to another authority", []entry{old, {name: "team", authority: "team", pki: 1, activate: -10, retire: 10, emergency: true}}, 30,
			[]entry{old, {name: "team", pki: 1, activate: 30, emergency: true}}, "does not count"},
		{"an emergency whose entry is edited", []entry{old, {name: "new", pki: 1, activate: 40, emergency: true}}, 1, []entry{old, {name: "new", pki: 1, activate: 2, emergency: true}}, ""},
		{"the last one signs again", []entry{old, {name: "new", pki: 1, activate: -10}}, 30, []entry{{name: "old", pki: 0, activate: 30}, {name: "new", pki: 1, activate: -10}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chains := func(entries []entry) (list []*Chain) {
				for _, e := range entries {
					list = append(list, e.chain(t, pkis))
				}
				return list
			}
			before, err := reload(t, nil, hour(0), chains(tc.before)...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = reload(t, before, hour(tc.at), chains(tc.after)...)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("reload at %v h: %v, want an error that says %q", tc.at, err, tc.want)
			}
		})
	}
}

func TestRenewedCertificateIsNoNewKey(t *testing.T) {
	rootKey, key := p256(t), p256(t)
	root := &x509.Certificate{
		SerialNumber: newPKI(t, key, nil).root.SerialNumber, NotBefore: testTime.AddDate(-1, 0, 0), NotAfter: testTime.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root.Subject.CommonName = "Root"
	inter := *root
	inter.Subject.CommonName = "CA"
	root = signCert(t, root, root, rootKey.Public(), rootKey)
	chain := func(name string, years int, activate time.Time) *Chain {
		template := inter
		template.NotAfter = testTime.AddDate(years, 0, 0)
		c, err := NewChain(ChainConfig{Name: name, Certificates: []*x509.Certificate{signCert(t, &template, root, key.Public(), rootKey), root},
			Signer: &memSigner{Signer: key}, Activate: activate}, testTime)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before, err := reload(t, nil, hour(0), chain("ca", 1, hour(-1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, before, hour(1), chain("ca-renewed", 5, hour(1))); err != nil {
		t.Errorf("a renewed certificate for the key that clients know must wait: %v", err)
	}
}

func TestPublicationIsRememberedAcrossReloads(t *testing.T) {
	pkis := makePKIs(t, 2)
	old, next := entry{name: "old", activate: -1000}, entry{name: "new", pki: 1, activate: 100}
	a, err := reload(t, nil, hour(0), old.chain(t, pkis))
	for _, at := range []float64{1, 5, 20} { // reloads that change nothing
		if err != nil {
			t.Fatal(err)
		}
		a, err = reload(t, a, hour(at), old.chain(t, pkis), next.chain(t, pkis))
	}
	if err != nil {
		t.Fatal(err)
	}
	next.activate = 25
	if _, err := reload(t, a, hour(24), old.chain(t, pkis), next.chain(t, pkis)); err != nil {
		t.Errorf("published at hour 1, may sign at hour 25: %v", err)
	}
	if a, err = reload(t, a, hour(21), old.chain(t, pkis)); err != nil { // withdrawn
		t.Fatal(err)
	}
	if _, err := reload(t, a, hour(24), old.chain(t, pkis), next.chain(t, pkis)); err == nil {
		t.Error("a chain that was withdrawn in between counts as published since its first time")
	}
}

// model is what clients see of a process, hour by hour: the rule of the design,
// written down a second time and worse.
type model struct {
	since map[int]int // by PKI: the hour since which it is in the bundle without a gap
}

func (m *model) step(config []entry, h int) {
	seen := map[int]bool{}
	for _, e := range config {
		if e.publish == 0 || float64(h) >= e.publish {
			seen[e.pki] = true
		}
	}
	for p := range m.since {
		if !seen[p] {
			delete(m.since, p)
		}
	}
	for p := range seen {
		if _, ok := m.since[p]; !ok {
			m.since[p] = h
		}
	}
}

func signer(config []entry, h int) (entry, bool) {
	var best entry
	found := false
	for _, e := range config {
		if e.activate <= float64(h) && (!found || e.activate > best.activate) {
			best, found = e, true
		}
	}
	return best, found && (best.retire == 0 || float64(h) < best.retire)
}

// surprised reports whether a configuration that comes into force at an hour
// would surprise clients at it or later, and the one in force would not.
func (m *model) surprised(inForce, next []entry, now int) bool {
	if s, ok := signer(inForce, now); ok {
		gone := true
		for _, e := range next {
			gone = gone && (e.pki != s.pki || e.publish != 0 && e.publish > float64(now))
		}
		n, signs := signer(next, now)
		over := n.activate <= s.activate && slices.ContainsFunc(inForce, func(e entry) bool { return e.pki == n.pki && e.emergency })
		if gone && (!signs || !n.emergency || over) {
			return true
		}
	}
	first := func(config []entry, evenEmergencies bool) map[int][2]int { // by PKI: first hour that it signs, hour of publication
		sim, result := model{map[int]int{}}, map[int][2]int{}
		for p, h := range m.since {
			sim.since[p] = h
		}
		for h := now; h < 400; h++ {
			sim.step(config, h)
			s, ok := signer(config, h)
			if _, known := result[s.pki]; ok && !known && (evenEmergencies || !s.emergency) {
				since, published := sim.since[s.pki]
				if !published {
					since = h
				}
				result[s.pki] = [2]int{h, since}
			}
		}
		return result
	}
	present := first(inForce, true)
	for p, f := range first(next, false) {
		if was, ok := present[p]; f[0]-f[1] < 24 && (!ok || f[0] < was[0] || f[1] > was[1]) {
			return true
		}
	}
	return false
}

// At every hour, what New accepts is what surprises nobody, exactly; and a
// replica that starts from the same file agrees about what signs and is published.
func TestSuccessionHoldsTheRuleAtEveryInstant(t *testing.T) {
	pkis := makePKIs(t, 4)
	rng := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	for range 200 {
		config := []entry{{name: "c0", pki: 0, activate: -500}}
		a, _ := follow(nil, hour(0), config[0].chain(t, pkis))
		m := &model{map[int]int{}}
		m.step(config, 0)
		for h := 1; h < 150; h++ {
			m.step(config, h)
			if rng.IntN(12) != 0 {
				continue
			}
			next := randomConfig(rng, config, h)
			var chains []*Chain
			for _, e := range next {
				chains = append(chains, e.chain(t, pkis))
			}
			surprised := m.surprised(config, next, h)
			b, err := follow(a, hour(float64(h)), chains...)
			if (err != nil) != surprised {
				t.Fatalf("hour %d, published since %v:\n in force %+v\n next     %+v\nNew says %v, clients surprised: %v", h, m.since, config, next, err, surprised)
			}
			if err != nil {
				refused++
				continue
			}
			accepted++
			a, config = b, next
			m.step(config, h)
			replicaAgrees(t, a, chains, h)
		}
	}
	t.Logf("%d reloads accepted, %d refused", accepted, refused)
	if accepted < 100 || refused < 100 {
		t.Errorf("%d accepted and %d refused: too few to say anything", accepted, refused)
	}
}

// follow is what reload does, without the rehearsals.
func follow(before *Authority, at time.Time, chains ...*Chain) (*Authority, error) {
	a := &Authority{chains: chains, clock: func() time.Time { return at }, publications: publications(chains, before, at)}
	if before == nil {
		return a, nil
	}
	return a, a.checkSuccession(before, at)
}

func randomConfig(rng *rand.Rand, config []entry, now int) []entry {
	next := append([]entry(nil), config...)
	free := map[int]bool{0: true, 1: true, 2: true, 3: true}
	for _, e := range next {
		delete(free, e.pki)
	}
	if i := rng.IntN(len(next)); rng.IntN(3) == 0 { // change or drop one
		switch rng.IntN(4) {
		case 0:
			if len(next) > 1 {
				next = append(next[:i], next[i+1:]...)
			}
		case 1:
			next[i].activate = max(float64(now+rng.IntN(40)-5), next[i].publish)
		case 2:
			next[i].emergency = !next[i].emergency
		case 3:
			if p := float64(1 + rng.IntN(now+30)); p <= next[i].activate {
				next[i].publish = p
			}
		}
		return next
	}
	for p := range free {
		e := entry{name: fmt.Sprintf("c%d", p), pki: p, activate: float64(now + rng.IntN(50) - 2), emergency: rng.IntN(8) == 0}
		if publish := float64(now + rng.IntN(20)); rng.IntN(2) == 0 && publish <= e.activate {
			e.publish = publish
		}
		return append(next, e)
	}
	return next
}

func replicaAgrees(t *testing.T, a *Authority, chains []*Chain, h int) {
	t.Helper()
	for later := h; later < h+60; later += 7 {
		at := hour(float64(later))
		b, _ := follow(nil, at, chains...)
		c := *a
		c.clock = b.clock
		mine, _ := signing(c.chains, DefaultName, at)
		theirs, _ := signing(b.chains, DefaultName, at)
		if mine != theirs || fmt.Sprint(c.TrustBundle("")) != fmt.Sprint(b.TrustBundle("")) {
			t.Fatalf("hour %d: replicas with the same file disagree", later)
		}
	}
}

// A clock that was set is found by comparing with monotonic time since the start.
// A reload is no start: files change by themselves while the clock is wrong.
func TestReloadKeepsWatchingTheClock(t *testing.T) {
	c := entry{name: "old", pki: 0, activate: -1000}.chain(t, makePKIs(t, 1))
	before, err := reload(t, nil, hour(0), c)
	if err != nil {
		t.Fatal(err)
	}
	after, err := reload(t, before, hour(1), c)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := after.guard.start, before.guard.start; !got.Equal(want) {
		t.Errorf("after a reload the clock is compared since %v, want since the start at %v", got, want)
	}
}
