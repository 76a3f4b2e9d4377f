package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// maxReasons bounds the tally. There are fewer reasons; one that is made from
// input would be a bug, and must not cost memory.
const maxReasons = 256

// tally counts refusals that get no record of their own.
type tally struct {
	mu sync.Mutex
	// mu guards what follows. since is zero when nothing was counted.
	since               time.Time
	unverified, dropped map[ca.Reason]uint64
	clock               func() time.Time
}

// add counts one refusal in unverified or dropped, which which points to.
func (t *tally) add(which *map[ca.Reason]uint64, reason ca.Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *which == nil {
		*which = make(map[ca.Reason]uint64)
	}
	if t.since.IsZero() {
		t.since = t.clock()
	}
	if _, ok := (*which)[reason]; !ok && len(*which) >= maxReasons {
		reason = "other"
	}
	(*which)[reason]++
}

// take returns the body of the record and starts over; false if there is
// nothing to write.
func (t *tally) take(now time.Time) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return nil, false
	}
	body, err := encode(struct {
		From       string               `json:"from"`
		To         string               `json:"to"`
		Unverified map[ca.Reason]uint64 `json:"unverified,omitempty"`
		Dropped    map[ca.Reason]uint64 `json:"dropped,omitempty"`
	}{stamp(t.since), stamp(now), t.unverified, t.dropped})
	if err != nil {
		return nil, false
	}
	t.since, t.unverified, t.dropped = time.Time{}, nil, nil
	return body, true
}

// factsOf turns attributes into what JSON can show.
func factsOf(attrs []slog.Attr) (map[string]any, error) {
	facts := make(map[string]any, len(attrs))
	for _, a := range attrs {
		if _, twice := facts[a.Key]; twice || a.Key == "" {
			return nil, fmt.Errorf("attribute %q is empty or given twice", a.Key)
		}
		v, err := factOf(a.Value.Resolve())
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", a.Key, err)
		}
		facts[a.Key] = v
	}
	return facts, nil
}

func factOf(v slog.Value) (any, error) {
	switch v.Kind() {
	case slog.KindString, slog.KindInt64, slog.KindUint64, slog.KindBool, slog.KindFloat64:
		return v.Any(), nil
	case slog.KindDuration:
		return v.Duration().String(), nil
	case slog.KindTime:
		return stamp(v.Time()), nil
	case slog.KindGroup:
		return factsOf(v.Group())
	}
	switch x := v.Any().(type) {
	case []string:
		return x, nil
	case error:
		return shorten(x.Error()), nil
	case nil:
		return nil, errors.New("no value")
	default:
		return nil, fmt.Errorf("%T is not recorded", x)
	}
}
