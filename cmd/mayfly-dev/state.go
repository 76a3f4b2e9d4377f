package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
)

// Names of what the demonstration's state directory holds.
const (
	chainFile  = "chain.pem" // issuing certificate, then root
	keyFile    = "issuing.key"
	configFile = "mayfly.yaml"
	logName    = "demo"
	logOrigin  = "mayfly-dev.test/log/" + logName
)

// preparePKI makes the demonstration's organization root and an intermediate
// below it, unless an earlier run did. The root's key is thrown away at once:
// nothing needs it again.
func preparePKI(state string, now time.Time) error {
	if err := stack.MarkDemo(state); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(state, chainFile))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the root's key: %w", err)
	}
	issuingKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the intermediate's key: %w", err)
	}
	rootTemplate := caTemplate("Demonstration Root CA", now, 10)
	rootTemplate.MaxPathLen = 1
	root, err := sign(rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	template := caTemplate("Demonstration Code Signing CA", now, 5)
	template.MaxPathLenZero = true
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	issuing, err := sign(template, root, issuingKey.Public(), rootKey)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(issuingKey)
	if err != nil {
		return fmt.Errorf("encoding the intermediate's key: %w", err)
	}
	// The chain comes last: it is what says that the PKI is complete.
	if err := writePEM(filepath.Join(state, keyFile), 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return err
	}
	return writePEM(filepath.Join(state, chainFile), 0o644,
		&pem.Block{Type: "CERTIFICATE", Bytes: issuing.Raw}, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
}

func caTemplate(name string, now time.Time, years int) *x509.Certificate {
	serial := make([]byte, 20)
	_, _ = rand.Read(serial) // never fails
	serial[0] = serial[0]&0x3f | 0x40
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{Organization: []string{ca.DemoOrganization}, CommonName: name},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.AddDate(years, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func writePEM(path string, mode os.FileMode, blocks ...*pem.Block) error {
	var data []byte
	for _, b := range blocks {
		data = append(data, pem.EncodeToMemory(b)...)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// writeConfig writes the configuration that an administrator would: the
// demonstration has no other way in than the real service.
func writeConfig(state, address, publicURL, issuer string) (string, error) {
	path := filepath.Join(state, configFile)
	text := fmt.Sprintf(`# Made by mayfly-dev at each start. The real thing: deploy/examples/file-ca/mayfly.yaml
listen: {address: %q, plaintext: true}
public_url: %s
state: .
logging: {format: text}
issuers:
  - name: demo
    url: %s
    insecure_http: true
    audiences: [sigstore]
    allow: all
    san: email
    may_issue: {email_domains: [demo.mayfly.test]}
chains:
  - name: demo
    certificates: %s
    key: {file: %s}
logs:
  - {name: %s, embedded: {}}
`, address, publicURL, issuer, chainFile, keyFile, logName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("writing the demonstration's configuration: %w", err)
	}
	return path, nil
}
