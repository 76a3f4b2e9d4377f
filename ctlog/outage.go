package ctlog

import "time"

// Outage is the error of a [Pool] from which no SCT is to be had.
type Outage struct {
	// RetryAfter is when the first of the logs may be asked again; zero when that
	// is not known.
	RetryAfter time.Duration
	// Err joins why each log was passed over or gave no SCT.
	Err error
}

// Error describes the outage for operators.
func (o *Outage) Error() string { return "no log gave an SCT: " + o.Err.Error() }

// Unwrap returns the reasons.
func (o *Outage) Unwrap() error { return o.Err }

// sooner keeps the first time at which asking again may help.
func (o *Outage) sooner(wait time.Duration) {
	if wait > 0 && (o.RetryAfter == 0 || wait < o.RetryAfter) {
		o.RetryAfter = wait
	}
}
