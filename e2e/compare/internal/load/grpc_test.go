package load_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// grpcAuthority answers as the authority does, by gRPC.
type grpcAuthority struct {
	fulciov2.UnimplementedCAServer
	*authority
	t *testing.T
}

func (g *grpcAuthority) CreateSigningCertificate(_ context.Context, r *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	block, _ := pem.Decode([]byte(r.GetPublicKeyRequest().GetPublicKey().GetContent()))
	if block == nil || len(r.GetPublicKeyRequest().GetProofOfPossession()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no key with its proof")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	leaf := g.leaf(g.t, "Bearer "+r.GetCredentials().GetOidcIdentityToken(), public)
	return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateEmbeddedSct{
		SignedCertificateEmbeddedSct: &fulciov2.SigningCertificateEmbeddedSCT{Chain: &fulciov2.CertificateChain{Certificates: []string{string(leaf)}}},
	}}, nil
}

func TestGRPCAsksOverTLS(t *testing.T) {
	p, err := site.NewPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.Server())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	fulciov2.RegisterCAServer(server, &grpcAuthority{authority: a, t: t})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	g := &load.GRPC{
		Address: listener.Addr().String(), Expected: load.Expected{Issuing: a.cert, SCT: true},
		TLS: &tls.Config{RootCAs: p.Roots(), ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12},
	}
	g.Prepare(applicants(t, load.P256, 3))
	got := mustRun(t, load.Closed{Clients: 2, Duration: 200 * time.Millisecond, Timeout: 10 * time.Second}.Run, g.Dial)
	if got.Good == 0 || got.Error != nil {
		t.Errorf("%d of %d calls were good: %v", got.Good, got.Sent, got.Error)
	}
	g.Expected.SCT = false
	client := g.Dial(0)
	if err := client.Call(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "SCT") {
		t.Errorf("an SCT too many: %v, want an error that names it", err)
	}
	g.Prepare([]load.Applicant{{Email: "nobody@corp.example"}})
	if err := client.Call(t.Context(), 0); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a refusal is %v, want its code", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}
