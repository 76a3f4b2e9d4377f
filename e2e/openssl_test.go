package e2e

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// checkLeaf demands of a client's certificate what OpenSSL and the log say.
func (w *world) checkLeaf(t testing.TB, leaf *x509.Certificate) {
	t.Helper()
	w.checkLogged(t, leaf)
	file := writeFile(t, filepath.Join(t.TempDir(), "leaf.pem"), encodePEM(leaf))
	// To OpenSSL a certificate has expired when notAfter is reached, to RFC 5280
	// only after it.
	last := fmt.Sprint(leaf.NotAfter.Unix() - 1)
	if _, err := w.opensslVerify(t, file, "-x509_strict", "-attime", last); err != nil {
		t.Error(err)
	}
}

// opensslVerify verifies a leaf up to the organization's root.
func (w *world) opensslVerify(t testing.TB, leaf string, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"verify", "-no-CAfile", "-no-CApath", "-no-CAstore", "-CAfile", w.pki.file(rootFile),
		"-untrusted", w.pki.file("corp.crt")}, flags...)
	return command{dir: w.dir}.run(t, "openssl", append(args, leaf)...)
}

func TestOpenSSLAcceptsTheChain(t *testing.T) {
	w := newWorld(t, setting{})
	chain := w.mustIssue(t, alice)
	if len(chain) != 3 {
		t.Errorf("answer has %d certificates, want leaf, issuing CA and root", len(chain))
	}
	leaf := writeFile(t, filepath.Join(w.dir, "leaf.pem"), encodePEM(chain[0]))
	for _, flags := range [][]string{nil, {"-x509_strict"}, {"-x509_strict", "-check_ss_sig", "-purpose", "any"}} {
		if out, err := w.opensslVerify(t, leaf, flags...); err != nil || !strings.Contains(out, leaf+": OK") {
			t.Errorf("openssl verify %v: %v", flags, err)
		}
	}
	for _, tc := range []struct {
		name, want string
		flags      []string
	}{
		{"as a TLS server", "unsuitable certificate purpose", []string{"-purpose", "sslserver"}},
		{"for e-mail", "unsuitable certificate purpose", []string{"-purpose", "smimesign"}},
		{"after the ten minutes", "certificate has expired", []string{"-attime", fmt.Sprint(time.Now().Add(11 * time.Minute).Unix())}},
		{"before it was issued", "certificate is not yet valid", []string{"-attime", fmt.Sprint(time.Now().Add(-time.Minute).Unix())}},
	} {
		_, err := w.opensslVerify(t, leaf, tc.flags...)
		refuses(t, tc.name, []string{tc.want}, err)
	}
	_, err := command{dir: w.dir}.run(t, "openssl", "verify", "-no-CAfile", "-no-CApath", "-no-CAstore", "-CAfile", w.pki.file(rootFile), leaf)
	refuses(t, "a leaf without its issuing CA", []string{"unable to get local issuer certificate"}, err)
}

func TestOpenSSLShowsWhatTheDocumentationPromises(t *testing.T) {
	w := newWorld(t, setting{})
	chain := w.mustIssue(t, alice)
	leaf := writeFile(t, filepath.Join(w.dir, "leaf.pem"), encodePEM(chain[0]))
	text := command{dir: w.dir}.must(t, "openssl", "x509", "-in", leaf, "-noout", "-text")
	// Numbers and layout differ between versions of OpenSSL, so only words.
	words := strings.Join(strings.Fields(text), " ")
	log := w.log(t)
	for _, want := range []string{
		"Subject: Subject Public Key Info:", // empty
		"Issuer: O = Example Corp, CN = Example Corp Code Signing CA",
		"X509v3 Key Usage: critical Digital Signature X509v3",
		"X509v3 Extended Key Usage: Code Signing X509v3",
		"X509v3 Subject Alternative Name: critical email:" + alice + " ",
		"X509v3 Subject Key Identifier: ",
		"X509v3 Authority Key Identifier: ",
		"1.3.6.1.4.1.57264.1.1: " + w.issuer.url,
		"1.3.6.1.4.1.57264.1.8: .",
		"1.3.6.1.4.1.57264.1.24: .",
		"CT Precertificate SCTs: Signed Certificate Timestamp: Version : v1 (0x0)",
		fmt.Sprintf("Log ID : %s", colons(log.id[:16])),
	} {
		if !strings.Contains(words, want) {
			t.Errorf("openssl x509 -text does not show %q:\n%s", want, text)
		}
	}
	for _, unwanted := range []string{"Basic Constraints", "Poison", "CA:TRUE"} {
		if strings.Contains(words, unwanted) {
			t.Errorf("openssl x509 -text shows %q:\n%s", unwanted, text)
		}
	}
	cert := chain[0]
	if got := cert.NotAfter.Sub(cert.NotBefore); got != 10*time.Minute {
		t.Errorf("valid for %v, want 10m in all", got)
	}
	if age := time.Since(cert.NotBefore); age < 30*time.Second || age > time.Minute {
		t.Errorf("notBefore is %v ago, want the 30s of back-dating", age)
	}
	if n := len(cert.SerialNumber.Bytes()); n != 20 || cert.SerialNumber.Sign() != 1 {
		t.Errorf("serial %x has %d octets, want 20 and positive", cert.SerialNumber, n)
	}
	w.checkLogged(t, cert)
}

// colons writes bytes as OpenSSL does.
func colons(b []byte) string {
	var parts []string
	for _, c := range b {
		parts = append(parts, fmt.Sprintf("%02X", c))
	}
	return strings.Join(parts, ":")
}
