package ctlog_test

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

// scripted is a log that does what the test says.
type scripted struct {
	name  string
	id    byte
	next  byte // the id after the first submission, if not 0
	ready error
	do    func(ctx context.Context) error
	calls atomic.Int32
}

func (s *scripted) Name() string { return s.name }
func (s *scripted) ID() [32]byte { return [32]byte{cmp.Or(s.next, s.id)} }
func (s *scripted) Ready() error { return s.ready }
func (s *scripted) asked() int   { return int(s.calls.Load()) }
func (s *scripted) Submit(ctx context.Context, _ ctlog.Submission) (ctlog.SCT, error) {
	s.calls.Add(1)
	if s.do != nil {
		if err := s.do(ctx); err != nil {
			return ctlog.SCT{}, err
		}
	}
	return ctlog.SCT{Log: s.name, LogID: [32]byte{s.id}}, nil
}

func fails(err error) func(context.Context) error { return func(context.Context) error { return err } }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// submit submits once and says which log's SCT came, "" for none.
func submit(t testing.TB, p *ctlog.Pool) (string, error) {
	t.Helper()
	sct, err := p.Submit(t.Context(), ctlog.Submission{})
	return sct.Log, err
}

func newPool(t testing.TB, logs ...ctlog.Log) *ctlog.Pool {
	t.Helper()
	p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// series is what the registry says about one metric, without comments.
func series(t testing.TB, g prometheus.Gatherer, name string) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestNewPoolRefuses(t *testing.T) {
	a := &scripted{name: "a", id: 1}
	for name, logs := range map[string][]ctlog.Log{
		"no logs":         nil,
		"a nil log":       {nil},
		"no name":         {&scripted{id: 1}},
		"no public key":   {&scripted{name: "a"}},
		"one name twice":  {a, &scripted{name: "a", id: 2}},
		"one key twice":   {a, &scripted{name: "b", id: 1}},
		"the second only": {a, &scripted{name: "b"}},
	} {
		if p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: logs}); err == nil || p != nil {
			t.Errorf("%s: NewPool = %v, %v; want nil and an error", name, p, err)
		}
	}
}

func TestPoolFailsOverInTheOrderWritten(t *testing.T) {
	for name, failure := range map[string]error{
		"unavailable": ctlog.ErrUnavailable, "overloaded": ctlog.ErrOverloaded,
		"rejected": ctlog.ErrRejected, "bad SCT": ctlog.ErrBadSCT,
	} {
		a, b, c := &scripted{name: "a", id: 1, do: fails(failure)}, &scripted{name: "b", id: 2}, &scripted{name: "c", id: 3}
		sct, err := newPool(t, a, b, c).Submit(t.Context(), ctlog.Submission{})
		if err != nil || sct.Log != "b" || a.asked() != 1 || c.asked() != 0 {
			t.Errorf("%s: got SCT of %q, %v, asked %d/%d/%d; want b, asked 1/1/0",
				name, sct.Log, err, a.asked(), b.asked(), c.asked())
		}
	}
}

func TestPoolFailsFastWhenNoLogIsReady(t *testing.T) {
	a := &scripted{name: "a", id: 1, ready: ctlog.ErrOverloaded}
	b := &scripted{name: "b", id: 2, ready: ctlog.ErrUnavailable}
	p := newPool(t, a, b)
	if err := p.Ready(); !errors.Is(err, ctlog.ErrOverloaded) || !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Ready: %v, want both reasons", err)
	}
	if _, err := p.Submit(t.Context(), ctlog.Submission{}); err == nil || a.asked()+b.asked() != 0 {
		t.Errorf("Submit: %v, asked %d; want an error and nobody asked", err, a.asked()+b.asked())
	}
	b.ready = nil
	if err := p.Ready(); err != nil {
		t.Errorf("Ready with one log ready: %v", err)
	}
}

func TestPoolRefusesTheSCTOfAnotherLog(t *testing.T) {
	liar := &liar{scripted: scripted{name: "a", id: 1}}
	if sct, err := newPool(t, liar).Submit(t.Context(), ctlog.Submission{}); !errors.Is(err, ctlog.ErrBadSCT) {
		t.Fatalf("got %+v, %v; want ErrBadSCT", sct, err)
	}
}

// The id of a log with shards is that of the shard whose time it is.
func TestPoolTakesTheSCTOfAShardWhoseTimeEndsMeanwhile(t *testing.T) {
	a := &scripted{name: "a", id: 1}
	a.do = func(context.Context) error {
		a.next = 2
		return nil
	}
	if _, err := submit(t, newPool(t, a)); err != nil || a.ID() == [32]byte{1} {
		t.Fatalf("Submit: %v, the log's id is now %x; want the SCT of the shard before", err, a.ID())
	}
}

type liar struct{ scripted }

func (l *liar) Submit(context.Context, ctlog.Submission) (ctlog.SCT, error) {
	return ctlog.SCT{LogID: [32]byte{9}}, nil
}

func TestPoolCountsByLogAndResult(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	p, err := ctlog.NewPool(ctlog.PoolConfig{
		Logs: []ctlog.Log{
			&scripted{name: "a", id: 1, do: fails(ctlog.ErrBadSCT)}, &scripted{name: "b", id: 2},
		},
		Registerer: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Submit(t.Context(), ctlog.Submission{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"mayfly_ctlog_breaker_state": `{log="a"} 2
mayfly_ctlog_breaker_state{log="b"} 0`,
		"mayfly_ctlog_bad_sct_total": `{log="a",reason="other"} 1`,
		"mayfly_ctlog_winner_total": `{log="a"} 0
mayfly_ctlog_winner_total{log="b"} 1`,
	} {
		if got := series(t, registry, name); got != name+want+"\n" {
			t.Errorf("%s: got\n%swant\n%s", name, got, name+want)
		}
	}
	if n, err := testutil.GatherAndCount(registry, "mayfly_ctlog_submit_seconds"); err != nil || n != 2 {
		t.Errorf("got %d series of mayfly_ctlog_submit_seconds, %v; want one for a and one for b", n, err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}
