// Package testca makes precertificates for the tests of ctlog and the packages
// below it, with the TBS computed by another library than the one under test.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"testing"
	"time"

	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/mayfly-ca/mayfly/ctlog"
)

// CA is an issuing certificate below a root.
type CA struct {
	key           *ecdsa.PrivateKey
	leafKey       *ecdsa.PrivateKey
	issuer        *x509.Certificate
	chain         [][]byte
	issuerKeyHash [32]byte
}

// New makes a root and an issuing certificate.
func New(t testing.TB) *CA {
	t.Helper()
	rootKey, key, leafKey := newKey(t), newKey(t), newKey(t)
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER := create(t, root, root, rootKey, rootKey)
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test issuer"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	issuerDER := create(t, issuer, root, key, rootKey)
	parsed, err := x509.ParseCertificate(issuerDER)
	if err != nil {
		t.Fatalf("parsing issuing certificate: %v", err)
	}
	return &CA{
		key: key, leafKey: leafKey, issuer: parsed,
		chain:         [][]byte{issuerDER, rootDER},
		issuerKeyHash: sha256.Sum256(parsed.RawSubjectPublicKeyInfo),
	}
}

// Precertificate makes a submission with a random serial number.
func (ca *CA) Precertificate(t testing.TB) ctlog.Submission {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	if err != nil {
		t.Fatalf("making serial: %v", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now, NotAfter: now.Add(10 * time.Minute),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:        []*url.URL{{Scheme: "https", Host: "ci.example.com", Path: "/job/1"}},
		ExtraExtensions: []pkix.Extension{{
			Id:       asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3},
			Critical: true, Value: []byte{5, 0},
		}},
	}
	der := create(t, template, ca.issuer, ca.leafKey, ca.key)
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parsing precertificate: %v", err)
	}
	tbs, err := ctx509.RemoveCTPoison(parsed.RawTBSCertificate)
	if err != nil {
		t.Fatalf("removing poison: %v", err)
	}
	return ctlog.Submission{
		Precertificate: der,
		Issuers:        ca.chain,
		TBS:            tbs,
		IssuerKeyHash:  ca.issuerKeyHash,
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("making key: %v", err)
	}
	return key
}

func create(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatalf("making certificate: %v", err)
	}
	return der
}
