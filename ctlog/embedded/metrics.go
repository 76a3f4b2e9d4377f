package embedded

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector

	batchEntries   prometheus.Histogram
	batchSeconds   prometheus.Histogram
	published      prometheus.Gauge
	checkpointTime prometheus.Gauge
	freeBytes      prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, name string, l *Log) (*metrics, error) {
	m := &metrics{
		batchEntries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_embedded_batch_entries",
			Help:    "Entries made durable together; an increase means more load or a slower disk.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_embedded_batch_seconds",
			Help:    "Time to make one batch durable; an increase means a slower disk.",
			Buckets: prometheus.ExponentialBuckets(.000125, 2, 16),
		}),
		published: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_embedded_published_entries",
			Help: "Entries under the published checkpoint; it increases within a second of the tree.",
		}),
		checkpointTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_embedded_checkpoint_timestamp_seconds",
			Help: "Time of the published checkpoint; it must increase at least every half minute.",
		}),
		freeBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_embedded_free_bytes",
			Help: "Free space for the log; an increase means that space was made.",
		}),
	}
	if r == nil {
		return m, nil
	}
	m.registerer = prometheus.WrapRegistererWith(prometheus.Labels{"log": name}, r)
	gauge := func(what, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mayfly_embedded_" + what, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		m.batchEntries, m.batchSeconds, m.published, m.checkpointTime, m.freeBytes,
		gauge("tree_entries", "Entries that have an index for good; it increases with each certificate.",
			func() float64 { return float64(l.sequenced.Load()) }),
		gauge("unpublished_bytes", "Entries under no checkpoint yet; an increase over seconds means that checkpoints do not get out.",
			func() float64 { return float64(l.publisher.unpublished.Load()) }),
		gauge("queue_entries", "Submissions waiting for an index; an increase means that the disk is falling behind.",
			func() float64 { return float64(len(l.queue)) }),
		gauge("stopped", "1 if the log has stopped and must be opened again; an increase needs an operator.",
			func() float64 {
				select {
				case <-l.stopped:
					return 1
				default:
					return 0
				}
			}),
	} {
		if err := m.registerer.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) batch(entries int, took time.Duration) {
	m.batchEntries.Observe(float64(entries))
	m.batchSeconds.Observe(took.Seconds())
}
