package ctlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxFailures in a row make a log rest: one or two are a connection that was
	// cut, or a server that was restarted.
	maxFailures = 5
	// A log rests for 1 to 2 s first, then for twice as long with each attempt that
	// fails, and never for more than 30 s. The second half of each rest is chance,
	// so that replicas which met one outage do not come back together.
	minRest, maxRest = 2 * time.Second, 30 * time.Second
)

// breakerState is in the order in which it gets worse; the numbers are those of
// the metric.
type breakerState int

const (
	breakerClosed   breakerState = iota // submissions pass
	breakerHalfOpen                     // one submission at a time tries the log
	breakerOpen                         // the log rests
)

// breaker decides whether a log is asked at all. It keeps those who wait for a
// certificate, and the CA key, from a log of which it is known that it fails.
//
// An open breaker becomes half-open when the log answers a probe or, for a log
// that cannot be probed, when its rest is over. The next submission is then a
// trial, which closes the breaker or opens it for longer.
type breaker struct {
	state prometheus.Gauge

	mu sync.Mutex // guards all below
	is breakerState
	// period counts the changes of state. What becomes of a submission that began
	// in another period says nothing about this one.
	period   uint64
	failures int           // in a row, while closed
	rests    int           // in a row: how often it opened since it was closed
	until    time.Time     // the end of the rest, while open
	probed   bool          // a probe and not the time ends the rest
	trial    chan struct{} // while half-open: closed when the trial under way ends
	last     error         // why it opened
}

// pass is the leave to submit. Whoever has one reports what became of it.
type pass struct {
	period uint64
	trial  bool
}

// verdict is what one submission says about its log.
type verdict int

const (
	unclear verdict = iota // nothing: the caller went away, or asked for something odd
	worked
	failed
	lied // an invalid SCT: no run of failures is needed to distrust the log
)

// restingError says that the breaker does not let a submission pass.
type restingError struct {
	wait  time.Duration   // until it may
	trial <-chan struct{} // closed when the trial under way ends; nil without one
	err   error           // why it opened
}

func (e *restingError) Error() string {
	if e.trial != nil {
		return fmt.Sprintf("another submission is trying it after: %v", e.err)
	}
	return fmt.Sprintf("it rests for %s after: %v", e.wait.Round(time.Millisecond), e.err)
}

func (e *restingError) Unwrap() error { return e.err }

// check returns nil if a submission would pass, and otherwise a *restingError.
func (b *breaker) check(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resting(now)
}

// admit lets a submission pass, or returns a *restingError.
func (b *breaker) admit(now time.Time) (pass, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.resting(now); err != nil {
		return pass{}, err
	}
	if b.is == breakerOpen {
		b.enter(breakerHalfOpen)
	}
	p := pass{period: b.period, trial: b.is == breakerHalfOpen}
	if p.trial {
		b.trial = make(chan struct{})
	}
	return p, nil
}

func (b *breaker) resting(now time.Time) error {
	switch {
	case b.is == breakerHalfOpen && b.trial != nil:
		return &restingError{wait: time.Second, trial: b.trial, err: b.last}
	case b.is == breakerOpen && (b.probed || now.Before(b.until)):
		return &restingError{wait: max(b.until.Sub(now), time.Second), err: b.last}
	}
	return nil
}

// report takes note of what became of a submission that had a pass. It tells
// whether that opened the breaker, or closed it again.
func (b *breaker) report(p pass, v verdict, err error, now time.Time) (opened, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.period != b.period {
		return false, false
	}
	if p.trial {
		close(b.trial)
		b.trial = nil
	}
	switch v {
	case unclear:
	case worked:
		b.failures = 0
		if closed = p.trial; closed {
			b.rests, b.last = 0, nil
			b.enter(breakerClosed)
		}
	default:
		b.failures++
		if opened = p.trial || v == lied || b.failures >= maxFailures; opened {
			b.open(now, err)
		}
	}
	return opened, closed
}

// attend says whether a probe, and not the time, ends the rest.
func (b *breaker) attend(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probed = yes
}

// answered ends the rest, after a probe.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probed = false
	if b.is == breakerOpen {
		b.enter(breakerHalfOpen)
	}
}

// unanswered makes the rest longer, after a probe that failed. An error that says
// what the log did to a submission stays the reason.
func (b *breaker) unanswered(now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.is != breakerOpen {
		return
	}
	if errors.Is(b.last, ErrBadSCT) {
		err = b.last
	}
	b.open(now, err)
}

// rest is how long the breaker stays open from now.
func (b *breaker) rest(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until.Sub(now)
}

func (b *breaker) open(now time.Time, err error) {
	longest := min(minRest<<min(b.rests, 4), maxRest)
	b.until = now.Add(longest/2 + rand.N(longest/2)) //nolint:gosec // jitter, not a secret
	b.rests++
	b.last = err
	b.enter(breakerOpen)
}

func (b *breaker) enter(s breakerState) {
	b.period++
	b.is, b.failures = s, 0
	b.state.Set(float64(s))
}
