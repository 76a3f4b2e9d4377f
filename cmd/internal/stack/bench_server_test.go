package stack

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/mayfly-ca/mayfly/internal/floor"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// serverClients keep both cores of a small machine busy.
const serverClients = 16

// BenchmarkServer is the whole server, its transport included: real connections
// over loopback with TLS 1.3, from clients in a process of their own. CPU time is
// the server's alone. Beside what BenchmarkIssuance reports there are
//
//	empty-us          CPU time of net/http, or of gRPC below net/http, with a
//	                  handler that reads the request and answers the same bytes
//	                  from memory, to the same clients in the same run
//	own/floor         what is left of cpu/floor without that
//
// Half of what a client feels on a small machine is the client itself, so
// issued/s says less here than elsewhere.
func BenchmarkServer(b *testing.B) {
	s := newSite(b)
	s.initLog()
	root := s.makeTLS()
	r := s.loaded(
		"plaintext: true", "tls: {certificate: tls.crt, key: tls.key}", "public_url: http:", "public_url: https:",
		"per_address: 100000/min", "per_address: 1000000/min",
	)
	served := r.Stack.options.Listener.Addr().String()
	arithmetic := newFloor(b, floor.Spec{})
	for _, over := range []string{overHTTP1, overHTTP2, overGRPC, overNew} {
		door := apiV2
		if over == overGRPC {
			door = apiGRPC
		}
		order := clientOrder{Over: over, Root: root, Clients: serverClients}
		for _, c := range s.calls(door, "") {
			order.Calls = append(order.Calls, clientCall{c.target.URL.Path, c.header, c.body})
		}
		b.Run("over="+over, func(b *testing.B) {
			order.URL = s.empty(b, r.server.Handler())
			none := order.client(b)
			order.URL = "https://" + served
			ask := order.client(b)
			none(2 * serverClients)
			transport := inTurns(b, min(b.N, 4096), serverClients, arithmetic, none)
			ask(2 * serverClients)
			b.ReportAllocs()
			b.ResetTimer()
			m := inTurns(b, b.N, serverClients, arithmetic, ask)
			b.StopTimer()
			m.report(b)
			b.ReportMetric(transport.cpu/1e3, "empty-us")
			b.ReportMetric(m.cpu/m.floor-transport.cpu/transport.floor, "own/floor")
		})
	}
}

// makeTLS writes tls.crt and tls.key for loopback, and returns their root.
func (s *site) makeTLS() []byte {
	s.t.Helper()
	key := newKey(s.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	s.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	s.write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return der
}

// empty serves, until the benchmark ends, what handler answers now: the same bytes
// for every request.
func (s *site) empty(b *testing.B, handler http.Handler) (url string) {
	b.Helper()
	c := s.calls(apiV2, "")[0]
	w := c.reply()
	handler.ServeHTTP(w, c.request(b.Context()))
	if err := w.bad(); err != nil {
		b.Fatal(err)
	}
	same := grpc.NewServer()
	fulciov2.RegisterCAServer(same, sameAnswer{text: w.body.String()})
	rest := http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "application/grpc" {
			same.ServeHTTP(out, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		out.Header().Set("Content-Type", "application/json")
		_, _ = out.Write(w.body.Bytes())
	})
	pair, err := tls.LoadX509KeyPair(s.dir+"/tls.crt", s.dir+"/tls.key")
	s.must(err)
	srv := &http.Server{
		Handler: rest, ReadHeaderTimeout: time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	ln := listen(b)
	ended := make(chan struct{})
	go func() { _ = srv.ServeTLS(ln, "", ""); close(ended) }()
	b.Cleanup(func() {
		_ = srv.Close()
		same.Stop()
		<-ended
	})
	return "https://" + ln.Addr().String()
}

// sameAnswer is a CA that answers one text, for a whole chain.
type sameAnswer struct {
	fulciov2.CAServer
	text string
}

func (a sameAnswer) CreateSigningCertificate(context.Context, *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateEmbeddedSct{
		SignedCertificateEmbeddedSct: &fulciov2.SigningCertificateEmbeddedSCT{Chain: &fulciov2.CertificateChain{Certificates: []string{a.text}}},
	}}, nil
}
