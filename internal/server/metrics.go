package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	panics   prometheus.Counter
	reloads  *prometheus.CounterVec
	notAfter prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, inFlight, connections chan struct{}) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_requests_total",
			Help: "Requests answered, by route and status. An increase is traffic; of 5xx and grpc-13 or grpc-14, trouble.",
		}, []string{"route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_server_request_duration_seconds",
			Help:    "Time from the request's header to its answer, by route. An increase means slower logs, keys or clients.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4, 8},
		}, []string{"route"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_refusals_total",
			Help: "Requests refused, by reason code. docs/api.md says what an increase of each means.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mayfly_server_panics_total",
			Help: "Requests that hit a bug. Any increase should be reported with the log line of the same time.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_server_tls_reloads_total",
			Help: "Changes of the TLS certificate files, by result. An increase of error means that the old certificate stays in use.",
		}, []string{"result"}),
		notAfter: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_server_tls_not_after_seconds",
			Help: "When the TLS certificate in use expires, in seconds since 1970. An increase is a renewal.",
		}),
	}
	for _, reason := range reasonLabels() {
		m.refusals.WithLabelValues(string(reason))
	}
	for _, result := range []string{"ok", "error"} {
		m.reloads.WithLabelValues(result)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.refusals, m.panics, m.reloads, m.notAfter,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_server_in_flight_requests",
			Help: "Issuances under way. An increase towards the limit means that callers are about to be turned away.",
		}, func() float64 { return float64(len(inFlight)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_server_open_connections",
			Help: "Connections of clients, idle ones included. An increase towards half of the process's descriptor limit means that new ones are about to wait.",
		}, func() float64 { return float64(len(connections)) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(c *call, outcome string, took time.Duration) {
	m.requests.WithLabelValues(c.route, outcome).Inc()
	m.duration.WithLabelValues(c.route).Observe(took.Seconds())
	if c.refusal != nil {
		m.refusals.WithLabelValues(string(c.refusal.Reason)).Inc()
	}
}
