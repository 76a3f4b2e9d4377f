package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// dial opens gRPC at the host and port of the HTTP URL, as sigstore-java does.
func (w *world) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	tls, err := credentials.NewClientTLSFromFile(w.pki.file(rootFile), "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(w.url, "https://"), grpc.WithTransportCredentials(tls))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestGRPCOnThePortOfREST(t *testing.T) {
	w := newWorld(t, setting{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := fulciov2.NewCAClient(w.dial(t))

	t.Run("certificate", func(t *testing.T) {
		token := w.issuer.token(t, alice, nil)
		inMessage := &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}}
		inMetadata := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		for name, call := range map[string]func(*fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error){
			"token in the message": func(r *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
				r.Credentials = inMessage
				return client.CreateSigningCertificate(ctx, r)
			},
			"token in the metadata": func(r *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
				return client.CreateSigningCertificate(inMetadata, r)
			},
		} {
			got, err := call(keyRequest(newApplicant(t, alice)))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			chain := got.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()
			if len(chain) != 3 {
				t.Fatalf("%s: %d certificates with an embedded SCT, want 3: %v", name, len(chain), got)
			}
			leaf, err := parsePEM([]byte(chain[0]))
			if err != nil {
				t.Fatal(err)
			}
			w.checkLeaf(t, leaf)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		r := keyRequest(newApplicant(t, mallory))
		r.Credentials = &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: w.issuer.token(t, alice, nil)}}
		_, err := client.CreateSigningCertificate(ctx, r)
		if got := status.Code(err); got != codes.InvalidArgument {
			t.Errorf("a proof over another name: %v (%v), want InvalidArgument", got, err)
		}
	})
	t.Run("trust bundle", func(t *testing.T) {
		bundle, err := client.GetTrustBundle(ctx, &fulciov2.GetTrustBundleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var rest struct {
			Chains []struct{ Certificates []string }
		}
		if err := json.Unmarshal(w.mustGet(t, "/api/v2/trustBundle"), &rest); err != nil {
			t.Fatal(err)
		}
		got, want := strings.Join(bundle.GetChains()[0].GetCertificates(), ""), string(readFile(t, w.pki.file(chainFile)))
		if len(bundle.GetChains()) != 1 || got != want {
			t.Errorf("trust bundle is %v, want the one configured chain", bundle)
		}
		if overREST := strings.Join(rest.Chains[0].Certificates, ""); overREST != want {
			t.Errorf("trust bundle over REST is %q, want the one configured chain", overREST)
		}
	})
	t.Run("configuration", func(t *testing.T) {
		got, err := client.GetConfiguration(ctx, &fulciov2.GetConfigurationRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.GetIssuers()) != 1 || got.GetIssuers()[0].GetIssuerUrl() != w.issuer.url || got.GetIssuers()[0].GetAudience() != "sigstore" {
			t.Errorf("configuration is %v, want the issuer %s with the audience sigstore", got, w.issuer.url)
		}
	})
}

func keyRequest(a applicant) *fulciov2.CreateSigningCertificateRequest {
	return &fulciov2.CreateSigningCertificateRequest{Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{
		PublicKeyRequest: &fulciov2.PublicKeyRequest{
			PublicKey:         &fulciov2.PublicKey{Algorithm: fulciov2.PublicKeyAlgorithm_ECDSA, Content: a.public},
			ProofOfPossession: a.proof,
		}}}
}

// TestHealthWatchHearsOfTheEnd watches as a balancer does, through SIGTERM.
func TestHealthWatchHearsOfTheEnd(t *testing.T) {
	w := newWorld(t, setting{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(w.dial(t))
	service := &grpc_health_v1.HealthCheckRequest{Service: fulciov2.CA_ServiceDesc.ServiceName}

	if got, err := health.Check(ctx, service); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("check: %v, %v", got, err)
	}
	if _, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "dev.sigstore.rekor"}); status.Code(err) != codes.NotFound {
		t.Errorf("check of an unknown service: %v, want NotFound", err)
	}
	list, err := health.List(ctx, &grpc_health_v1.HealthListRequest{})
	if err != nil || list.GetStatuses()[service.Service].GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("list: %v, %v", list, err)
	}
	watch, err := health.Watch(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("watch begins with %v, %v; want SERVING", got, err)
	}
	// The watch is open, and yet the drain does not wait for it.
	if err := w.mayfly.terminate(t, 4*time.Second); err != nil {
		t.Errorf("stopping with an open watch: %v, want exit code 0", err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch says %v, %v after SIGTERM; want NOT_SERVING", got, err)
	}
	if got, err := watch.Recv(); err == nil {
		t.Errorf("watch goes on after SIGTERM, with %v", got)
	}
}
