package auditor

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	unexplained, unaudited, rounds prometheus.Counter
	entries                        *prometheus.CounterVec
	alarms                         *prometheus.GaugeVec
	pending, promised, finished    prometheus.Gauge
	size, headTime                 *prometheus.GaugeVec
	until                          *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		unexplained: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_auditor_unexplained_entries_total",
			Help: "Log entries under one of our issuing keys that no journal knows. An increase means that a CA key was used behind the back of the service.",
		}),
		unaudited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_auditor_unaudited_promises_total",
			Help: "Recorded SCTs that are not followed up, for they are of a log that is not audited here. An increase is no harm by itself.",
		}),
		rounds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_auditor_rounds_total",
			Help: "Rounds of the log audit. An increase means that it is at work.",
		}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_auditor_entries_total",
			Help: "Log entries that were read, by what they are: explained by a journal when they were read, or other CAs'. An increase means that logs grow.",
		}, []string{"kind"}),
		alarms: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_auditor_alarms",
			Help: "Present alarms of the log audit by class. An increase means that somebody has to look; docs/log-audit.md says at what.",
		}, []string{"class"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_auditor_pending_entries",
			Help: "Entries whose intent may be on its way in a copy of a journal. A lasting increase means that copies lag.",
		}),
		promised: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_auditor_promised_entries",
			Help: "SCTs whose entry is not in its log yet. A lasting increase means that a log does not merge.",
		}),
		finished: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_auditor_caught_up_timestamp_seconds",
			Help: "When logs and journals were last read to their ends, in seconds since 1970. It increases with every good round.",
		}),
		size: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_auditor_log_size",
			Help: "Entries of a log that were proven. An increase means that the log grows.",
		}, []string{"log"}),
		headTime: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_auditor_log_head_timestamp_seconds",
			Help: "Time in the last proven head of a log, in seconds since 1970. It increases as long as the log signs.",
		}, []string{"log"}),
		until: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_auditor_journal_timestamp_seconds",
			Help: "Up to when a journal is known to be read, in seconds since 1970. It increases as long as copies come.",
		}, []string{"journal"}),
	}
	for _, kind := range []string{"explained", "other"} {
		m.entries.WithLabelValues(kind)
	}
	for _, c := range classes {
		m.alarms.WithLabelValues(string(c))
	}
	return m
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.unexplained, m.unaudited, m.rounds, m.entries, m.alarms, m.pending, m.promised, m.finished, m.size, m.headTime, m.until} {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}

// show sets the gauges to what a report says.
func (m *metrics) show(r Report) {
	count := map[Class]float64{}
	for _, a := range r.Alarms {
		count[a.Class]++
	}
	for _, c := range classes {
		m.alarms.WithLabelValues(string(c)).Set(count[c])
	}
	m.rounds.Inc()
	m.pending.Set(float64(r.Pending))
	m.promised.Set(float64(r.Promised))
	if r.CaughtUp {
		m.finished.Set(float64(r.Time.Unix()))
	}
	for _, l := range r.Logs {
		m.size.WithLabelValues(l.Name).Set(float64(l.Size))
		m.headTime.WithLabelValues(l.Name).Set(float64(l.Time.Unix()))
	}
	for _, j := range r.Journals {
		m.until.WithLabelValues(j.Name).Set(float64(j.Until.Unix()))
	}
}
