package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// opensslConfig is what an administrator's openssl.cnf has for these CAs.
// openssl ca is used, and not x509 -req, because only it sets a start date in
// OpenSSL 3.0: the chain is a day old, as chains in the world are, so that the
// back-dating of certificates is not cut off at its start.
const opensslConfig = `
[ca]
default_ca = corp
[corp]
dir = .
database = $dir/index.txt
new_certs_dir = $dir/issued
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = none
[any]
organizationName = optional
commonName = supplied
[req]
distinguished_name = dn
[dn]

[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[signing]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
extendedKeyUsage = codeSigning
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[timestamping]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
extendedKeyUsage = timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[tsa]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
`

// Passphrase of the issuing CA's key, and file names of the organization's PKI.
const (
	passphrase = "correct horse battery staple"

	rootFile     = "root.pem"
	chainFile    = "corp.pem" // issuing certificate and root
	tsaChainFile = "tsa-chain.pem"
)

// pki is the organization's PKI in a directory: a root, below it the issuing CA
// for code signing, a timestamp authority and a TLS server certificate.
type pki struct{ dir string }

func newPKI(t testing.TB) pki {
	t.Helper()
	p := pki{dir: t.TempDir()}
	openssl := command{dir: p.dir}
	openssl.must(t, "mkdir", "issued")
	writeFile(t, p.file("index.txt"), "")
	writeFile(t, p.file("openssl.cnf"), opensslConfig)
	writeFile(t, p.file("passphrase"), passphrase+"\n")

	p.certify(t, "root", "Example Corp Root CA", "P-384", "root", "")
	p.certify(t, "corp", "Example Corp Code Signing CA", "P-256", "signing", "root")
	p.certify(t, "tsa-ca", "Example Corp Timestamping CA", "P-384", "timestamping", "root")
	p.certify(t, "tsa", "Example Corp Timestamp Authority", "P-256", "tsa", "tsa-ca")
	p.certify(t, "tls", "mayfly.corp.example", "P-256", "server", "root")

	p.concatenate(t, chainFile, "corp.crt", rootFile)
	p.concatenate(t, tsaChainFile, "tsa.crt", "tsa-ca.crt", rootFile)
	return p
}

func (p pki) file(name string) string { return filepath.Join(p.dir, name) }

// certify makes a key and a certificate. Only the key of the CA that Mayfly
// runs is encrypted; the timestamp server's file signer takes no PKCS#8 that
// is.
func (p pki) certify(t testing.TB, name, commonName, curve, extensions, issuer string) {
	t.Helper()
	openssl := command{dir: p.dir}
	key := []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + curve, "-out", name + ".key"}
	var pass []string
	if name == "corp" {
		key = append(key, "-aes-256-cbc", "-pass", "file:passphrase")
		pass = []string{"-passin", "file:passphrase"}
	}
	openssl.must(t, "openssl", key...)
	openssl.must(t, "openssl", append([]string{"req", "-new", "-config", "openssl.cnf", "-key", name + ".key",
		"-subj", "/O=Example Corp/CN=" + commonName, "-out", name + ".csr"}, pass...)...)
	certificate := name + ".crt"
	signer := []string{"-cert", issuer + ".crt", "-keyfile", issuer + ".key"}
	switch issuer {
	case "":
		certificate, signer = rootFile, []string{"-selfsign", "-keyfile", name + ".key"}
	case "root":
		signer = []string{"-cert", rootFile, "-keyfile", "root.key"}
	}
	now := time.Now().UTC()
	openssl.must(t, "openssl", append([]string{"ca", "-config", "openssl.cnf", "-batch", "-notext", "-rand_serial",
		"-extensions", extensions, "-in", name + ".csr", "-out", certificate,
		"-startdate", asn1Time(now.AddDate(0, 0, -1)), "-enddate", asn1Time(now.AddDate(1, 0, 0))}, signer...)...)
}

func asn1Time(at time.Time) string { return at.Format("20060102150405Z") }

func (p pki) concatenate(t testing.TB, out string, parts ...string) {
	t.Helper()
	var all strings.Builder
	for _, part := range parts {
		fmt.Fprintf(&all, "%s", readFile(t, p.file(part)))
	}
	writeFile(t, p.file(out), all.String())
}
