package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/trust"
)

// Many organizations still have a root that signed itself with SHA-1, and package
// ca accepts it. A chain that signs and is not published verifies nowhere.
func TestRootThatSignedItselfWithSHA1IsPublished(t *testing.T) {
	in := full(t)
	chain := newChain(t, day(time.March), day(time.January), x509.ExtKeyUsageCodeSigning)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := *chain[1]
	template.SignatureAlgorithm, template.PublicKey = x509.ECDSAWithSHA1, key.Public()
	sign := func(cert, parent *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	root := sign(&template, &template)
	issuing := *chain[0]
	issuing.SignatureAlgorithm = x509.ECDSAWithSHA256
	in.Chains = []trust.Chain{{Certificates: []*x509.Certificate{sign(&issuing, root), root}}}
	if _, err := trust.TrustedRoot(in); err != nil {
		t.Errorf("a root that signed itself with SHA-1: %v", err)
	}
	issuing.SignatureAlgorithm = x509.ECDSAWithSHA1
	in.Chains = []trust.Chain{{Certificates: []*x509.Certificate{sign(&issuing, root), root}}}
	if _, err := trust.TrustedRoot(in); err == nil {
		t.Error("an intermediate signed with SHA-1 was published, which clients refuse")
	}
}
