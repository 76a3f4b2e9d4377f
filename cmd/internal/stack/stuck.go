package stack

import (
	"context"
	"fmt"
	"time"
)

// hearOfStuck is told by a token that calls hang in its library.
func (s *Stack) hearOfStuck(err error) {
	select {
	case s.stuck <- err:
	default: // one is enough to look at all keys
	}
}

// stuckLook is how often keys are looked at once calls hang in a library.
const stuckLook = time.Second

// watchTokens ends the service when calls hang in a PKCS#11 library and a CA key
// cannot sign any more: nothing in this process can end such a call, and the
// supervisor's new one begins without it. While another token of a pair signs,
// the service goes on.
func (s *Stack) watchTokens(ctx context.Context, end context.CancelFunc) {
	var stuck error
	select {
	case stuck = <-s.stuck:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(stuckLook)
	defer tick.Stop()
	for {
		if err := s.keysReady(); err != nil {
			s.stuckErr = fmt.Errorf("ending for a new start: %w, and %w", stuck, err)
			end()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// keysReady tells of a key of the configuration that cannot sign now.
func (s *Stack) keysReady() error {
	for _, k := range s.current.Load().keys {
		if err := k.Ready(); err != nil {
			return err
		}
	}
	return nil
}
