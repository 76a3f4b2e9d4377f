package pkcs11

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// stuckAfter is how long a call runs, without anybody waiting for it any more,
// before it counts as stuck: a client that hangs up after a millisecond says
// nothing about the token.
const stuckAfter = failoverAfter

// hangs counts the calls of one token that nobody waits for any more. A call
// into a C library cannot be cancelled: it runs in a goroutine that owns its
// session, and who asked for it goes on when his time is over.
type hangs struct {
	// changed is called, without mu, when calls were abandoned, got stuck or
	// came back. delta is by how many more are stuck.
	changed func(delta int)

	// mu guards what follows and the calls.
	mu               sync.Mutex
	abandoned, stuck int
}

// call is one that runs.
type call struct {
	started          time.Time
	ended, abandoned bool
	counted          bool
	timer            *time.Timer
}

// abandon says that nobody waits for c any more. It reports false if c ended
// before.
func (h *hangs) abandon(c *call) bool {
	h.mu.Lock()
	if c.ended {
		h.mu.Unlock()
		return false
	}
	c.abandoned = true
	h.abandoned++
	left := stuckAfter - time.Since(c.started)
	if left > 0 {
		c.timer = time.AfterFunc(left, func() { h.count(c) })
	}
	h.mu.Unlock()
	if left > 0 {
		h.changed(0)
	} else {
		// Who is told that it took too long may ask at once what that means.
		h.count(c)
	}
	return true
}

func (h *hangs) count(c *call) {
	h.mu.Lock()
	if c.ended {
		h.mu.Unlock()
		return
	}
	c.counted = true
	h.stuck++
	h.mu.Unlock()
	h.changed(1)
}

// end says that c returned. It reports whether nobody waits for the result.
func (h *hangs) end(c *call) (abandoned bool) {
	h.mu.Lock()
	c.ended = true
	delta := 0
	if c.abandoned {
		if c.timer != nil {
			c.timer.Stop()
		}
		h.abandoned--
		if c.counted {
			h.stuck--
			delta = -1
		}
	}
	abandoned = c.abandoned
	h.mu.Unlock()
	if abandoned {
		h.changed(delta)
	}
	return abandoned
}

// figures returns how many calls nobody waits for, and how many of them hang.
func (h *hangs) figures() (abandoned, stuck int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.abandoned, h.stuck
}

// run calls work in a goroutine and waits for it until ctx ends. What work
// returns after that goes to late, if there is one. However it ends, leave is
// called after that: what it wakes is then next on this processor, before whoever
// takes the result, so that a token does not rest while results are verified.
func run[T any](ctx context.Context, h *hangs, what string, work func() (T, error), late func(T, error), leave func()) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	c := &call{started: time.Now()}
	go func() {
		if leave != nil {
			defer leave()
		}
		value, err := work()
		if !h.end(c) {
			done <- result{value, err}
		} else if late != nil {
			late(value, err)
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	if !h.abandon(c) {
		r := <-done
		return r.value, r.err
	}
	var none T
	return none, &classError{classHung, fmt.Errorf("%s did not return in time: %w", what, ctx.Err())}
}
