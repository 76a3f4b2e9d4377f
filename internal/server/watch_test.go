package server

import (
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// The deadlines of reading and writing, which cut off other streams, leave health
// watches alone: they last for days.
func TestWatchOutlivesTheDeadlines(t *testing.T) {
	s := start(t, options{config: func(c *Config) { c.Deadline = time.Minute }})
	srv, err := s.httpServer(ListenConfig{CertificateFile: s.certFile, KeyFile: s.keyFile})
	if err != nil {
		t.Fatal(err)
	}
	if srv.ReadTimeout != time.Minute || srv.WriteTimeout != time.Minute+writeGrace {
		t.Errorf("deadlines of reading and writing: got %s and %s, want the request's and %s beyond", srv.ReadTimeout, srv.WriteTimeout, writeGrace)
	}
	srv.ReadTimeout, srv.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	ln := listenLoopback(t)
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(ln, "", "") }()
	defer func() {
		_ = srv.Close()
		<-served
	}()
	s.address = ln.Addr().String()

	watch, err := healthpb.NewHealthClient(s.dial(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("watch: got %v and error %v, want SERVING", got, err)
	}
	// This stream begins after the watch, and is cut off by the same deadline.
	req := s.request(t)
	req.Credentials = &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: "block"}}
	if got, err := fulciov2.NewCAClient(s.dial(t)).CreateSigningCertificate(t.Context(), req); err == nil {
		t.Errorf("call beyond the deadline: got %v, want an error", got)
	}
	s.SetServing(false)
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch after the deadlines: got %v and error %v, want NOT_SERVING", got, err)
	}
}
