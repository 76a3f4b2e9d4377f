package load_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
)

// caller answers as the function says.
type caller func(ctx context.Context, number int) error

func (c caller) Call(ctx context.Context, number int) error { return c(ctx, number) }
func (c caller) Close() error                               { return nil }

func dial(c caller) load.Dial { return func(int) load.Caller { return c } }

// sleep is the bubble's.
func sleep(_ context.Context, d time.Duration) { time.Sleep(d) }

func mustRun(t *testing.T, run func(context.Context, load.Dial) (load.Result, error), d load.Dial) load.Result {
	t.Helper()
	got, err := run(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if n := got.Latency.TotalCount(); n != got.Sent || got.Sent != got.Good+got.Failed {
		t.Errorf("%d latencies of %d requests, %d good and %d failed", n, got.Sent, got.Good, got.Failed)
	}
	return got
}

// TestStallShowsInAllThatWereDueMeanwhile has a server that answers in a
// millisecond, but once stands still for a second. A hundred requests were due
// in that second, and waited between nothing and all of it. A loop that waits for
// its answers would have one slow request, and a p95 of a millisecond.
func TestStallShowsInAllThatWereDueMeanwhile(t *testing.T) {
	for _, clients := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			const service = time.Millisecond
			start := time.Now()
			from, until := start.Add(5*time.Second), start.Add(6*time.Second)
			server := func(context.Context, int) error {
				if now := time.Now(); !now.Before(from) && now.Before(until) {
					time.Sleep(until.Sub(now))
				}
				time.Sleep(service)
				return nil
			}
			got := mustRun(t, load.Open{Rate: 100, Duration: 10 * time.Second, Clients: clients, Timeout: time.Minute, Sleep: sleep}.Run, dial(server))
			if got.Sent != 1000 || got.Failed != 0 {
				t.Fatalf("%d clients: sent %d, %d failed; want 1000 and none", clients, got.Sent, got.Failed)
			}
			if p50 := got.Quantile(50); p50 > 2*service {
				t.Errorf("%d clients: p50 is %v, want about %v", clients, p50, service)
			}
			// A tenth of all requests was due during the stall, half of those in its
			// first half.
			if p := got.Quantile(95); p < 400*time.Millisecond || p > 600*time.Millisecond {
				t.Errorf("%d clients: p95 is %v, want about half a second", clients, p)
			}
			if p := got.Quantile(99.9); p < 950*time.Millisecond || p > 1100*time.Millisecond {
				t.Errorf("%d clients: p99.9 is %v, want about a second", clients, p)
			}
		})
	}
}

// TestOpenLoopArrivesAtItsRate looks at when requests arrive at a server that
// is fast enough: at the microsecond, without drift.
func TestOpenLoopArrivesAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		arrived := make(map[int]time.Duration)
		got := mustRun(t, load.Open{Rate: 3, Duration: 100 * time.Second, Clients: 4, Timeout: time.Second, Sleep: sleep}.Run,
			dial(func(_ context.Context, number int) error {
				mu.Lock()
				defer mu.Unlock()
				arrived[number] = time.Since(start)
				return nil
			}))
		if got.Sent != 300 || len(arrived) != 300 {
			t.Fatalf("sent %d requests with %d numbers, want 300", got.Sent, len(arrived))
		}
		for _, number := range []int{0, 1, 150, 299} {
			want := time.Duration(float64(number) / 3 * float64(time.Second))
			if late := arrived[number] - want; late < -time.Microsecond || late > time.Microsecond {
				t.Errorf("request %d arrived at %v, want %v", number, arrived[number], want)
			}
		}
	})
}

// TestSlowServerIsNotAskedLess has a server that can do half of what is asked:
// the last request waits for half the time of the run.
func TestSlowServerIsNotAskedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := mustRun(t, load.Open{Rate: 100, Duration: 10 * time.Second, Clients: 1, Timeout: time.Minute, Sleep: sleep}.Run,
			dial(func(context.Context, int) error { time.Sleep(20 * time.Millisecond); return nil }))
		if got.Sent != 1000 {
			t.Errorf("sent %d, want 1000", got.Sent)
		}
		if p := got.Quantile(100); p < 9900*time.Millisecond || p > 10100*time.Millisecond {
			t.Errorf("the last request took %v, want about 10s", p)
		}
		if got.Elapsed < 20*time.Second || got.Rate() > 50.01 {
			t.Errorf("took %v at %.1f/s, want 20s at 50/s", got.Elapsed, got.Rate())
		}
	})
}

func TestFailuresAreCountedWithTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := errors.New("the first")
		got := mustRun(t, load.Open{Rate: 10, Duration: 10 * time.Second, Clients: 2, Timeout: 50 * time.Millisecond, Sleep: sleep}.Run,
			dial(func(ctx context.Context, number int) error {
				switch number {
				case 3:
					return first
				case 7:
					<-ctx.Done() // never answered
					return ctx.Err()
				}
				return nil
			}))
		if got.Good != 98 || got.Failed != 2 || !errors.Is(got.Error, first) {
			t.Errorf("%d good, %d failed with %v; want 98, 2 and the first error", got.Good, got.Failed, got.Error)
		}
		if p := got.Quantile(100); p < 49*time.Millisecond || p > 51*time.Millisecond {
			t.Errorf("the slowest took %v, want the timeout of 50ms", p)
		}
	})
}

func TestLoopsEndWithTheirContext(t *testing.T) {
	for name, run := range map[string]func(context.Context, load.Dial) (load.Result, error){
		"open":   load.Open{Rate: 10, Duration: time.Hour, Clients: 2, Timeout: time.Minute, Sleep: sleep}.Run,
		"closed": load.Closed{Clients: 2, Duration: time.Hour, Timeout: time.Minute}.Run,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second+time.Millisecond)
			defer cancel()
			got, err := run(ctx, dial(func(ctx context.Context, _ int) error {
				select {
				case <-time.After(100 * time.Millisecond):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got.Elapsed < time.Second || got.Elapsed > 1200*time.Millisecond {
				t.Errorf("%s: ended after %v, want the second of its context", name, got.Elapsed)
			}
		})
	}
}

// TestClosedLoopFindsTheLimit has eight clients of a server that takes ten
// milliseconds and serves four at once.
func TestClosedLoopFindsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 4)
		got := mustRun(t, load.Closed{Clients: 8, Duration: 10 * time.Second, Timeout: time.Second}.Run,
			dial(func(context.Context, int) error {
				slots <- struct{}{}
				defer func() { <-slots }()
				time.Sleep(10 * time.Millisecond)
				return nil
			}))
		if rate := got.Rate(); rate < 390 || rate > 401 {
			t.Errorf("found %.1f/s, want 400", rate)
		}
		if p := got.Quantile(50); p < 19*time.Millisecond || p > 21*time.Millisecond {
			t.Errorf("p50 is %v, want 20ms: half of the clients wait", p)
		}
	})
}

func TestMergeAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(took time.Duration) load.Result {
			return mustRun(t, load.Open{Rate: 100, Duration: time.Second, Clients: 100, Timeout: time.Minute, Sleep: sleep}.Run,
				dial(func(context.Context, int) error { time.Sleep(took); return nil }))
		}
		fast, slow := run(time.Millisecond), run(time.Second)
		var sum load.Result
		for _, r := range []load.Result{fast, slow} {
			if err := sum.Merge(r); err != nil {
				t.Fatal(err)
			}
		}
		if sum.Sent != 200 || sum.Latency.TotalCount() != 200 || sum.Elapsed != fast.Elapsed+slow.Elapsed {
			t.Errorf("the sum is %+v, want 200 requests in %v", sum, fast.Elapsed+slow.Elapsed)
		}
		if low, high := sum.Quantile(49), sum.Quantile(51); low > 2*time.Millisecond || high < 990*time.Millisecond {
			t.Errorf("p49 is %v and p51 %v, want a millisecond and a second", low, high)
		}
		if fast.Sent != 100 || fast.Latency.TotalCount() != 100 {
			t.Errorf("merging changed what was merged: %d", fast.Latency.TotalCount())
		}
	})
}

func TestLoopsWantTheirBounds(t *testing.T) {
	nobody := dial(func(context.Context, int) error { t.Error("a request was sent"); return nil })
	for _, o := range []load.Open{
		{}, {Rate: 1, Duration: time.Second, Clients: 1}, {Rate: 1, Duration: time.Second, Timeout: 1},
		{Rate: 1, Clients: 1, Timeout: 1}, {Duration: time.Second, Clients: 1, Timeout: 1},
	} {
		if _, err := o.Run(t.Context(), nobody); err == nil {
			t.Errorf("%+v runs, want an error", o)
		}
	}
	for _, c := range []load.Closed{{}, {Clients: 1, Duration: 1}, {Clients: 1, Timeout: 1}, {Duration: 1, Timeout: 1}} {
		if _, err := c.Run(t.Context(), nobody); err == nil {
			t.Errorf("%+v runs, want an error", c)
		}
	}
}

// TestAlarmIsNeverShort says nothing about how late it is, which is the
// machine's affair.
func TestAlarmIsNeverShort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sleep := load.NewAlarm(t, ctx)
	for range 3 {
		for _, d := range []time.Duration{1, 100 * time.Microsecond, 5 * time.Millisecond} {
			start := time.Now()
			sleep(ctx, d)
			if took := time.Since(start); took < d {
				t.Errorf("slept %v, want %v at least", took, d)
			}
		}
	}
	time.AfterFunc(10*time.Millisecond, cancel)
	sleep(ctx, time.Hour) // or the test times out
	sleep(ctx, time.Hour)
}
