package rfc6962_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"
)

var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

func poison() pkix.Extension {
	return pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{5, 0}}
}

// authority is a certificate authority of a test.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
	// above is its own certificate and those above it.
	above []*x509.Certificate
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 150))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newRoot(t testing.TB, name string, curve elliptic.Curve) *authority {
	t.Helper()
	a := &authority{key: newKey(t, curve)}
	a.cert = create(t, caTemplate(t, name), nil, a.key.Public(), a.key)
	a.above = []*x509.Certificate{a.cert}
	return a
}

func caTemplate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	return &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
}

// below makes an authority under a, or another certificate for one that exists.
func (a *authority) below(t testing.TB, name string, key crypto.Signer, change func(*x509.Certificate)) *authority {
	t.Helper()
	template := caTemplate(t, name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	if change != nil {
		change(template)
	}
	cert := create(t, template, a.cert, key.Public(), a.key)
	return &authority{key: key, cert: cert, above: append([]*x509.Certificate{cert}, a.above...)}
}

// leaf makes a certificate as Mayfly issues them; change makes it another.
func (a *authority) leaf(t testing.TB, change func(*x509.Certificate)) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs: []*url.URL{{Scheme: "https", Host: "ci.example.com", Path: "/job/1"}},
	}
	if change != nil {
		change(template)
	}
	return create(t, template, a.cert, leafKey.Public(), a.key).Raw
}

// precertificate is leaf with poison.
func (a *authority) precertificate(t testing.TB, change func(*x509.Certificate)) []byte {
	t.Helper()
	return a.leaf(t, func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, poison())
		if change != nil {
			change(c)
		}
	})
}

// chain is a certificate and what is above it.
func (a *authority) chain(leaf []byte) [][]byte {
	chain := [][]byte{leaf}
	for _, c := range a.above {
		chain = append(chain, c.Raw)
	}
	return chain
}

// tlsCertificate makes a certificate for either side of a connection.
func (a *authority) tlsCertificate(t testing.TB, name string, usage x509.ExtKeyUsage, until time.Time) tls.Certificate {
	t.Helper()
	key := newKey(t, elliptic.P256())
	cert := create(t, &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, a.cert, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

var leafKey = func() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()

func create(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatalf("making certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parsing certificate: %v", err)
	}
	return cert
}
