package stack

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/hsm"
)

// readyKey is a key whose readiness a test sets.
type readyKey struct {
	hsm.Key
	ready func() error
	hangs func() bool
}

func (k readyKey) Ready() error { return k.ready() }
func (k readyKey) Hangs() bool  { return k.hangs() }

// While the other token of a pair signs, calls that hang are no reason to end.
func TestHangingCallsEndTheServiceOnceAKeyCannotSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		lost := errors.New("calls hang in its library")
		key := readyKey{ready: func() error {
			if time.Since(began) < time.Minute {
				return nil
			}
			return lost
		}, hangs: func() bool { return true }}
		s := &Stack{stuck: make(chan error, 1)}
		s.current.Store(&snapshot{plan: &plan{keys: []hsm.Key{key}}})
		hang := errors.New("all sessions are in calls that hang")
		s.hearOfStuck(hang)
		s.hearOfStuck(hang)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.watchTokens(ctx, cancel)
		if took := time.Since(began); took < time.Minute || took > time.Minute+stuckLook {
			t.Errorf("the service ended after %s, want a minute: when the key was lost", took)
		}
		if ctx.Err() == nil || !errors.Is(s.stuckErr, hang) || !errors.Is(s.stuckErr, lost) {
			t.Errorf("context %v, error %v; want an end for both reasons", ctx.Err(), s.stuckErr)
		}
	})
}

// Calls that hung came back; long after that the token is away, and comes back by
// itself. To end would be an outage: a start needs the token.
func TestTokenThatIsAwayAfterAHangEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := readyKey{ready: func() error { return errors.New("no token matches") }, hangs: func() bool { return false }}
		s := &Stack{stuck: make(chan error, 1)}
		s.current.Store(&snapshot{plan: &plan{keys: []hsm.Key{key, fileKey{}}}})
		s.hearOfStuck(errors.New("all sessions are in calls that hang"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		s.watchTokens(ctx, func() { t.Error("the service ended"); cancel() })
		if s.stuckErr != nil {
			t.Errorf("error %v, want none", s.stuckErr)
		}
	})
}

// fileKey is closed, and nothing can hang in it.
type fileKey struct{ hsm.Key }

func (fileKey) Ready() error { return errors.New("closed") }

func TestNoHangingCallsEndNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stack{stuck: make(chan error, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		s.watchTokens(ctx, func() { t.Error("the service ended") })
		if s.stuckErr != nil {
			t.Errorf("error %v, want none", s.stuckErr)
		}
	})
}
