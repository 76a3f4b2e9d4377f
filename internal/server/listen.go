package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ListenConfig says where and how to listen.
type ListenConfig struct {
	// Address is a TCP address as for net.Listen. Listener, if set, is used
	// instead; Serve closes it.
	Address  string
	Listener net.Listener
	// CertificateFile and KeyFile are PEM. They are read again when they change,
	// symbolic links included; a pair that does not load leaves the last good
	// one in use.
	CertificateFile, KeyFile string
	// Plaintext serves without TLS, and needs no files. It must be asked for by
	// name because tokens travel here.
	Plaintext bool
	// Drain bounds how long requests under way may take to finish once the
	// context has ended. It defaults to 10 s.
	Drain time.Duration
}

// Limits of connections. Those of requests are set per request.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 90 * time.Second
	// writeGrace is how long a client may take to read its answer.
	writeGrace   = 10 * time.Second
	pingInterval = 30 * time.Second
	// headerSlack is what a request may have in headers besides its token. It
	// is generous, so that who sends too long a token reads our answer and not
	// net/http's bare 431.
	headerSlack = 64 << 10
	// maxStreams is per connection.
	maxStreams = 128
)

// Serve answers requests until the context ends, and then shuts down in order:
// health turns NOT_SERVING, health watches end, no more connections are taken
// and requests under way finish, gRPC stops. What has not finished within Drain
// is cut off. It returns nil after an orderly end, and only when no request is
// running any more, or when one ignores its deadline.
func (s *Server) Serve(ctx context.Context, cfg ListenConfig) error {
	ln := cfg.Listener
	srv, err := s.httpServer(cfg)
	if err != nil {
		if ln != nil {
			err = errors.Join(err, ln.Close())
		}
		return fmt.Errorf("server: %w", err)
	}
	if ln == nil {
		if ln, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address); err != nil {
			return fmt.Errorf("server: %w", err)
		}
	}
	ln = s.connections.limit(ln)
	s.cfg.Logger.Info("listening", "address", ln.Addr().String(), "tls", !cfg.Plaintext)
	served := make(chan error, 1)
	go func() {
		if cfg.Plaintext {
			served <- srv.Serve(ln)
		} else {
			served <- srv.ServeTLS(ln, "", "")
		}
	}()
	select {
	case err := <-served:
		_ = srv.Close()
		s.Close()
		return errors.Join(fmt.Errorf("server: serving: %w", err), s.waitForCalls())
	case <-ctx.Done():
	}
	return s.shutdown(srv, served, cmp.Or(cfg.Drain, 10*time.Second))
}

func (s *Server) shutdown(srv *http.Server, served <-chan error, drain time.Duration) error {
	s.cfg.Logger.Info("draining", "bound", drain)
	s.SetServing(false)
	s.watches.end()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err := srv.Shutdown(ctx)
	if err != nil {
		_ = srv.Close() // ends the contexts of the requests under way
		err = fmt.Errorf("server: requests cut off after %s: %w", drain, err)
	}
	s.Close()
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("server: serving: %w", end))
	}
	return errors.Join(err, s.waitForCalls())
}

// waitForCalls waits until no handler runs, because what they use is closed
// next. Their contexts have ended or will at their deadline.
func (s *Server) waitForCalls() error {
	idle := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(idle)
	}()
	bound := time.NewTimer(s.cfg.Deadline)
	defer bound.Stop()
	select {
	case <-idle:
		return nil
	case <-bound.C:
		return fmt.Errorf("server: a request ignores its deadline of %s", s.cfg.Deadline)
	}
}

func (s *Server) httpServer(cfg ListenConfig) (*http.Server, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!cfg.Plaintext)
	protocols.SetUnencryptedHTTP2(cfg.Plaintext)
	srv := &http.Server{
		Handler:           s.Handler(),
		Protocols:         protocols,
		ReadHeaderTimeout: min(headerTimeout, s.cfg.Deadline), // bounds the TLS handshake too
		// A context ends no read from a client that sends a byte a minute, so
		// connection or stream keep the deadline too. net/http sets these as it
		// reads the header; set by the handler, each would be a message to the
		// goroutine that owns an HTTP/2 connection.
		ReadTimeout:    s.cfg.Deadline,
		WriteTimeout:   s.cfg.Deadline + writeGrace,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: s.cfg.Limits.TokenBytes + headerSlack,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     maxBody,
			SendPingTimeout:               pingInterval, // a watch may outlive its client's host
			PingTimeout:                   headerTimeout,
			WriteByteTimeout:              writeGrace,
		},
		// Failed handshakes are anybody's to cause, so they are no warnings.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	files := cfg.CertificateFile != "" && cfg.KeyFile != ""
	switch {
	case cfg.Plaintext && (cfg.CertificateFile != "" || cfg.KeyFile != ""):
		return nil, errors.New("plaintext and a TLS certificate exclude each other")
	case !cfg.Plaintext && !files:
		return nil, errors.New("neither plaintext nor a TLS certificate and key")
	case files:
		pair, err := loadKeyPair(cfg.CertificateFile, cfg.KeyFile, s.cfg.Clock, s.cfg.Logger, s.metrics)
		if err != nil {
			return nil, fmt.Errorf("loading TLS certificate: %w", err)
		}
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.certificate}
	}
	return srv, nil
}
