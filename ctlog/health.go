package ctlog

import (
	"sync"
	"time"
)

// health remembers the last failure of one log. It is the whole of the pool's
// memory: a log that failed rests for a fixed time and is then asked again by
// whoever comes next, and one success clears it. A circuit breaker with probes
// of its own would take the place of this type and need no other change.
type health struct {
	rest time.Duration

	mu    sync.Mutex // guards until and last
	until time.Time
	last  error
}

// failed starts a rest. It reports whether the log was well before.
func (h *health) failed(now time.Time, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	wasWell := h.last == nil
	h.until, h.last = now.Add(h.rest), err
	return wasWell
}

// ok forgets the last failure. It reports whether there was one.
func (h *health) ok() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	wasIll := h.last != nil
	h.until, h.last = time.Time{}, nil
	return wasIll
}

// resting returns the failure that the log rests from, if it does.
func (h *health) resting(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil || !now.Before(h.until) {
		return nil
	}
	return h.last
}
