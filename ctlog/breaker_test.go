package ctlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/prometheus/client_golang/prometheus"
)

// probed is a scripted log that can be asked how it is.
type probed struct {
	scripted
	probe func(ctx context.Context) error

	mu    sync.Mutex // guards times
	times []time.Time
}

func (p *probed) Probe(ctx context.Context) error {
	p.mu.Lock()
	p.times = append(p.times, time.Now())
	p.mu.Unlock()
	return p.probe(ctx)
}

// probes is when the log was asked.
func (p *probed) probes() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.times)
}

// breakOpen makes the first log of the pool fail until it rests.
func breakOpen(t testing.TB, p *ctlog.Pool, a *scripted) {
	t.Helper()
	a.do = fails(ctlog.ErrUnavailable)
	for range 5 {
		_, _ = p.Submit(t.Context(), ctlog.Submission{})
	}
}

// rests is how long Ready says that the pool takes nothing; zero if it does.
func rests(t testing.TB, p *ctlog.Pool) time.Duration {
	t.Helper()
	err := p.Ready()
	if err == nil {
		return 0
	}
	outage, ok := errors.AsType[*ctlog.Outage](err)
	if !ok || outage.RetryAfter < time.Second || outage.RetryAfter > 30*time.Second {
		t.Fatalf("Ready: %v; want an Outage that says when, between 1s and 30s", err)
	}
	return outage.RetryAfter
}

func TestPoolRestsALogAfterFiveFailuresInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &scripted{name: "a", id: 1}, &scripted{name: "b", id: 2}
		p := newPool(t, a, b)
		for i, failing := range []bool{true, true, true, true, false, true, true, true, true, true, true} {
			a.do = nil
			if failing {
				a.do = fails(ctlog.ErrUnavailable)
			}
			asked := a.asked()
			if _, err := submit(t, p); err != nil {
				t.Fatalf("submission %d: %v", i, err)
			}
			if got, want := a.asked() > asked, i < 10; got != want {
				t.Errorf("submission %d: the first log was asked: %v, want %v", i, got, want)
			}
		}
		if err := p.Ready(); err != nil {
			t.Errorf("Ready with the second log well: %v", err)
		}
	})
}

func TestPoolRestsALogAtOnceForABadSCT(t *testing.T) {
	a := &scripted{name: "a", id: 1, do: fails(ctlog.ErrBadSCT)}
	p := newPool(t, a)
	if _, err := submit(t, p); !errors.Is(err, ctlog.ErrBadSCT) {
		t.Fatalf("Submit: %v, want ErrBadSCT", err)
	}
	if err := p.Ready(); !errors.Is(err, ctlog.ErrBadSCT) || rests(t, p) == 0 {
		t.Fatalf("Ready: %v, want the reason and a rest", err)
	}
	if _, err := submit(t, p); err == nil || a.asked() != 1 {
		t.Fatalf("asked %d times, %v; want a refusal without asking", a.asked(), err)
	}
}

// What a caller can bring about must not silence a log for others.
func TestPoolDoesNotBlameALogForItsCaller(t *testing.T) {
	for name, do := range map[string]func(context.Context) error{
		"refused":     fails(ctlog.ErrRejected),
		"overloaded":  fails(ctlog.ErrOverloaded),
		"gone":        hangs,
		"impatient":   hangs,
		"gone before": hangs,
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &scripted{name: "a", id: 1, do: do}
			p := newPool(t, a)
			for range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				switch name {
				case "gone":
					time.AfterFunc(time.Second, cancel)
				case "gone before":
					cancel()
				case "impatient":
					ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				}
				if _, err := p.Submit(ctx, ctlog.Submission{}); err == nil {
					t.Errorf("%s: got an SCT", name)
				}
				cancel()
			}
			if err := p.Ready(); err != nil {
				t.Errorf("%s: Ready: %v", name, err)
			}
		})
	}
}

func TestPoolBlamesALogThatTakesAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &scripted{name: "a", id: 1, do: hangs})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if _, err := p.Submit(ctx, ctlog.Submission{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Submit: %v, want context.DeadlineExceeded", err)
			}
			cancel()
		}
		if rests(t, p) == 0 {
			t.Error("a log that took five times all of two seconds is still called ready")
		}
	})
}

