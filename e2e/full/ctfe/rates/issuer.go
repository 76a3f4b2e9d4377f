package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// issuer signs precertificates of Mayfly's shape.
type issuer struct {
	chain [][]byte
	cert  *x509.Certificate
	key   crypto.Signer
}

func loadIssuer(chain, key string) (*issuer, error) {
	text, err := os.ReadFile(chain)
	if err != nil {
		return nil, err
	}
	is := &issuer{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		is.chain = append(is.chain, block.Bytes)
	}
	if len(is.chain) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", chain)
	}
	if is.cert, err = x509.ParseCertificate(is.chain[0]); err != nil {
		return nil, fmt.Errorf("reading %s: %w", chain, err)
	}
	if text, err = os.ReadFile(key); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key does not sign")
	}
	is.key = signer
	return is, nil
}

// precertificates makes so many, on all processors.
func (is *issuer) precertificates(n int) ([]ctlog.Submission, error) {
	subject, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	all := make([]ctlog.Submission, n)
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				all[i], errs[w] = is.precertificate(subject.Public())
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

func (is *issuer) precertificate(subject crypto.PublicKey) (ctlog.Submission, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return ctlog.Submission{}, err
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-30 * time.Second), NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses: []string{"alice@corp.example"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte("https://keycloak.corp.example/realms/eng")},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: asn1.NullBytes}, // RFC 6962, Section 3.1: the poison
		},
	}, is.cert, subject, is.key)
	if err != nil {
		return ctlog.Submission{}, err
	}
	return ctlog.NewSubmission(der, is.chain)
}

// readPool reads the roots in a PEM file.
func readPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}
