package stack

import (
	"context"
	"strconv"
	"time"
)

// warnInterval is how often what ends is looked at. Each thing is told once a day.
const warnInterval = time.Hour

// warn tells what ends soon, until ctx ends.
func (s *Stack) warn(ctx context.Context) {
	tick := time.NewTicker(warnInterval)
	defer tick.Stop()
	w := warnings{told: map[string]time.Time{}}
	for {
		s.warnOnce(&w)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// warnings remembers what was told when.
type warnings struct{ told map[string]time.Time }

// due reports that something was not told within a day.
func (w *warnings) due(what string, now time.Time) bool {
	if last, ok := w.told[what]; ok && now.Sub(last) < day {
		return false
	}
	w.told[what] = now
	return true
}

func (s *Stack) warnOnce(w *warnings) {
	n, now := s.current.Load(), s.options.Clock()
	all := n.expiries(now)
	within := map[int]float64{}
	s.metrics.expires.Reset()
	for _, e := range all {
		s.metrics.expires.WithLabelValues(e.Kind, e.Name).Set(float64(e.At.Unix()))
		for _, days := range thresholds {
			if e.WithinDays > 0 && e.WithinDays <= days {
				within[days]++
			}
		}
		if e.WithinDays == 0 || !w.due(e.Kind+" "+e.Name+" "+strconv.Itoa(e.WithinDays), now) {
			continue
		}
		level := s.logger.Warn
		if e.WithinDays == thresholds[0] {
			level = s.logger.Error
		}
		level("something ends soon and needs a successor", "kind", e.Kind, "name", e.Name, "what", e.What, "at", e.At,
			"left", e.At.Sub(now).Round(time.Minute))
	}
	for _, days := range thresholds {
		s.metrics.expiring.WithLabelValues(strconv.Itoa(days)).Set(within[days])
	}
	s.ending.Store(within[thresholds[0]] > 0)
}

// shown is what readiness shows and what takes nothing out of service.
//
// A refused configuration is not a reason to send clients elsewhere: the one before
// works, and the file is the same on every replica, so that all of them would go at
// once and a typing mistake would be an outage. Nor is a chain that ends next week,
// nor an alarm of the log audit: it is about what has happened already, all replicas
// have it at once, and to end all signing is for people to decide.
func (s *Stack) shown() map[string]bool {
	return map[string]bool{"config": !s.reloads.refused.Load(), "expiry": !s.ending.Load(), "log_audit": s.audited()}
}
