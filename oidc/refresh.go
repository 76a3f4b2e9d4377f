package oidc

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

const (
	// firstRetry mends what a lost packet did; retry is for outages.
	firstRetry = time.Second
	retry      = roundWindow / maxRounds
	// minMaxAge is the shortest Cache-Control max-age that is honoured.
	minMaxAge = time.Minute
)

// issuer is one configured provider at work. What Verify reads is behind atomic
// pointers to immutable values; only the refresher stores them.
type issuer struct {
	Issuer
	fetcher *fetcher
	clock   func() time.Time
	log     *slog.Logger
	metrics *metrics
	// verified counts this issuer's tokens; to find it among all costs more.
	verified prometheus.Counter
	// early lets tokens ask for a refresh.
	early *early
	// blocks are the keys that verify nothing, shared by all issuers.
	blocks blocklist
	// cacheDir is where keys are kept; empty means nowhere.
	cacheDir string
	// headers spare go-oidc what it has read before.
	headers readHeaders
	// failures counts refreshes that failed in a row; only the refresher uses it.
	failures int
	// keys is the last good snapshot; nil before the first one.
	keys atomic.Pointer[snapshot]
	// last is how the last refresh ended; nil before the first one.
	last atomic.Pointer[attempt]
}

// snapshot is a key set in force.
type snapshot struct {
	*keySet
	// generation counts successful fetches, so that whoever remembers an answer
	// about a key can tell that it is about an older set.
	generation uint64
	fetchedAt  time.Time
}

// attempt is the outcome of one refresh.
type attempt struct {
	err  string // empty after a success
	next time.Time
}

// IssuerStatus is the state of one issuer's keys.
type IssuerStatus struct {
	Name string
	// Ready reports that tokens can be verified: keys were fetched and are not
	// past MaxStale.
	Ready bool
	// FetchedAt is when the keys in force were fetched; zero when none were.
	FetchedAt time.Time
	// Stale reports that the keys were not refreshed in time and still work.
	Stale bool
	// Err is why the last refresh failed, for operators; empty after a success.
	Err string
}

// current returns the keys to verify with, or why there are none. It does no
// I/O and asks for none.
func (is *issuer) current(now time.Time) (snap *snapshot, stale bool, r *ca.Refusal) {
	snap = is.keys.Load()
	if snap == nil {
		r = ca.Refuse(ca.KindUnavailable, ca.ReasonIdpKeysMissing, "no keys of issuer %s yet", is.Name)
		r.RetryAfter = is.retryAfter(now)
		return nil, false, r
	}
	if is.StaticJWKS != nil {
		return snap, false, nil
	}
	// A clock that was set back makes an age negative and keys look fresh; that
	// clock is caught where certificates are issued.
	age := now.Sub(snap.fetchedAt)
	if age >= is.MaxStale {
		r = ca.Refuse(ca.KindUnavailable, ca.ReasonIdpKeysStale, "keys of issuer %s are %v old", is.Name, age)
		r.RetryAfter = is.retryAfter(now)
		return nil, true, r
	}
	// One missed refresh is not yet a sign of trouble.
	return snap, age >= 2*is.Refresh, nil
}

// retryAfter is when the next refresh may have brought keys, in whole seconds
// as HTTP wants them.
func (is *issuer) retryAfter(now time.Time) time.Duration {
	wait := firstRetry
	if last := is.last.Load(); last != nil {
		wait = last.next.Sub(now).Truncate(time.Second) + time.Second
	}
	return min(max(wait, firstRetry), roundWindow)
}

func (is *issuer) status(now time.Time) IssuerStatus {
	st := IssuerStatus{Name: is.Name}
	if snap := is.keys.Load(); snap != nil {
		st.FetchedAt = snap.fetchedAt
	}
	_, stale, r := is.current(now)
	st.Ready, st.Stale = r == nil, stale
	if last := is.last.Load(); last != nil {
		st.Err = last.err
	}
	return st
}

// run refreshes until ctx ends. It is the only code that fetches: whatever else
// has reason to want keys sooner can only ask this loop, and the loop decides.
func (is *issuer) run(ctx context.Context) {
	if is.StaticJWKS != nil {
		<-ctx.Done()
		return
	}
	if err := is.load(); err != nil {
		is.log.Warn("reading kept issuer keys failed", "issuer", is.Name, "err", err)
	}
	defer is.fetcher.client.CloseIdleConnections()
	is.early.run(true)
	defer is.early.run(false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-is.early.wake:
		}
		is.early.begin(is.clock())
		timer.Reset(is.refresh(ctx))
	}
}

// refresh fetches once, ends the round and returns how long to wait until the
// next time. When ctx has ended, the round ends with the refresher.
func (is *issuer) refresh(ctx context.Context) time.Duration {
	// The keys are as old as the question, not as the answer.
	asked := is.clock()
	keys, maxAge, err := is.fetcher.fetch(ctx)
	switch {
	case ctx.Err() != nil:
		return 0 // we are stopping; that says nothing about the issuer
	case err != nil:
		is.failures++
		return is.failed(err)
	}
	is.failures = 0
	return is.succeeded(keys, asked, maxAge)
}

// failed keeps the old keys, because an outage of the provider must not become
// one of ours.
func (is *issuer) failed(err error) time.Duration {
	wait := firstRetry
	if is.failures > 1 {
		wait = min(retry, is.Refresh)
	}
	now := is.clock()
	wait = max(jitter(wait), is.early.next(now))
	is.last.Store(&attempt{err: err.Error(), next: now.Add(wait)})
	is.early.end()
	is.metrics.failed(is.Name)
	is.log.Warn("refreshing issuer keys failed", "issuer", is.Name, "err", err, "failures", is.failures, "retry_in", wait)
	return wait
}

// succeeded publishes the new set as a whole: a key that the provider withdrew
// is gone with the old snapshot.
func (is *issuer) succeeded(keys *keySet, asked time.Time, maxAge time.Duration) time.Duration {
	old := is.keys.Load()
	snap := &snapshot{keySet: keys, generation: 1, fetchedAt: asked}
	if old != nil {
		snap.generation = old.generation + 1
	}
	is.keys.Store(snap)
	wait := is.Refresh
	if maxAge >= 0 {
		wait = min(max(maxAge, minMaxAge), is.Refresh)
	}
	now := is.clock()
	wait = max(jitter(wait), is.early.next(now))
	is.last.Store(&attempt{next: now.Add(wait)})
	// Before the disk is written to: a token that comes meanwhile is refused with
	// these keys already, and is a reason for another round, not for this one.
	is.early.end()
	is.metrics.refreshed(is.Name, asked, len(keys.keys))
	is.logChange(old, snap)
	is.save(old, snap)
	return wait
}

// jitter shortens d by up to a fifth, so that replicas started together do not
// stay together.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/5+1) //nolint:gosec // G404: it spreads load and keeps no secret
}

// logChange tells operators about keys that came and went: a key that nobody
// expected is how a hijacked provider shows.
func (is *issuer) logChange(old, now *snapshot) {
	var before, dropped []string
	if old != nil {
		before, dropped = old.thumbprints(), old.dropped
	}
	after := now.thumbprints()
	if !slices.Equal(before, after) {
		is.log.Info("issuer keys changed", "issuer", is.Name, "generation", now.generation,
			"added", without(after, before), "removed", without(before, after))
	}
	if !slices.Equal(dropped, now.dropped) {
		is.log.Info("issuer publishes keys that are not used", "issuer", is.Name, "keys", now.dropped)
	}
	if now.leaked && (old == nil || !old.leaked) {
		is.log.Error("issuer publishes secret key material", "issuer", is.Name, "err", errLeaked)
	}
}

func (s *keySet) thumbprints() []string {
	var prints []string
	for _, k := range s.keys {
		prints = append(prints, k.thumbprint)
	}
	slices.Sort(prints)
	return slices.Compact(prints)
}

// without returns the members of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
