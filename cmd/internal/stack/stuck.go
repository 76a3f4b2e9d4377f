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
// cannot sign any more because of them: nothing in this process can end such a
// call, and the supervisor's new one begins without it. While another token of a
// pair signs, the service goes on; and so it does when the calls have returned
// after all and a token is away some other day, which it heals by itself.
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
		if err := s.keyHangs(); err != nil {
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

// keyHangs tells of a key of the configuration that cannot sign now because calls
// hang.
func (s *Stack) keyHangs() error {
	for _, k := range s.current.Load().keys {
		err := k.Ready()
		if hanging, ok := k.(interface{ Hangs() bool }); err != nil && ok && hanging.Hangs() {
			return err
		}
	}
	return nil
}
