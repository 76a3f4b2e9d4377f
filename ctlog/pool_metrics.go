package ctlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// poolMetrics are about the logs of one pool.
type poolMetrics struct {
	seconds *prometheus.HistogramVec
	breaker *prometheus.GaugeVec
	lies    *prometheus.CounterVec
	winner  *prometheus.CounterVec
}

func newPoolMetrics() *poolMetrics {
	return &poolMetrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_ctlog_submit_seconds",
			Help: "Time one log took over one submission, by its result; more in results other than " +
				"\"ok\" means that certificates were delayed or refused for want of an SCT.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"log", "result"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_ctlog_breaker_state",
			Help: "0 if submissions go to the log, 1 if the next one tries whether it has recovered, 2 if it " +
				"rests and is passed over. An increase means that the log fails.",
		}, []string{"log"}),
		lies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ctlog_bad_sct_total",
			Help: "Answers of a log that were no valid SCT over the submission, by reason. An increase means " +
				"that the log is broken, or is not the one whose key is configured.",
		}, []string{"log", "reason"}),
		winner: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ctlog_winner_total",
			Help: "SCTs that were embedded, by the log that gave them. An increase for any but the first log " +
				"means that one before it was passed over.",
		}, []string{"log"}),
	}
}

// of makes the series of a log exist, and returns the gauge of its breaker.
func (m *poolMetrics) of(log string) prometheus.Gauge {
	m.winner.WithLabelValues(log)
	return m.breaker.WithLabelValues(log)
}

func (m *poolMetrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.seconds, m.breaker, m.lies, m.winner} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("ctlog: registering metrics: %w", err)
		}
	}
	return nil
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, ErrBadSCT):
		return "bad_sct"
	case errors.Is(err, ErrRejected):
		return "rejected"
	case errors.Is(err, ErrOverloaded):
		return "overloaded"
	default:
		return "unavailable"
	}
}
