package ca

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stages of an issuance, as metrics and errors name them.
const (
	stageIntent  = "intent"
	stagePrecert = "precertificate"
	stageLog     = "log"
	stageFinal   = "final"
)

type metrics struct {
	issuance *prometheus.CounterVec
	stages   *prometheus.HistogramVec
	logging  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		issuance: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_ca_issuance_total",
			Help: "Requests with a verified identity by result and reason. Rising refusals of one reason mean a misconfigured client, a policy that turns people away, or an outage of what the reason names.",
		}, []string{"result", "reason"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "mayfly_ca_stage_duration_seconds",
			Help:    "Time spent in each stage of an issuance. A rise names the slow part: disk (intent), CA key (precertificate, final) or log.",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 4},
		}, []string{"stage"}),
	}
	m.logging = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ca_logging_enabled",
		Help: "1 if certificates are logged; an increase means that logging was switched on, a drop that the configuration says `logs: disabled`.",
	})
	if reg == nil {
		return m, nil
	}
	// A new configuration makes a new Authority, which goes on counting where
	// the old one stopped.
	var err error
	if m.issuance, err = register(reg, m.issuance); err != nil {
		return nil, err
	}
	if m.stages, err = register(reg, m.stages); err != nil {
		return nil, err
	}
	m.logging, err = register(reg, m.logging)
	return m, err
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, err
}

// stage starts timing a stage and returns what ends it.
func (m *metrics) stage(name string) func() {
	start := time.Now()
	return func() { m.stages.WithLabelValues(name).Observe(time.Since(start).Seconds()) }
}
