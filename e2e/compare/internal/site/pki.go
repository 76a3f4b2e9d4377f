package site

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// PKI is a root, and below it issuing CAs and what TLS needs, in files.
type PKI struct {
	dir  string
	root pair
}

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// CA is an issuing CA: its chain and key in files.
type CA struct {
	Issuing    *x509.Certificate
	Chain, Key string
	// Alone is a file with the issuing certificate and nothing else.
	Alone string
}

// NewPKI makes the root, a server certificate for loopback and a client
// certificate, in files of the directory.
func NewPKI(dir string) (*PKI, error) {
	key, err := NewCAKey("P-384")
	if err != nil {
		return nil, err
	}
	p := &PKI{dir: dir, root: pair{key: key}}
	template := template("Example Corp Root CA")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if p.root.cert, err = certify(template, key.Public(), pair{cert: template, key: key}); err != nil {
		return nil, err
	}
	if err := writePEM(p.Root(), "CERTIFICATE", p.root.cert.Raw); err != nil {
		return nil, err
	}
	for name, usage := range map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth} {
		if err := p.endEntity(name, usage); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Root is the file with the root certificate.
func (p *PKI) Root() string { return p.file("root.pem") }

// Server and Client are the files of a certificate and its key.
func (p *PKI) Server() (cert, key string) { return p.file("server.crt"), p.file("server.key") }

// Client is what submitters to a log show.
func (p *PKI) Client() (cert, key string) { return p.file("client.crt"), p.file("client.key") }

// Roots are what clients trust.
func (p *PKI) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.root.cert)
	return pool
}

func (p *PKI) file(name string) string { return filepath.Join(p.dir, name) }

// NewCA makes an issuing CA with a key of P-256, P-384 or RSA-3072.
func (p *PKI) NewCA(kind string) (CA, error) {
	key, err := NewCAKey(kind)
	if err != nil {
		return CA{}, err
	}
	template := template("Example Corp Code Signing CA " + kind)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	cert, err := certify(template, key.Public(), p.root)
	if err != nil {
		return CA{}, err
	}
	ca := CA{Issuing: cert, Chain: p.file(kind + "-chain.pem"), Key: p.file(kind + ".key"), Alone: p.file(kind + ".crt")}
	if err := writePEM(ca.Alone, "CERTIFICATE", cert.Raw); err != nil {
		return CA{}, err
	}
	if err := writePEM(ca.Chain, "CERTIFICATE", cert.Raw, p.root.cert.Raw); err != nil {
		return CA{}, err
	}
	return ca, writeKey(ca.Key, key)
}

// NewCAKey makes a key of a CA.
func NewCAKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "P-256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "RSA-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("no kind of CA key is called %q", kind)
}

func (p *PKI) endEntity(name string, usage x509.ExtKeyUsage) error {
	key, err := NewCAKey("P-256")
	if err != nil {
		return err
	}
	template := template(name + ".corp.example")
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
	template.IPAddresses, template.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	cert, err := certify(template, key.Public(), p.root)
	if err != nil {
		return err
	}
	if err := writePEM(p.file(name+".crt"), "CERTIFICATE", cert.Raw); err != nil {
		return err
	}
	return writeKey(p.file(name+".key"), key)
}

// template is valid since yesterday, as chains in the world are: the backdating
// of leaves must not meet the beginning of the chain.
func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Example Corp"}, CommonName: name},
		NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 1, 0),
	}
}

func certify(template *x509.Certificate, public crypto.PublicKey, issuer pair) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial: %w", err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, public, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("certifying %s: %w", template.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of %s: %w", template.Subject, err)
	}
	return cert, nil
}

func writePEM(path, kind string, blocks ...[]byte) error {
	var text []byte
	for _, der := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	return writePEM(path, "PRIVATE KEY", der)
}

func writePublic(path string, key crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("encoding a public key: %w", err)
	}
	return writePEM(path, "PUBLIC KEY", der)
}
