package ctlog

import (
	"errors"
	"time"
)

// Outage is the error of a [Pool] from which no SCT is to be had.
type Outage struct {
	// RetryAfter is when the first of the logs may be asked again.
	RetryAfter time.Duration
	// Err joins why each log was passed over or gave no SCT.
	Err error
}

// Error describes the outage for operators.
func (o *Outage) Error() string { return "no log gave an SCT: " + o.Err.Error() }

// Unwrap returns the reasons.
func (o *Outage) Unwrap() error { return o.Err }

// someTime is for a log of which nobody knows when it will be well: it may be so
// any moment, but clients need not stand in line.
const someTime = 5 * time.Second

// sooner keeps the first time at which asking again may help.
func (o *Outage) sooner(err error) {
	wait := someTime
	if resting, ok := errors.AsType[*restingError](err); ok {
		wait = resting.wait
	} else if failure, ok := errors.AsType[*attemptError](err); ok && failure.retryAfter > 0 {
		// What a log asks for beyond that, clients would not wait for.
		wait = min(failure.retryAfter, maxRest)
	}
	if o.RetryAfter == 0 || wait < o.RetryAfter {
		o.RetryAfter = wait
	}
}
