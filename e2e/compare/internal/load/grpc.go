package load

import (
	"context"
	"crypto/tls"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// GRPC is calls of the gRPC API over TLS.
type GRPC struct {
	Address  string
	TLS      *tls.Config
	Expected Expected

	applicants []Applicant
	requests   []*fulciov2.CreateSigningCertificateRequest
}

// Prepare makes the messages.
func (g *GRPC) Prepare(applicants []Applicant) {
	g.applicants, g.requests = applicants, make([]*fulciov2.CreateSigningCertificateRequest, len(applicants))
	for i, a := range applicants {
		g.requests[i] = &fulciov2.CreateSigningCertificateRequest{
			Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: a.Token}},
			Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
				PublicKey: &fulciov2.PublicKey{Content: a.PEM}, ProofOfPossession: a.Proof,
			}},
		}
	}
}

// Dial makes a client with a connection of its own.
func (g *GRPC) Dial(int) Caller { return &grpcClient{api: g} }

type grpcClient struct {
	api  *GRPC
	conn *grpc.ClientConn
}

func (c *grpcClient) Call(ctx context.Context, number int) error {
	if c.conn == nil {
		conn, err := grpc.NewClient("passthrough:///"+c.api.Address, grpc.WithTransportCredentials(credentials.NewTLS(c.api.TLS)))
		if err != nil {
			return fmt.Errorf("making a gRPC client: %w", err)
		}
		c.conn = conn
	}
	index := number % len(c.api.requests)
	got, err := fulciov2.NewCAClient(c.conn).CreateSigningCertificate(ctx, c.api.requests[index])
	if err != nil {
		return fmt.Errorf("calling: %w", err)
	}
	chain := got.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()
	if len(chain) == 0 {
		chain = got.GetSignedCertificateDetachedSct().GetChain().GetCertificates()
	}
	if len(chain) == 0 {
		return fmt.Errorf("an answer without a certificate: %v", got)
	}
	if number%sampled != 0 {
		return nil
	}
	leaf, err := parseLeaf([]byte(chain[0]))
	if err != nil {
		return err
	}
	return c.api.Expected.check(leaf, c.api.applicants[index])
}

func (c *grpcClient) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}
