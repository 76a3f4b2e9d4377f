package embedded

import (
	"fmt"
	"sync"
	"time"
)

// maxClockStep is how far the clock may stand behind the last time used before
// the log refuses to sign. Within it the last time is used again: a time service
// slewing by milliseconds is no reason to stop issuing.
const maxClockStep = time.Second

// monotone is a clock that never runs backwards, across restarts too: Open
// raises its floor to every time the log has signed before.
//
// RFC 6962, Section 3.5: "The timestamp MUST be at least as recent as the most
// recent SCT timestamp in the tree."
type monotone struct {
	source func() time.Time

	mu    sync.Mutex // guards floor
	floor time.Time
}

// now returns the time in milliseconds resolution, or an error if the clock
// stands too far behind a time that was used before.
func (m *monotone) now() (time.Time, error) {
	t := m.source().Truncate(time.Millisecond).UTC()
	m.mu.Lock()
	defer m.mu.Unlock()
	if behind := m.floor.Sub(t); behind > maxClockStep {
		return time.Time{}, fmt.Errorf("the clock says %s, but the log has signed at %s",
			t.Format(time.RFC3339Nano), m.floor.Format(time.RFC3339Nano))
	} else if behind > 0 {
		t = m.floor
	}
	m.floor = t
	return t, nil
}

// check is now without moving the floor.
func (m *monotone) check() error {
	t := m.source()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.floor.Sub(t) > maxClockStep {
		return fmt.Errorf("the clock says %s, but the log has signed at %s",
			t.UTC().Format(time.RFC3339Nano), m.floor.Format(time.RFC3339Nano))
	}
	return nil
}

func (m *monotone) raise(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.After(m.floor) {
		m.floor = t.UTC()
	}
}