func TestPoolSharesItsTimeFairly(t *testing.T) {
	for logs, want := range map[int][]time.Duration{
		1: {2500 * time.Millisecond},
		2: {1250 * time.Millisecond, 2500 * time.Millisecond},
		4: {625 * time.Millisecond, 1250 * time.Millisecond, 1875 * time.Millisecond, 2500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var ended []time.Duration
			var members []ctlog.Log
			for i := range logs {
				members = append(members, &scripted{name: fmt.Sprint(i), id: byte(i + 1), do: func(ctx context.Context) error {
					err := hangs(ctx)
					ended = append(ended, time.Since(start))
					return err
				}})
			}
			// One that is not ready has no part.
			members = append(members, &scripted{name: "off", id: 99, ready: ctlog.ErrOverloaded})
			if _, err := submit(t, newPool(t, members...)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Errorf("%d logs: %v, want ErrUnavailable", logs, err)
			}
			if fmt.Sprint(ended) != fmt.Sprint(want) {
				t.Errorf("%d logs were given up after %v, want %v", logs, ended, want)
			}
		})
	}
}

// A log that rests for long must not make clients wait for another that may be
// well any moment.
func TestOutageTellsWhenTheFirstLogMayBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &scripted{name: "a", id: 1}, &scripted{name: "b", id: 2, ready: ctlog.ErrOverloaded}
		p := newPool(t, a, b)
		breakOpen(t, p, a)
		if rest := rests(t, p); rest > 2*time.Second {
			t.Errorf("retry after %s, want the first rest of a", rest)
		}
		for range 5 {
			time.Sleep(30 * time.Second)
			_, _ = submit(t, p)
		}
		if rest := rests(t, p); rest != 5*time.Second {
			t.Errorf("retry after %s, want 5s for b, which may have room any moment", rest)
		}
		b.ready, b.do = nil, fails(ctlog.ErrUnavailable)
		_, err := submit(t, p)
		if outage, ok := errors.AsType[*ctlog.Outage](err); !ok || outage.RetryAfter != 5*time.Second {
			t.Errorf("got %v, want to retry after 5s", err)
		}
	})
}

func TestPoolTriesALogAgainWithOneSubmissionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1}
		p := newPool(t, a)
		breakOpen(t, p, a)
		time.Sleep(rests(t, p))
		if err := p.Ready(); err != nil {
			t.Fatalf("Ready after the rest: %v", err)
		}
		asked, release := a.asked(), make(chan struct{})
		a.do = func(context.Context) error { <-release; return nil }
		results := make(chan error, 64)
		for range cap(results) {
			go func() { _, err := p.Submit(t.Context(), ctlog.Submission{}); results <- err }()
		}
		synctest.Wait()
		if n := a.asked() - asked; n != 1 {
			t.Errorf("%d submissions try the log at once, want 1", n)
		}
		if err := p.Ready(); err == nil {
			t.Error("Ready while the log is being tried: nil, want that it is")
		}
		close(release)
		for range cap(results) {
			if err := <-results; err != nil {
				t.Errorf("a submission that waited for the trial: %v", err)
			}
		}
		if err := p.Ready(); err != nil {
			t.Errorf("Ready after the trial: %v", err)
		}
	})
}

func TestPoolFailsTogetherWithTheTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1}
		p := newPool(t, a)
		breakOpen(t, p, a)
		time.Sleep(rests(t, p))
		release := make(chan struct{})
		a.do = func(context.Context) error { <-release; return ctlog.ErrUnavailable }
		results := make(chan error, 64)
		for range cap(results) {
			go func() { _, err := p.Submit(t.Context(), ctlog.Submission{}); results <- err }()
		}
		synctest.Wait()
		asked := a.asked()
		close(release)
		for range cap(results) {
			if err := <-results; !errors.Is(err, ctlog.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		}
		if a.asked() != asked {
			t.Errorf("%d more asked the log after the trial had failed", a.asked()-asked)
		}
		if rests(t, p) == 0 {
			t.Error("the log does not rest again")
		}
	})
}

// Each failed trial makes the rest longer, up to half a minute, and a success
// makes the next one short again.
func TestPoolRestsLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1}
		p := newPool(t, a)
		for range 2 {
			breakOpen(t, p, a)
			for i, longest := range []time.Duration{2, 4, 8, 16, 30, 30, 30} {
				rest := rests(t, p)
				if longest *= time.Second; rest < longest/2 || rest > longest {
					t.Errorf("rest %d: %s, want %s to %s", i, rest, longest/2, longest)
				}
				time.Sleep(rest)
				_, _ = submit(t, p)
			}
			time.Sleep(rests(t, p))
			a.do = nil
			if _, err := submit(t, p); err != nil {
				t.Errorf("after the rest: %v", err)
			}
		}
	})
}

// What becomes of submissions from before a change says nothing about what is now.
func TestPoolRestsOnceForOneOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &scripted{name: "a", id: 1, do: func(context.Context) error { <-release; return ctlog.ErrUnavailable }}
		p := newPool(t, a)
		var group sync.WaitGroup
		for range 64 {
			group.Go(func() { _, _ = p.Submit(t.Context(), ctlog.Submission{}) })
		}
		synctest.Wait()
		close(release)
		group.Wait()
		if rest := rests(t, p); rest > 2*time.Second {
			t.Errorf("64 failures at once make a rest of %s, want that of the first: up to 2s", rest)
		}
	})
}

