package oidc

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// Bounds of what tokens can make us do.
const (
	// maxRounds is how many times in roundWindow an issuer is asked for its keys,
	// for whatever reason.
	maxRounds   = 2
	roundWindow = time.Minute
	// maxMissWait is how long a request waits for a refresh that it asked for.
	// Clients give the whole request five seconds.
	maxMissWait = 2 * time.Second
	// maxWaiters is how many requests wait at a time: forged tokens must not take
	// all the places of a server while a provider hangs.
	maxWaiters = 32
	maxMisses  = 4096
	missTTL    = time.Minute
)

// early decides whether a token that no key verifies is a reason to refresh keys
// before their time.
//
// Providers rotate keys without notice, and some keep the kid (Jenkins), so both
// an unknown kid and a signature that does not verify may mean a new key. Both
// are also what anybody can forge. Therefore: the one refresher does the asking,
// all who wait share its answer, an answer about a kid is remembered as long as
// the key set is the same one, and rounds are counted, whoever caused them.
type early struct {
	// window is roundWindow, or shorter when the operator's schedule is denser.
	window time.Duration
	// wake tells the refresher that round is new.
	wake chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	running bool
	// round is closed when the refresh that is asked for or under way has ended;
	// nil when there is none.
	round   chan struct{}
	waiters int
	// started are the times of the last rounds, oldest first.
	started [maxRounds]time.Time
	misses  map[miss]time.Time
}

// miss is a kid that was looked for in one key set and verified nothing.
type miss struct {
	keyID      string
	generation uint64
}

func newEarly(refresh time.Duration) *early {
	return &early{
		window: min(roundWindow, maxRounds*refresh),
		wake:   make(chan struct{}, 1), misses: make(map[miss]time.Time),
	}
}

// place is what a token finds that asks for newer keys.
type place int

const (
	// placed: there is a round, and room to wait for it. Whoever is placed leaves.
	placed place = iota
	// answered: the issuer was asked about this very kid not long ago.
	answered
	// exhausted: no round is under way, and none may start for a while.
	exhausted
	// crowded: too many are waiting.
	crowded
	// closed: nobody refreshes.
	closed
)

// join returns a channel that is closed when newer keys may be there, if the
// token is placed; if no round may start yet, it returns how long that lasts.
func (e *early) join(m miss, now time.Time) (<-chan struct{}, time.Duration, place) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if until, ok := e.misses[m]; ok && now.Before(until) {
		return nil, 0, answered
	}
	if e.round == nil {
		switch wait := e.delay(now); {
		case !e.running:
			return nil, 0, closed
		case wait > 0:
			return nil, wait, exhausted
		}
		e.round = make(chan struct{})
		select {
		case e.wake <- struct{}{}:
		default: // a signal that nobody took is as good
		}
	}
	if e.waiters >= maxWaiters {
		return nil, fetchTimeout, crowded
	}
	e.waiters++
	return e.round, 0, placed
}

func (e *early) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiters--
}

// remember notes that the key set of m was fetched after somebody had asked for
// its kid, and that it was in vain.
func (e *early) remember(m miss, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for old, until := range e.misses {
		if old.generation != m.generation || !now.Before(until) {
			delete(e.misses, old)
		}
	}
	if len(e.misses) < maxMisses {
		e.misses[m] = now.Add(missTTL)
	}
}

// delay is how long to wait before another round may start. The caller holds mu.
func (e *early) delay(now time.Time) time.Duration {
	if e.started[0].IsZero() {
		return 0
	}
	// A clock that is set back must not stop refreshes for as long.
	return min(e.window-now.Sub(e.started[0]), e.window)
}

// begin starts a round, joined by those who wait for one.
func (e *early) begin(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.round == nil {
		e.round = make(chan struct{})
	}
	select {
	case <-e.wake:
	default:
	}
	copy(e.started[:], e.started[1:])
	e.started[maxRounds-1] = now
}

// next is the delay before the round after this one.
func (e *early) next(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.delay(now)
}

// end ends the round.
func (e *early) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finish()
}

// finish lets go of those who wait. The caller holds mu.
func (e *early) finish() {
	if e.round != nil {
		close(e.round)
		e.round = nil
	}
}

// run opens or closes the door, as the refresher starts and stops.
func (e *early) run(running bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = running
	if !running {
		e.finish()
	}
}

// newerKeys returns keys that are newer than snap, for a token that was refused
// with r because no key of snap verifies it, or the refusal that stands.
func (is *issuer) newerKeys(ctx context.Context, t *token, snap *snapshot, now time.Time, r *ca.Refusal) (*snapshot, *ca.Refusal) {
	switch {
	case is.ScheduleOnly || is.StaticJWKS != nil:
		return nil, r
	case r.Reason == ca.ReasonBadSignature:
	case r.Reason == ca.ReasonKeyUnknown && t.hasKeyID:
	default:
		return nil, r
	}
	// A token that is refused with any key is no reason to fetch one.
	if _, hopeless := is.identity(t, now); hopeless != nil {
		return nil, r
	}
	if newer := is.keys.Load(); newer.generation != snap.generation {
		return newer, nil
	}
	round, wait, place := is.early.join(miss{t.keyID, snap.generation}, now)
	if place == placed {
		defer is.early.leave()
		is.metrics.early.WithLabelValues(is.Name, "waited").Inc()
		timeout := time.NewTimer(maxMissWait)
		defer timeout.Stop()
		select {
		case <-round:
		case <-timeout.C:
			wait = fetchTimeout
		case <-ctx.Done():
			return nil, ca.Refuse(ca.KindUnavailable, ca.ReasonDeadline, "waiting for keys of issuer %s: %w", is.Name, ctx.Err())
		}
	} else {
		is.metrics.early.WithLabelValues(is.Name, "spared").Inc()
	}
	// Also for those who were not placed: a round may have ended since snap was
	// taken, and then theirs is the same answer.
	if newer := is.keys.Load(); newer.generation != snap.generation {
		return newer, nil
	}
	last := is.last.Load()
	switch {
	case place == answered, place == closed && (last == nil || last.err == ""):
		return nil, r
	case wait == 0:
		wait = is.retryAfter(now)
	}
	return nil, is.unanswered(r, wait)
}

// unanswered makes an outage of r when the key may be a new one that the provider
// could not tell us of, or that it could not be asked for because others have
// used up the rounds: clients try again after 503 and give up after 400. A kid
// that is known stays what it is; forging one is easier than losing a provider in
// the moment of a rotation.
func (is *issuer) unanswered(r *ca.Refusal, wait time.Duration) *ca.Refusal {
	if r.Reason != ca.ReasonKeyUnknown {
		return r
	}
	out := ca.Refuse(ca.KindUnavailable, ca.ReasonIdpKeysMissing, "%w, and issuer %s could not be asked for it", r.Err, is.Name)
	// In whole seconds, as HTTP wants them.
	out.RetryAfter = min((wait + time.Second - 1).Truncate(time.Second), roundWindow)
	return out
}
