package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Caller is one client: it has a connection, or opens one, and sends requests
// one after the other. It is used by one goroutine at a time.
type Caller interface {
	// Call sends the request of a number and waits for the answer. The error says
	// that it was not the one wanted, or did not come.
	Call(ctx context.Context, number int) error
	Close() error
}

// Dial makes the client of a number. It does no I/O.
type Dial func(client int) Caller

// Result is what one run found out.
type Result struct {
	// Sent requests are Good or Failed.
	Sent, Good, Failed int64
	// Latency is of all requests, in microseconds.
	Latency *hdrhistogram.Histogram
	// Elapsed goes from the first intended start to the last answer.
	Elapsed time.Duration
	// Error is the first of those that failed.
	Error error
}

// Rate is how many good answers there were in a second.
func (r Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Good) / r.Elapsed.Seconds()
}

// Quantile is the latency that so many percent of the requests did not exceed.
func (r Result) Quantile(percent float64) time.Duration {
	return time.Duration(r.Latency.ValueAtQuantile(percent)) * time.Microsecond
}

// Merge adds what another run of the same kind found out.
func (r *Result) Merge(other Result) error {
	r.Sent, r.Good, r.Failed, r.Elapsed = r.Sent+other.Sent, r.Good+other.Good, r.Failed+other.Failed, r.Elapsed+other.Elapsed
	if r.Error == nil {
		r.Error = other.Error
	}
	if r.Latency == nil {
		r.Latency = newHistogram()
	}
	if other.Latency == nil {
		return nil
	}
	if dropped := r.Latency.Merge(other.Latency); dropped != 0 {
		return fmt.Errorf("merging histograms: %d values out of range", dropped)
	}
	return nil
}

// maxLatency bounds the histogram; what takes longer counts as this. Requests
// time out long before, but may have waited for a client beforehand.
const maxLatency = 5 * time.Minute

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Microseconds(), 3)
}

// tally is the result that the clients of a run add to.
type tally struct {
	mu     sync.Mutex
	result Result // mu guards it
}

func newTally() *tally { return &tally{result: Result{Latency: newHistogram()}} }

func (t *tally) add(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Sent++
	if err == nil {
		t.result.Good++
	} else {
		t.result.Failed++
		if t.result.Error == nil {
			t.result.Error = err
		}
	}
	// In range by construction, so there is no error.
	_ = t.result.Latency.RecordValue(min(max(took.Microseconds(), 1), maxLatency.Microseconds()))
}

// Open is a constant arrival rate, as of clients who know nothing of each other.
type Open struct {
	Rate     float64 // requests a second
	Duration time.Duration
	// Clients is how many connections there are to send on. When all wait for
	// answers, requests start late, and their time runs.
	Clients int
	// Timeout bounds each request.
	Timeout time.Duration
	// Sleep waits; nil means a timer of the kernel's, which is more
	// precise than the runtime's.
	Sleep func(context.Context, time.Duration)
}

// ticket is the right to send one request.
type ticket struct {
	number   int
	intended time.Time
}

// Run sends all requests of the duration and waits for their answers. It ends
// early, without an error, when the context does.
func (o Open) Run(ctx context.Context, dial Dial) (Result, error) {
	if o.Rate <= 0 || o.Duration <= 0 || o.Clients <= 0 || o.Timeout <= 0 {
		return Result{}, errors.New("an open loop needs a rate, a duration, clients and a timeout")
	}
	sleep := o.Sleep
	if sleep == nil {
		timer, err := newAlarm(ctx)
		if err != nil {
			return Result{}, err
		}
		defer timer.close()
		sleep = timer.sleep
	}
	total := max(1, int(o.Rate*o.Duration.Seconds()))
	// All tickets fit, so that handing them out never waits for a client.
	tickets := make(chan ticket, total)
	t, start := newTally(), time.Now()
	clients := o.start(ctx, dial, tickets, t)
	for i := range total {
		// Computed anew from the start, so that rounding does not add up.
		intended := start.Add(time.Duration(float64(i) / o.Rate * float64(time.Second)))
		if wait := time.Until(intended); wait > 0 {
			sleep(ctx, wait)
		}
		if ctx.Err() != nil {
			break
		}
		tickets <- ticket{i, intended}
	}
	close(tickets)
	clients.Wait()
	t.result.Elapsed = time.Since(start)
	return t.result, nil
}

func (o Open) start(ctx context.Context, dial Dial, tickets <-chan ticket, t *tally) *sync.WaitGroup {
	var clients sync.WaitGroup
	for c := range o.Clients {
		clients.Go(func() {
			caller := dial(c)
			defer func() { _ = caller.Close() }()
			for ticket := range tickets {
				if ctx.Err() != nil {
					continue // nobody wants the answer: the rest is dropped uncounted
				}
				err := call(ctx, caller, ticket.number, o.Timeout)
				t.add(time.Since(ticket.intended), err)
			}
		})
	}
	return &clients
}

// Closed is clients who ask again once they are answered: it finds out how much
// a server can do, and nothing about latency.
type Closed struct {
	Clients  int
	Duration time.Duration
	Timeout  time.Duration
}

// Run asks until the duration is over, and waits for the last answers. It ends
// early, without an error, when the context does.
func (c Closed) Run(ctx context.Context, dial Dial) (Result, error) {
	if c.Clients <= 0 || c.Duration <= 0 || c.Timeout <= 0 {
		return Result{}, errors.New("a closed loop needs clients, a duration and a timeout")
	}
	var next atomic.Int64
	t, start := newTally(), time.Now()
	var clients sync.WaitGroup
	for n := range c.Clients {
		clients.Go(func() {
			caller := dial(n)
			defer func() { _ = caller.Close() }()
			for ctx.Err() == nil && time.Since(start) < c.Duration {
				sent := time.Now()
				err := call(ctx, caller, int(next.Add(1)-1), c.Timeout)
				t.add(time.Since(sent), err)
				if err != nil && !pause(ctx, failurePause) {
					return
				}
			}
		})
	}
	clients.Wait()
	t.result.Elapsed = time.Since(start)
	return t.result, nil
}

// failurePause keeps a client whose server is away from asking in a tight loop.
const failurePause = 10 * time.Millisecond

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func call(ctx context.Context, caller Caller, number int, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return caller.Call(ctx, number)
}
