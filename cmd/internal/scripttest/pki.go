package scripttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func pki(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 2)
	organization := "Corp"
	if len(args) == 2 {
		organization = args[1]
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	rootKey, issuingKey := newKey(ts), newKey(ts)
	root := template(ts, organization, "Root CA")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	issuing := template(ts, organization, "Code Signing CA")
	issuing.IsCA, issuing.KeyUsage = true, x509.KeyUsageCertSign
	issuing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	chain := append(sign(ts, issuing, root, issuingKey, rootKey), sign(ts, root, root, rootKey, rootKey)...)
	ts.Check(os.WriteFile(filepath.Join(dir, "chain.pem"), chain, 0o600))
	writeKey(ts, filepath.Join(dir, "ca.key"), issuingKey)
}

func serverPair(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 1)
	key := newKey(ts)
	c := template(ts, "Corp", "127.0.0.1")
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".crt"), sign(ts, c, c, key, key), 0o600))
	writeKey(ts, ts.MkAbs(args[0]+".key"), key)
}

func newKey(ts *testscript.TestScript) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	return key
}

func template(ts *testscript.TestScript, organization, name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	ts.Check(err)
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), BasicConstraintsValid: true,
		Subject:   pkix.Name{Organization: []string{organization}, CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
}

// sign returns the certificate in PEM.
func sign(ts *testscript.TestScript, c, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	ts.Check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeKey(ts *testscript.TestScript, file string, key *ecdsa.PrivateKey) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}