// A panic in a log must not leave it on trial for good.
func TestPoolSurvivesATrialThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &scripted{name: "a", id: 1}
		p := newPool(t, a)
		breakOpen(t, p, a)
		time.Sleep(rests(t, p))
		a.do = func(context.Context) error { panic("a bug") }
		func() {
			defer func() { _ = recover() }()
			_, _ = submit(t, p)
		}()
		a.do = nil
		if _, err := submit(t, p); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	})
}

func TestPoolProbesALogThatRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var well atomic.Bool
		var p *ctlog.Pool
		a := &probed{scripted: scripted{name: "a", id: 1}, probe: func(ctx context.Context) error {
			if p.Ready() == nil {
				t.Error("the rest is over before the probe is answered")
			}
			if !well.Load() {
				return hangs(ctx)
			}
			return nil
		}}
		p = newPool(t, a)
		breakOpen(t, p, &a.scripted)
		opened, asked := time.Now(), a.asked()
		time.Sleep(2 * time.Minute)
		if p.Ready() == nil || a.asked() != asked {
			t.Errorf("Ready: %v, %d submissions; want the log to rest until it answers a probe", p.Ready(), a.asked()-asked)
		}
		if n := len(a.probes()); n < 4 || n > 14 {
			t.Errorf("%d probes in two minutes, want rests of up to half a minute", n)
		}
		if first := a.probes()[0].Sub(opened); first < time.Second || first > 2*time.Second {
			t.Errorf("first probe after %s, want 1s to 2s", first)
		}
		well.Store(true)
		a.do = nil
		time.Sleep(32 * time.Second)
		if err := p.Ready(); err != nil {
			t.Errorf("Ready after a probe was answered: %v", err)
		}
		n := len(a.probes())
		if _, err := submit(t, p); err != nil {
			t.Errorf("Submit: %v", err)
		}
		time.Sleep(time.Minute)
		if len(a.probes()) != n {
			t.Errorf("a log that is well is probed")
		}
	})
}

// hook is a slog.Handler that calls itself for each message.
type hook func(message string)

func (hook) Enabled(context.Context, slog.Level) bool        { return true }
func (h hook) Handle(_ context.Context, r slog.Record) error { h(r.Message); return nil }
func (h hook) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h hook) WithGroup(string) slog.Handler                 { return h }

// A trial may fail before the probe that allowed it has quite ended.
func TestPoolGoesOnProbingAfterATrialThatFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *ctlog.Pool
		answers := 0
		a := &probed{scripted: scripted{name: "a", id: 1}, probe: func(context.Context) error {
			if answers++; answers > 1 && p.Ready() == nil {
				t.Error("the rest is over before the second probe is answered")
			}
			return nil
		}}
		var err error
		p, err = ctlog.NewPool(ctlog.PoolConfig{Logs: []ctlog.Log{a}, Logger: slog.New(hook(func(message string) {
			if message == "transparency log answers again" && answers == 1 {
				_, _ = submit(t, p)
			}
		}))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		breakOpen(t, p, &a.scripted)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if answers != 2 {
			t.Errorf("%d probes, want 2", answers)
		}
	})
}

func TestPoolEndsProbesWhenItIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &probed{scripted: scripted{name: "a", id: 1}, probe: hangs}
		p := newPool(t, a)
		breakOpen(t, p, &a.scripted)
		time.Sleep(2100 * time.Millisecond) // a probe is under way
		start := time.Now()
		p.Close()
		p.Close()
		if took := time.Since(start); took != 0 || len(a.probes()) == 0 {
			t.Errorf("Close took %s with %d probes, want to end one at once", took, len(a.probes()))
		}
		// Requests of the configuration before may still be under way.
		a.do = nil
		time.Sleep(rests(t, p))
		if _, err := submit(t, p); err != nil {
			t.Errorf("Submit after Close and a rest: %v", err)
		}
	})
}

func TestPoolTellsTheStateOfTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		a := &scripted{name: "a", id: 1}
		p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: []ctlog.Log{a}, Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		want := func(when string, state int) {
			t.Helper()
			if got, want := series(t, registry, "mayfly_ctlog_breaker_state"), fmt.Sprintf("mayfly_ctlog_breaker_state{log=\"a\"} %d\n", state); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		want("at first", 0)
		breakOpen(t, p, a)
		want("after failures", 2)
		time.Sleep(rests(t, p))
		a.do = func(context.Context) error { want("in the trial", 1); return nil }
		_, _ = submit(t, p)
		want("after the trial", 0)
	})
}
