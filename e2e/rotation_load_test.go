package e2e

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// signers sign at one replica and verify with what another one published before,
// over and over. Each also verifies its first signature again and again.
type signers struct {
	stop    chan struct{}
	workers sync.WaitGroup
	// forget says that first signatures are not verified any more.
	forget atomic.Bool

	mu sync.Mutex
	// mu guards what follows.
	signed   map[string]int // by replica and issuing CA
	first    []*bundle.Bundle
	failures []error
}

var released = []byte("what is released\n")

// startSigners starts so many at each replica.
func startSigners(t testing.TB, each int, replicas ...*replica) *signers {
	t.Helper()
	s := &signers{stop: make(chan struct{}), signed: make(map[string]int)}
	for i, r := range replicas {
		other := replicas[(i+1)%len(replicas)]
		for range each {
			token := r.issuer.token(t, alice, nil)
			s.workers.Go(func() { s.run(r, other, token) })
		}
	}
	t.Cleanup(s.end)
	return s
}

func (s *signers) run(from, trust *replica, token string) {
	var first *bundle.Bundle
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		forget := s.forget.Load() // before the trust files are read
		signed, err := signAndVerify(from, trust, token, first, forget)
		s.mu.Lock()
		if err != nil {
			s.failures = append(s.failures, err)
		} else {
			s.signed[from.name+" "+bundleIssuer(signed)]++
		}
		if first == nil && err == nil {
			first = signed
			s.first = append(s.first, first)
		}
		s.mu.Unlock()
	}
}

// signAndVerify does as a client that has fetched the trust files a moment ago.
func signAndVerify(from, trust *replica, token string, first *bundle.Bundle, forget bool) (*bundle.Bundle, error) {
	trusted, err := trust.fetchTrustedRoot()
	if err != nil {
		return nil, err
	}
	keys, err := sigstore.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	made, err := sigstore.Bundle(&sigstore.PlainData{Data: released}, keys, sigstore.BundleOptions{
		// No retries: a request that fails once has failed.
		CertificateProvider:        sigstore.NewFulcio(&sigstore.FulcioOptions{BaseURL: from.url, Transport: from.http.Transport}),
		CertificateProviderOptions: &sigstore.CertificateProviderOptions{IDToken: token},
	})
	if err != nil {
		return nil, fmt.Errorf("signing at %s: %w", from.name, err)
	}
	signed, err := bundle.NewBundle(made)
	if err != nil {
		return nil, err
	}
	if err := verifyWith(trusted, signed, from.issuer.url); err != nil {
		return nil, fmt.Errorf("signed by %s, with the trusted root that %s published before: %w", bundleIssuer(signed), trust.name, err)
	}
	if first != nil && !forget {
		if err := verifyWith(trusted, first, from.issuer.url); err != nil {
			return nil, fmt.Errorf("signed by %s before, with the trusted root of %s: %w", bundleIssuer(first), trust.name, err)
		}
	}
	return signed, nil
}

func (w *world) fetchTrustedRoot() (*root.TrustedRoot, error) {
	text, err := w.get("/trust/trusted_root.json")
	if err != nil {
		return nil, err
	}
	return root.NewTrustedRootFromJSON(text)
}

// verifyWith verifies now: certificates are good for ten minutes, so that no
// timestamp authority is needed to show what is shown here.
func verifyWith(trusted root.TrustedMaterial, signed *bundle.Bundle, issuer string) error {
	verifier, err := verify.NewVerifier(trusted, verify.WithCurrentTime(), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		return err
	}
	identity, err := verify.NewShortCertificateIdentity(issuer, "", alice, "")
	if err != nil {
		return err
	}
	_, err = verifier.Verify(signed, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(released)), verify.WithCertificateIdentity(identity)))
	return err
}

func bundleIssuer(b *bundle.Bundle) string {
	content, err := b.VerificationContent()
	if err != nil || content.Certificate() == nil {
		return fmt.Sprintf("nobody (%v)", err)
	}
	return content.Certificate().Issuer.CommonName
}

// count returns how many signatures were made at a replica with an issuing CA.
func (s *signers) count(r *replica, issuer string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed[r.name+" "+issuer]
}

// end stops the signers and waits for them. It may be called again.
func (s *signers) end() {
	s.mu.Lock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.mu.Unlock()
	s.workers.Wait()
}
