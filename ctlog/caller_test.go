package ctlog_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// A client of gRPC says how long it will wait. It must not be able to choose that
// so that a log which is only slow seems to fail, and is closed to everybody.
func TestACallersHasteIsNoFaultOfALog(t *testing.T) {
	const slow = 900 * time.Millisecond
	for _, waits := range []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond, 850 * time.Millisecond} {
		for others := range 3 {
			synctest.Test(t, func(t *testing.T) {
				a := &scripted{name: "a", id: 1, do: func(ctx context.Context) error {
					select {
					case <-time.After(slow):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}}
				logs := []ctlog.Log{a}
				if others > 0 {
					logs = append(logs, &scripted{name: "b", id: 2, do: hangs})
				}
				if others > 1 {
					logs = append(logs, &scripted{name: "c", id: 3, ready: ctlog.ErrOverloaded})
				}
				p := newPool(t, logs...)
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), waits)
					if _, err := p.Submit(ctx, ctlog.Submission{}); err == nil {
						t.Errorf("%s for a log that takes %s: got an SCT", waits, slow)
					}
					cancel()
				}
				asked := a.asked()
				_, _ = p.Submit(t.Context(), ctlog.Submission{})
				if a.asked() != asked+1 {
					t.Errorf("%d more logs: after callers who wait %s, a log that takes %s rests: %v", others, waits, slow, p.Ready())
				}
			})
		}
	}
}
