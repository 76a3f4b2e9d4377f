package audit

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records            *prometheus.CounterVec
	sync               prometheus.Histogram
	open, failed, free prometheus.Gauge
	dropped            prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_audit_records_total",
			Help: "Records written to the audit journal, by type. Intents growing faster than outcomes means requests that do not end.",
		}, []string{"type"}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_audit_sync_duration_seconds",
			Help:    "Time that one sync of the audit journal took. An increase means a slow disk; every issuance waits for one sync.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		open: gauge("mayfly_audit_open_intents",
			"Intents without an outcome. An increase means requests that hang between signing and reply."),
		failed: gauge("mayfly_audit_failed",
			"1 after the journal could not be written. Nothing is issued until the process restarts."),
		free: gauge("mayfly_audit_free_bytes",
			"Free space for the audit journal. A decrease to the reserve means refusals are only counted; to the floor, that nothing is issued."),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_audit_refusals_dropped_total",
			Help: "Refusals of verified identities that were counted and not recorded one by one. An increase means more refusals than the limit, or little space.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.records, m.sync, m.open, m.failed, m.free, m.dropped} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}
