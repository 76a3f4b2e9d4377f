package ca

import (
	"time"
)

// maxClockJump is how far the wall clock may leave the monotonic one before
// issuance stops.
const maxClockJump = 30 * time.Second

// clockGuard notices a wall clock that was set: certificates and audit records
// would carry a wrong time, and expired tokens could come alive again. A clock
// that is slewed moves together with the monotonic one and passes.
type clockGuard struct {
	start time.Time // with a monotonic reading
}

// check compares how much wall time and monotonic time went by since the start.
// A clock without monotonic readings, as tests inject, always passes.
func (g clockGuard) check(now time.Time) error {
	wall := now.Round(0).Sub(g.start.Round(0)) // Round(0) drops the monotonic reading
	return checkJump(wall, now.Sub(g.start))
}

func checkJump(wall, monotonic time.Duration) error {
	if jump := (wall - monotonic).Abs(); jump > maxClockJump {
		return Refuse(KindUnavailable, ReasonClock,
			"the clock was set by %v while running; check the time, then restart", wall-monotonic)
	}
	return nil
}
