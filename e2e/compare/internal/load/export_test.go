package load

import (
	"context"
	"testing"
	"time"
)

// NewAlarm is the default of Open.Sleep.
func NewAlarm(t *testing.T, ctx context.Context) func(context.Context, time.Duration) {
	t.Helper()
	a, err := newAlarm(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a.sleep
}
