package rfc6962

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// rememberFor is how long a repetition gets the first answer. Clients refuse an
// SCT of more than ten minutes ago, which this stays well below.
const rememberFor = 5 * time.Minute

// recent gives a repeated submission the SCT of the first. It holds one flight
// for each submission, the ones under way included.
type recent struct {
	mu      sync.Mutex // guards flights and the times in them
	flights *lru.Cache[fingerprint, *flight]
}

// flight is a submission on its way, or what became of it.
type flight struct {
	done chan struct{} // closed when sct and err are valid
	sct  ctlog.SCT
	err  error
	at   time.Time // when it was begun
}

func newRecent(entries int) (*recent, error) {
	flights, err := lru.New[fingerprint, *flight](entries)
	if err != nil {
		return nil, err
	}
	return &recent{flights: flights}, nil
}

// do returns what submit gives for id, or gave lately. Only a success is
// remembered; who waits for another's submission shares its failure. repeated
// tells which of them it was.
func (r *recent) do(ctx context.Context, id fingerprint, now time.Time, submit func() (ctlog.SCT, error)) (sct ctlog.SCT, repeated bool, err error) {
	r.mu.Lock()
	if f, ok := r.flights.Get(id); ok && now.Sub(f.at) < rememberFor {
		r.mu.Unlock()
		select {
		case <-f.done:
			return f.sct, true, f.err
		case <-ctx.Done():
			return ctlog.SCT{}, true, context.Cause(ctx)
		}
	}
	f := &flight{done: make(chan struct{}), at: now}
	r.flights.Add(id, f)
	r.mu.Unlock()
	f.err = errPanicked // until submit has returned
	defer func() {
		if f.err != nil {
			r.forget(id, f)
		}
		close(f.done)
	}()
	f.sct, f.err = submit()
	return f.sct, false, f.err
}

// forget removes a flight that came to nothing, unless another has taken its
// place.
func (r *recent) forget(id fingerprint, f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if current, ok := r.flights.Peek(id); ok && current == f {
		r.flights.Remove(id)
	}
}
