package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// startSideDoors opens what is not for clients: metrics and administration.
func (s *Stack) startSideDoors(ctx context.Context) (io.Closer, error) {
	metrics, err := s.startMetrics(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := s.startAdmin(ctx)
	if err != nil {
		return nil, errors.Join(err, metrics.Close())
	}
	return closerFunc(func() error { return errors.Join(metrics.Close(), admin.Close()) }), nil
}

// startMetrics serves metrics on their own address, so that nothing about the
// inside shows where clients are. Without an address it does nothing.
func (s *Stack) startMetrics(ctx context.Context) (io.Closer, error) {
	if s.file.Metrics == "" {
		return io.NopCloser(nil), nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.file.Metrics)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
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
