package stack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/mayfly-ca/mayfly/internal/server"
)

// doorConfig says where and how to listen beside the service.
type doorConfig struct {
	what    string
	address string
	// tls is nil for plaintext.
	tls     *tls.Config
	handler http.Handler
	// read and write bound how long a request may take to arrive, with its body, and
	// its answer to leave.
	read, write time.Duration
	// drain bounds how long requests under way may take once the door closes.
	drain  time.Duration
	logger *slog.Logger
}

// doorConnections is how many connections a door holds, and a quarter of them for
// one address. Those beyond wait in the kernel's queue.
const doorConnections = 1024

// door is a listener of its own, which is served until its context ends or it is
// closed, whatever comes first.
type door struct {
	config doorConfig
	ln     net.Listener
	srv    *http.Server
	cancel context.CancelFunc
	// done is closed when no request is under way any more. Then err says how it
	// ended; nil is in order.
	done chan struct{}
	err  error
}

// openDoor listens and serves.
func openDoor(ctx context.Context, c doorConfig) (*door, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.address)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", c.what, err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(c.tls != nil)
	d := &door{config: c, ln: ln, done: make(chan struct{}), srv: &http.Server{
		Handler: c.handler, TLSConfig: c.tls, Protocols: protocols,
		ReadHeaderTimeout: 5 * time.Second, // bounds the TLS handshake too
		ReadTimeout:       c.read, WriteTimeout: c.write, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 16 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 256, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 512 << 10,
			SendPingTimeout: 30 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 10 * time.Second,
		},
		// Failed handshakes are anybody's to cause, so they are no warnings.
		ErrorLog: slog.NewLogLogger(c.logger.Handler(), slog.LevelDebug),
	}}
	ctx, d.cancel = context.WithCancel(ctx)
	c.logger.Info("listening", "for", c.what, "address", ln.Addr().String(), "tls", c.tls != nil)
	go d.serve(ctx)
	return d, nil
}

func (d *door) serve(ctx context.Context) {
	defer close(d.done)
	served := make(chan error, 1)
	ln := server.LimitConnections(d.ln, doorConnections)
	go func() {
		if d.config.tls == nil {
			served <- d.srv.Serve(ln)
		} else {
			served <- d.srv.ServeTLS(ln, "", "")
		}
	}()
	select {
	case err := <-served:
		d.err = errors.Join(fmt.Errorf("serving %s: %w", d.config.what, err), d.srv.Close())
		d.config.logger.Error("a listener has stopped", "for", d.config.what, "err", err)
		return
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.config.drain)
	defer cancel()
	if err := d.srv.Shutdown(bound); err != nil {
		d.err = errors.Join(fmt.Errorf("requests for %s cut off after %s: %w", d.config.what, d.config.drain, err), d.srv.Close())
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		d.err = errors.Join(d.err, fmt.Errorf("serving %s: %w", d.config.what, err))
	}
}

// Close drains and returns how it ended.
func (d *door) Close() error {
	d.cancel()
	<-d.done
	return d.err
}
