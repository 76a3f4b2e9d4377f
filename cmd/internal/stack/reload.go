package stack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// reloads is what became of the reloads so far. It is changed by whoever holds
// Stack.reloading; published and refused are read by others too.
type reloads struct {
	// published is when this process first published each chain, by name: the
	// file says since when it should have been. The map is never changed.
	published atomic.Pointer[map[string]time.Time]
	// refused says that the last attempt was refused.
	refused atomic.Bool
	// why is its error, so that the same one is told once.
	why string
}

// accepted notes what a snapshot publishes, at the time when it does.
func (r *reloads) accepted(n *snapshot, now time.Time) {
	before, published := r.published.Load(), map[string]time.Time{}
	for _, c := range n.file.Chains {
		switch at, known := r.since()[c.Name]; {
		case known:
			published[c.Name] = at
		case before == nil:
			// The file of a start is believed: the process before this one has
			// published what it says.
			published[c.Name] = c.PublishFrom
		default:
			published[c.Name] = later(now, c.PublishFrom)
		}
	}
	r.published.Store(&published)
	r.refused.Store(false)
	r.why = ""
}

// since tells when each chain was first published, or was to be.
func (r *reloads) since() map[string]time.Time {
	if p := r.published.Load(); p != nil {
		return *p
	}
	return nil
}

// Reloaded is what a reload did.
type Reloaded struct {
	// Previous and Digest are the digests of the configuration before and now, in
	// hexadecimal. They are the same when nothing but a file that it names changed.
	Previous string `json:"previous"`
	Digest   string `json:"digest"`
}

// Reload reads the configuration and every file that it names, and takes them into
// use for the requests that begin from then on. When anything is wrong with them,
// it changes nothing and says what. Why names who asked, for log and journal.
func (s *Stack) Reload(ctx context.Context, why string) (Reloaded, error) {
	if s.options.Load == nil {
		return Reloaded{}, errors.New("this service does not reload its configuration; start it again")
	}
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.closed {
		return Reloaded{}, errClosed
	}
	ctx, cancel := s.untilStop(ctx)
	defer cancel()
	before := s.current.Load()
	n, err := s.prepare(ctx, before)
	if err != nil {
		s.refused(ctx, before, why, err)
		return Reloaded{}, err
	}
	done := Reloaded{Previous: hex.EncodeToString(before.file.Digest[:]), Digest: hex.EncodeToString(n.file.Digest[:])}
	// The record comes first: no certificate may name a configuration that the
	// journal has not heard of.
	err = s.journal.Event(ctx, "config.loaded", slog.String("why", why), slog.String("previous_digest", done.Previous), slog.String("config_digest", done.Digest))
	if err != nil {
		err = fmt.Errorf("recording the new configuration: %w", err)
		n.discard(before)
		s.refused(ctx, before, why, err)
		return Reloaded{}, err
	}
	s.swap(before, n)
	s.warnOfFreezes(n.file)
	s.recordNewShards(ctx, before, n)
	s.logger.Info("configuration loaded", "why", why, "previous_digest", done.Previous, "config_digest", done.Digest)
	return done, nil
}

// untilStop returns a context that also ends with the service, and in time: a token
// that hangs would hold the reload, and the reload all others and the end.
func (s *Stack) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// swap takes a snapshot into use and lets the one before end.
func (s *Stack) swap(before, n *snapshot) {
	s.current.Store(n)
	s.reloads.accepted(n, s.options.Clock())
	s.metrics.reloaded(true, s.options.Clock())
	if s.options.Reloaded != nil {
		s.options.Reloaded(n.file)
	}
	if before.verifier != n.verifier {
		// Requests under way go on to verify with the keys that it has.
		before.verifier.stop()
	}
	s.retire(before)
}

// prepare makes a snapshot of the configuration as it is now on disk.
func (s *Stack) prepare(ctx context.Context, before *snapshot) (*snapshot, error) {
	// What changes after this look is noticed by the next one.
	seen := contentOf(followed(before.file))
	f, err := s.options.Load()
	if err != nil {
		return nil, err
	}
	content := contentOf(followed(f))
	for name := range content {
		if sum, ok := seen[name]; ok {
			content[name] = sum
		}
	}
	if problems := restartNeeded(before.file, f); len(problems) > 0 {
		return nil, problems
	}
	p := newPlan(ctx, f, planning{now: s.options.Clock(), demo: s.options.Demo, open: s.tokens.Key})
	if len(p.problems) > 0 {
		p.close()
		return nil, p.sorted()
	}
	if err := surprise(before.plan, p, s.options.Clock()); err != nil {
		p.close()
		return nil, err
	}
	if err := s.openShards(ctx, p); err != nil {
		p.close()
		return nil, err
	}
	n, err := s.newSnapshot(p, before)
	if err != nil {
		p.close()
		return nil, err
	}
	n.content = content
	if n.verifier != before.verifier {
		n.verifier.start()
		n.verifier.await(ctx, before.verifier)
	}
	if err := s.selfTest(ctx, n); err != nil {
		n.discard(before)
		return nil, err
	}
	return n, nil
}

// discard closes what a snapshot that is not taken into use has for itself.
func (n *snapshot) discard(before *snapshot) {
	if n.verifier != before.verifier {
		n.verifier.stop()
	}
	n.close()
}

// maxWhy bounds what the journal keeps of a refusal; the log has all of it.
const maxWhy = 2000

// refused tells that a configuration was not taken into use: once for each reason,
// for the files may be tried again and again.
func (s *Stack) refused(ctx context.Context, before *snapshot, why string, err error) {
	s.metrics.reloaded(false, s.options.Clock())
	s.reloads.refused.Store(true)
	text := err.Error()
	if text == s.reloads.why {
		return
	}
	s.reloads.why = text
	s.logger.Error("configuration refused; the one before stays in use", "why", why, "err", err)
	recErr := s.journal.Event(ctx, "config.refused", slog.String("why", why), slog.String("problem", text[:min(len(text), maxWhy)]),
		slog.String("config_digest", hex.EncodeToString(before.file.Digest[:])))
	if recErr != nil {
		s.logger.Error("the refusal is not in the journal", "err", recErr)
	}
}
