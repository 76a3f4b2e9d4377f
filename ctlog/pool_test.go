package ctlog_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// scripted is a log that does what the test says.
type scripted struct {
	name  string
	id    byte
	ready error
	do    func(ctx context.Context) error
	asked int
}

func (s *scripted) Name() string { return s.name }
func (s *scripted) ID() [32]byte { return [32]byte{s.id} }
func (s *scripted) Ready() error { return s.ready }
func (s *scripted) Submit(ctx context.Context, _ ctlog.Submission) (ctlog.SCT, error) {
	s.asked++
	if s.do != nil {
		if err := s.do(ctx); err != nil {
			return ctlog.SCT{}, err
		}
	}
	return ctlog.SCT{Log: s.name, LogID: s.ID()}, nil
}

func fails(err error) func(context.Context) error { return func(context.Context) error { return err } }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func newPool(t testing.TB, logs ...ctlog.Log) *ctlog.Pool {
	t.Helper()
	p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	return p
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
		if err != nil || sct.Log != "b" || a.asked != 1 || c.asked != 0 {
			t.Errorf("%s: got SCT of %q, %v, asked %d/%d/%d; want b, asked 1/1/0",
				name, sct.Log, err, a.asked, b.asked, c.asked)
		}
	}
}

func TestPoolPassesOverAHangingLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &scripted{name: "a", id: 1, do: hangs}, &scripted{name: "b", id: 2})
		start := time.Now()
		sct, err := p.Submit(t.Context(), ctlog.Submission{})
		if took := time.Since(start); err != nil || sct.Log != "b" || took != 1500*time.Millisecond {
			t.Fatalf("got SCT of %q, %v after %s; want b after 1.5s", sct.Log, err, took)
		}
		start = time.Now()
		if sct, err = p.Submit(t.Context(), ctlog.Submission{}); err != nil || time.Since(start) != 0 {
			t.Fatalf("the second submission waited for the log that had just failed: %s, %v", time.Since(start), err)
		}
	})
}

func TestPoolReadyRemembersAFailureAndForgivesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1, do: fails(ctlog.ErrUnavailable)}
		p := newPool(t, a)
		if err := p.Ready(); err != nil {
			t.Fatalf("Ready before any submission: %v", err)
		}
		if _, err := p.Submit(t.Context(), ctlog.Submission{}); !errors.Is(err, ctlog.ErrUnavailable) {
			t.Fatalf("Submit: %v, want ErrUnavailable", err)
		}
		if err := p.Ready(); !errors.Is(err, ctlog.ErrUnavailable) {
			t.Fatalf("Ready after a failure: %v, want ErrUnavailable", err)
		}
		if _, err := p.Submit(t.Context(), ctlog.Submission{}); err == nil || a.asked != 1 {
			t.Fatalf("a resting log was asked: %d times, %v", a.asked, err)
		}
		time.Sleep(time.Second)
		a.do = nil
		if err := p.Ready(); err != nil {
			t.Fatalf("Ready after the rest: %v", err)
		}
		if _, err := p.Submit(t.Context(), ctlog.Submission{}); err != nil {
			t.Fatalf("Submit after the rest: %v", err)
		}
	})
}

func TestPoolDoesNotBlameALogForItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1, do: fails(ctlog.ErrRejected)}
		p := newPool(t, a)
		if _, err := p.Submit(t.Context(), ctlog.Submission{}); !errors.Is(err, ctlog.ErrRejected) {
			t.Fatalf("Submit: %v, want ErrRejected", err)
		}
		if err := p.Ready(); err != nil {
			t.Fatalf("a refused submission silenced the log: %v", err)
		}
		a.do = hangs
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.Submit(ctx, ctlog.Submission{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("Submit: %v, want context.Canceled", err)
		}
		if err := p.Ready(); err != nil {
			t.Fatalf("a caller who went away silenced the log: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Submit(ctx, ctlog.Submission{}); err == nil {
			t.Fatal("a hanging log gave an SCT")
		}
		if err := p.Ready(); err == nil {
			t.Fatal("a log that took all of a second is still called ready")
		}
	})
}

func TestPoolFailsFastWhenNoLogIsReady(t *testing.T) {
	a := &scripted{name: "a", id: 1, ready: ctlog.ErrOverloaded}
	b := &scripted{name: "b", id: 2, ready: ctlog.ErrUnavailable}
	p := newPool(t, a, b)
	if err := p.Ready(); !errors.Is(err, ctlog.ErrOverloaded) || !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Ready: %v, want both reasons", err)
	}
	if _, err := p.Submit(t.Context(), ctlog.Submission{}); err == nil || a.asked+b.asked != 0 {
		t.Errorf("Submit: %v, asked %d; want an error and nobody asked", err, a.asked+b.asked)
	}
	b.ready = nil
	if err := p.Ready(); err != nil {
		t.Errorf("Ready with one log ready: %v", err)
	}
}

func TestPoolRefusesTheSCTOfAnotherLog(t *testing.T) {
	liar := &liar{scripted{name: "a", id: 1}}
	if sct, err := newPool(t, liar).Submit(t.Context(), ctlog.Submission{}); !errors.Is(err, ctlog.ErrBadSCT) {
		t.Fatalf("got %+v, %v; want ErrBadSCT", sct, err)
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
	if n, err := testutil.GatherAndCount(registry, "mayfly_ctlog_submit_seconds"); err != nil || n != 2 {
		t.Errorf("got %d series of mayfly_ctlog_submit_seconds, %v; want one for a and one for b", n, err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}
