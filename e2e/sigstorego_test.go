package e2e

import (
	"os"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
)

// sigstoreGo is the library below cosign, as programs of one's own use it.
func sigstoreGo() bundleClient {
	return bundleClient{
		name: "sigstore-go",
		sign: func(t *testing.T, w *world, blob, path string) {
			t.Helper()
			keys, err := sigstore.NewEphemeralKeypair(nil)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := sigstore.Bundle(&sigstore.PlainData{Data: readFile(t, blob)}, keys, sigstore.BundleOptions{
				Context:                    t.Context(),
				CertificateProvider:        sigstore.NewFulcio(&sigstore.FulcioOptions{BaseURL: w.url, Transport: w.http.Transport}),
				CertificateProviderOptions: &sigstore.CertificateProviderOptions{IDToken: w.issuer.token(t, alice, nil)},
				TimestampAuthorities:       []*sigstore.TimestampAuthority{sigstore.NewTimestampAuthority(&sigstore.TimestampAuthorityOptions{URL: w.tsaURL})},
				TrustedRoot:                w.trustedRoot(t),
			})
			if err != nil {
				t.Fatal(err)
			}
			text, err := protojson.Marshal(signed)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, string(text))
		},
		verify: func(t *testing.T, w *world, blob, path, email, issuer string) error {
			t.Helper()
			signed, err := bundle.LoadJSONFromPath(path)
			if err != nil {
				return err
			}
			verifier, err := verify.NewVerifier(w.trustedRoot(t), verify.WithSignedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
			if err != nil {
				t.Fatal(err)
			}
			identity, err := verify.NewShortCertificateIdentity(issuer, "", email, "")
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(blob)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			_, err = verifier.Verify(signed, verify.NewPolicy(verify.WithArtifact(file), verify.WithCertificateIdentity(identity)))
			return err
		},
		wrongIdentity: []string{"expected SAN value"},
		wrongIssuer:   []string{"expected issuer value"},
		tampered:      []string{"invalid signature"},
		noTimestamp:   []string{"timestamp"},
	}
}

func (w *world) trustedRoot(t testing.TB) *root.TrustedRoot {
	t.Helper()
	trusted, err := root.NewTrustedRootFromJSON(w.mustGet(t, "/trust/trusted_root.json"))
	if err != nil {
		t.Fatalf("sigstore-go refuses trusted_root.json: %v", err)
	}
	return trusted
}
