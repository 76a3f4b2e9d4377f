package stack

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// records keeps what is logged.
type records struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Write(p)
}

// taken returns what was logged since the last time.
func (r *records) taken() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.lines.String()
	r.lines.Reset()
	return text
}

// The chain of a site ends after a year.
func TestWhatEndsIsToldOnceADay(t *testing.T) {
	s := newSite(t)
	s.initLog()
	log := new(records)
	start := s.root.NotAfter.AddDate(0, 0, -71)
	var passed atomic.Int64 // since start
	stack, err := Open(t.Context(), s.configure("127.0.0.1:1", ""), Options{
		Logger: slog.New(slog.NewTextHandler(log, nil)), Clock: func() time.Time { return start.Add(time.Duration(passed.Load())) },
	})
	s.must(err)
	defer func() { s.must(stack.Close()) }()
	log.taken()
	w := warnings{told: map[string]time.Time{}}
	const told = "something ends soon"
	for _, tc := range []struct {
		name   string
		wait   time.Duration
		lines  int
		level  string
		ending bool
		gauges map[string]float64
	}{
		{"more than 70 days", 0, 0, "", false, map[string]float64{"7": 0, "30": 0, "70": 0}},
		{"within 70 days", 25 * time.Hour, 1, "WARN", false, map[string]float64{"7": 0, "30": 0, "70": 1}},
		{"an hour later", time.Hour, 0, "", false, map[string]float64{"7": 0, "30": 0, "70": 1}},
		{"a day later", 24 * time.Hour, 1, "WARN", false, map[string]float64{"7": 0, "30": 0, "70": 1}},
		{"within 30 days", 40 * day, 1, "WARN", false, map[string]float64{"7": 0, "30": 1, "70": 1}},
		{"within 7 days", 23 * day, 1, "ERROR", true, map[string]float64{"7": 1, "30": 1, "70": 1}},
	} {
		passed.Add(int64(tc.wait))
		stack.warnOnce(&w)
		text := log.taken()
		if got := strings.Count(text, told); got != tc.lines || !strings.Contains(text, tc.level) {
			t.Errorf("%s: got %d warnings, want %d of level %q:\n%s", tc.name, got, tc.lines, tc.level, text)
		}
		if got := stack.shown()["expiry"]; got == tc.ending {
			t.Errorf("%s: readiness shows expiry %v, want %v", tc.name, got, !tc.ending)
		}
		for days, want := range tc.gauges {
			if got := gauge(t, stack, "mayfly_config_expiring", days); got != want {
				t.Errorf("%s: got %v things within %s days, want %v", tc.name, got, days, want)
			}
		}
	}
	status := stack.Status()
	if len(status.Expiring) != 1 || status.Expiring[0].Kind != "chain" || status.Expiring[0].Name != "corp" || status.Expiring[0].WithinDays != 7 {
		t.Errorf("got %+v, want the chain within 7 days", status.Expiring)
	}
	if a := status.Authorities; len(a) != 1 || a[0].Signs != "corp" || a[0].Chains[0].State != Signing || a[0].Chains[0].KeyProblem != "" {
		t.Errorf("got %+v, want that corp signs", a)
	}
}

// gauge reads a gauge by the value of its only label.
func gauge(t testing.TB, s *Stack, name, label string) float64 {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no series %s{%s}", name, label)
	return 0
}

// Of two chains the clock alone decides which signs; the one before is told as
// such, and nothing of it is waited for.
func TestStatusTellsWhatEachChainDoes(t *testing.T) {
	s := newSite(t)
	other := newSite(t)
	s.configure("127.0.0.1:1", "")
	s.initLog()
	at := func(days int) string { return stamp(time.Now().Add(time.Duration(days) * day)) }
	for _, c := range []struct{ name, more string }{
		{"waiting", "activate: " + at(20) + "\n    publish_from: " + at(10)},
		{"published", "activate: " + at(10)},
		{"retired", "activate: " + at(-30) + "\n    retire: " + at(-10)},
		{"signing", "activate: " + at(-5)},
	} {
		s.addChain(other, c.name, c.more)
	}
	f, err := config.Load(s.dir+"/mayfly.yaml", nil)
	s.must(err)
	status, err := OfflineStatus(t.Context(), f, time.Now())
	s.must(err)
	var got []string
	for _, c := range status.Authorities[0].Chains {
		got = append(got, c.Name+" is "+string(c.State))
	}
	want := "corp is superseded, retired is retired, signing is signing, published is published, waiting is waiting"
	if text := strings.Join(got, ", "); text != want || status.Authorities[0].Signs != "signing" {
		t.Errorf("got %s, and %s signs; want %s", text, status.Authorities[0].Signs, want)
	}
}
