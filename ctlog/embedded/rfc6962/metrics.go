package rfc6962

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of a request, as metrics call them.
const (
	resultOK          = "ok"
	resultRepeated    = "repeated"
	resultRejected    = "rejected"
	resultQuota       = "quota"
	resultOverloaded  = "overloaded"
	resultUnavailable = "unavailable"
	resultGone        = "gone"
)

type metrics struct{ seconds *prometheus.HistogramVec }

func newMetrics(r prometheus.Registerer, log string, h *Handler) (*metrics, error) {
	m := &metrics{seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mayfly_rfc6962_request_seconds",
		Help: "Time of requests by submitters of other processes, by what was asked and the result. More in results other " +
			"than \"ok\" and \"repeated\" means that others get no SCT.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"route", "result"})}
	if r == nil {
		return m, nil
	}
	r = prometheus.WrapRegistererWith(prometheus.Labels{"log": log}, r)
	for _, c := range []prometheus.Collector{
		m.seconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_rfc6962_in_flight_requests",
			Help: "Requests by submitters under way. An increase towards the limit means that they are about to be turned away.",
		}, func() float64 { return float64(len(h.flying)) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "mayfly_rfc6962_paths_verified_total",
			Help: "Paths above submitted certificates that had to be verified. A steady increase means that submitters send ever new chains, which costs time.",
		}, func() float64 { return float64(h.verified.Load() + h.issuers.Load().verified.Load()) }),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(route, result string, took time.Duration) {
	m.seconds.WithLabelValues(route, result).Observe(took.Seconds())
}
