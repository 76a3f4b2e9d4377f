package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/mayfly-ca/mayfly/config"
)

// metrics are those of the stack itself.
type metrics struct {
	reloads              *prometheus.CounterVec
	reloadOK, reloadedAt prometheus.Gauge
	expires              *prometheus.GaugeVec
	expiring             *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_config_reloads_total",
			Help: "Reloads of the configuration by result. An increase of refused means that the files are not what the service does; its log says why.",
		}, []string{"result"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_config_reload_last_ok",
			Help: "1 if the last reload was taken into use, or none was tried; an increase means that a refused configuration was corrected.",
		}),
		reloadedAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_config_reload_success_timestamp_seconds",
			Help: "When the configuration in use was taken into use, in seconds since 1970. An increase is a reload or a start.",
		}),
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_config_expiry_timestamp_seconds",
			Help: "When something that certificates depend on ends, in seconds since 1970, by kind and name. An increase is a renewal.",
		}, []string{"kind", "name"}),
		expiring: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mayfly_config_expiring",
			Help: "How many things end within so many days. An increase means that somebody has to renew or replace them.",
		}, []string{"within_days"}),
	}
	for _, result := range []string{"ok", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	reg.MustRegister(m.reloads, m.reloadOK, m.reloadedAt, m.expires, m.expiring)
	return m
}

func (m *metrics) reloaded(ok bool, at time.Time) {
	if !ok {
		m.reloads.WithLabelValues("refused").Inc()
		m.reloadOK.Set(0)
		return
	}
	m.reloads.WithLabelValues("ok").Inc()
	m.took(at)
}

// took notes when the configuration in use was taken into use.
func (m *metrics) took(at time.Time) {
	m.reloadOK.Set(1)
	m.reloadedAt.Set(float64(at.Unix()))
}

// gather collects every series of the service: those that last, and those of the
// logs in use.
func (s *Stack) gather() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all := prometheus.Gatherers{s.registry}
		if log := s.current.Load().log; log != nil {
			all = append(all, log.metrics)
		}
		return all.Gather()
	})
}

// startSideDoors opens what is not for clients: metrics, administration, and
// submission to the log by others.
func (s *Stack) startSideDoors(ctx context.Context, f *config.File) (io.Closer, error) {
	metrics, err := s.startMetrics(ctx, f.Metrics)
	if err != nil {
		return nil, err
	}
	admin, err := s.startAdmin(ctx, f.AdminSocket())
	if err != nil {
		return nil, errors.Join(err, metrics.Close())
	}
	submission, err := s.startSubmission(ctx, f)
	if err != nil {
		return nil, errors.Join(err, metrics.Close(), admin.Close())
	}
	return closerFunc(func() error { return errors.Join(submission.Close(), metrics.Close(), admin.Close()) }), nil
}

// startMetrics serves metrics on their own address, so that nothing about the
// inside shows where clients are. Without an address it does nothing.
func (s *Stack) startMetrics(ctx context.Context, address string) (io.Closer, error) {
	if address == "" {
		return io.NopCloser(nil), nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.gather(), promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	s.logger.Info("serving metrics", "address", ln.Addr().String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("metrics stopped", "err", err)
		}
	}()
	return closerFunc(func() error {
		err := srv.Close()
		<-done
		return err
	}), nil
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }
