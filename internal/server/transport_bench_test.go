package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// BenchmarkTransport is an issuance over TLS 1.3 on loopback, behind which
// everything but the proof has happened already, beside a handler that only reads
// the body, checks the same proof and answers the same bytes, on a net/http
// server with its defaults. Client and server share the process, so the CPU time
// of both is in
//
//	cpu-us, empty-us   per request of the server and of the empty handler
//	own-us             the difference
//	ratio              one by the other
//
// Connections are kept and shared by 8 callers, or made for each request, as by
// the jobs of a CI system.
func BenchmarkTransport(b *testing.B) {
	snapshot, s := instant(b)
	s.certFile, s.keyFile = s.tlsFiles(b)
	whole := s.listenWhole(b, snapshot)
	empty := s.listenEmpty(b, snapshot)
	body := s.body(b)
	for _, tc := range []struct {
		name  string
		proto string
		fresh bool
	}{{"h1", "HTTP/1.1", false}, {"h2", "HTTP/2.0", false}, {"h1-connection-each", "HTTP/1.1", true}} {
		b.Run(tc.name, func(b *testing.B) {
			ask := func(address string) func() {
				return s.overREST(b, address, tc.proto, body, tc.fresh)
			}
			compare(b, ask(whole), ask(empty))
		})
	}
	b.Run("grpc", func(b *testing.B) {
		compare(b, s.overGRPC(b, whole), s.overGRPC(b, empty))
	})
}

const (
	transportRounds  = 400
	transportCallers = 8
)

// compare calls one and other in turns, so that both see the same machine.
func compare(b *testing.B, one, other func()) {
	b.Helper()
	round := func(do func()) time.Duration {
		start := processCPU(b)
		var wg sync.WaitGroup
		for range transportCallers {
			wg.Go(func() {
				for range transportRounds / transportCallers {
					do()
				}
			})
		}
		wg.Wait()
		return processCPU(b) - start
	}
	round(one)
	round(other)
	b.ResetTimer()
	var a, z time.Duration
	for range b.N {
		a += round(one)
		z += round(other)
	}
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N*transportRounds) }
	b.ReportMetric(per(a), "cpu-us")
	b.ReportMetric(per(z), "empty-us")
	b.ReportMetric(per(a-z), "own-us")
	b.ReportMetric(float64(a)/float64(z), "ratio")
}

func (s *stack) tlsFiles(b *testing.B) (cert, key string) {
	b.Helper()
	dir := b.TempDir()
	s.roots = x509.NewCertPool()
	s.roots.AddCert(writeTLS(b, dir, "bench"))
	return filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
}

// listenWhole serves the server and returns its address.
func (s *stack) listenWhole(b *testing.B, snapshot *Snapshot) string {
	b.Helper()
	server, err := New(unlimited(snapshot))
	if err != nil {
		b.Fatal(err)
	}
	ln := listenLoopback(b)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(ctx, ListenConfig{Listener: ln, CertificateFile: s.certFile, KeyFile: s.keyFile, Drain: time.Second})
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	return ln.Addr().String()
}

// listenEmpty serves the empty handler and the empty method, and returns their
// address.
func (s *stack) listenEmpty(b *testing.B, snapshot *Snapshot) string {
	b.Helper()
	id, _ := identityOf("alice", s.clock.now())
	req := s.request(b).GetPublicKeyRequest()
	prove := func() {
		if _, err := ca.ProveSignature([]byte(req.GetPublicKey().GetContent()), req.GetProofOfPossession(), id); err != nil {
			b.Error(err)
		}
	}
	cert, err := snapshot.Issue(b.Context(), ca.Request{})
	if err != nil {
		b.Fatal(err)
	}
	answer := certificateJSON(cert.PEM(), cert.HasSCT())
	g := grpc.NewServer()
	fulciov2.RegisterCAServer(g, emptyService{prove: prove, answer: signingCertificate(cert.PEM(), cert.HasSCT())})
	srv := &http.Server{ReadHeaderTimeout: headerTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isGRPC(r) {
			g.ServeHTTP(w, r)
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Error(err)
		}
		prove()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})}
	ln := listenLoopback(b)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(ln, s.certFile, s.keyFile) }()
	b.Cleanup(func() {
		_ = srv.Close()
		<-done
		g.Stop()
	})
	return ln.Addr().String()
}

type emptyService struct {
	fulciov2.UnimplementedCAServer
	prove  func()
	answer *fulciov2.SigningCertificate
}

func (e emptyService) CreateSigningCertificate(context.Context, *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	e.prove()
	return e.answer, nil
}

func listenLoopback(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// overREST returns what sends one request and reads its answer.
func (s *stack) overREST(b *testing.B, address, proto, body string, fresh bool) func() {
	b.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(proto == "HTTP/1.1")
	protocols.SetHTTP2(proto == "HTTP/2.0")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS13}, Protocols: protocols,
		DisableKeepAlives: fresh, DisableCompression: true, MaxIdleConnsPerHost: transportCallers}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	url := "https://" + address + "/api/v2/signingCert"
	return func() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader([]byte(body)))
		if err != nil {
			b.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+longToken)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			b.Error(err)
			return
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || resp.Proto != proto {
			b.Errorf("got %s %s and error %v, want 200 by %s", resp.Proto, resp.Status, err, proto)
		}
	}
}

// overGRPC is the same through gRPC, with the token in the message.
func (s *stack) overGRPC(b *testing.B, address string) func() {
	b.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS13})))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client, req := fulciov2.NewCAClient(conn), s.request(b)
	req.Credentials = &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: longToken}}
	return func() {
		if _, err := client.CreateSigningCertificate(b.Context(), req); err != nil {
			b.Error(err)
		}
	}
}
