package e2e

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// paper is what a validator is given: files with one certificate each.
type paper struct{ root, issuing, leaf string }

// use is an extended key usage as the validators call it.
type use struct {
	oid string
	key x509.ExtKeyUsage
	// openssl is a purpose, or empty where OpenSSL knows none; nss is a number of
	// SECCertificateUsage.
	openssl, nss string
}

var (
	codeSigning = use{"1.3.6.1.5.5.7.3.3", x509.ExtKeyUsageCodeSigning, "", "6"}
	tlsServer   = use{"1.3.6.1.5.5.7.3.1", x509.ExtKeyUsageServerAuth, "sslserver", "1"}
)

// validator is somebody else's implementation of RFC 5280, Section 6.
type validator struct {
	name string
	// validate returns an error when the chain is refused.
	validate func(t testing.TB, p paper, as use) error
	// Words of which it says one when the root is of another key, the use is not
	// that of the leaf, or the leaf was changed.
	otherRoot, otherUse, tampered []string
}

// validators share no code with each other. What OpenSSL before 3.2 cannot be
// asked is the use for code signing; the others can. NSS has no word of its own
// for a root that did not sign: it names the last thing that it missed.
func validators() []validator {
	return []validator{
		{"Go", goValidates, []string{"unknown authority"}, []string{"incompatible key usage"}, []string{"verification failure"}},
		{"OpenSSL", opensslValidates, []string{"unable to get local issuer certificate"}, []string{"unsuitable certificate purpose"}, []string{"certificate signature failure"}},
		{"GnuTLS", gnutlsValidates, []string{"issuer is unknown"}, []string{"intended purpose"}, []string{"signature in the certificate is invalid"}},
		{"Java", javaValidates, []string{"does not chain with any of the trust anchors"}, []string{"target certificate constraints"}, []string{"signature check failed"}},
		{"NSS", nssValidates, []string{"PROBLEM WITH THE CERT CHAIN"}, []string{"-8101: "}, []string{"-8182: "}},
	}
}

func goValidates(t testing.TB, p paper, as use) error {
	t.Helper()
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{as.key}}
	options.Roots.AppendCertsFromPEM(readFile(t, p.root))
	options.Intermediates.AppendCertsFromPEM(readFile(t, p.issuing))
	leaf, err := parsePEM(readFile(t, p.leaf))
	if err != nil {
		return err
	}
	_, err = leaf.Verify(options)
	return err
}

func opensslValidates(t testing.TB, p paper, as use) error {
	t.Helper()
	args := []string{"verify", "-x509_strict", "-check_ss_sig", "-no-CAfile", "-no-CApath", "-no-CAstore", "-CAfile", p.root, "-untrusted", p.issuing}
	if as.openssl != "" {
		args = append(args, "-purpose", as.openssl)
	}
	_, err := command{dir: t.TempDir()}.run(t, "openssl", append(args, p.leaf)...)
	return err
}

func gnutlsValidates(t testing.TB, p paper, as use) error {
	t.Helper()
	chain := writeFile(t, filepath.Join(t.TempDir(), "chain.pem"), string(readFile(t, p.leaf))+string(readFile(t, p.issuing)))
	out, err := command{dir: t.TempDir()}.run(t, "certtool", "--verify", "--verify-profile", "medium", "--load-ca-certificate", p.root, "--verify-purpose", as.oid, "--infile", chain)
	if err == nil && !strings.Contains(out, "Chain verification output: Verified.") {
		err = errors.New("certtool does not say that the chain is verified: " + out)
	}
	return err
}

func javaValidates(t testing.TB, p paper, as use) error {
	t.Helper()
	source, err := filepath.Abs("validators/Validate.java")
	if err != nil {
		return err
	}
	_, err = command{dir: t.TempDir()}.run(t, "java", "-XX:TieredStopAtLevel=1", "-Xmx128m", source, as.oid, p.root, p.issuing, p.leaf)
	return err
}

// nssValidates has NSS trust the root for everything in a database of its own.
func nssValidates(t testing.TB, p paper, as use) error {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		return err
	}
	nss := command{dir: dir}
	nss.must(t, "certutil", "-N", "-d", "sql:db", "--empty-password")
	nss.must(t, "certutil", "-A", "-d", "sql:db", "-n", "root", "-t", "CT,C,C", "-a", "-i", p.root)
	// -pp asks libpkix, which implements RFC 5280, and not NSS's older code.
	out, err := nss.run(t, "vfychain", "-d", "sql:db", "-pp", "-u", as.nss, "-a", p.leaf, p.issuing)
	if err == nil && !strings.Contains(out, "Chain is good!") {
		err = errors.New("vfychain does not say that the chain is good: " + out)
	}
	return err
}

// checkValidated demands that every validator accepts the chain.
func checkValidated(t *testing.T, p paper) {
	for _, v := range validators() {
		t.Run(v.name, func(t *testing.T) {
			if err := v.validate(t, p, codeSigning); err != nil {
				t.Errorf("refuses the chain: %v", err)
			}
		})
	}
}

// checkValidatorsRefuse demands that the validators look at all: each refuses a
// root of the same name with another key, another use, and a changed leaf.
func checkValidatorsRefuse(t *testing.T, p paper) {
	other := p
	other.root = newPKI(t).file(rootFile)
	leaf, err := parsePEM(readFile(t, p.leaf))
	if err != nil {
		t.Fatal(err)
	}
	leaf.Raw = append([]byte(nil), leaf.Raw...)
	leaf.Raw[len(leaf.Raw)-1] ^= 1 // in the signature
	tampered := p
	tampered.leaf = writeFile(t, filepath.Join(t.TempDir(), "tampered.pem"), encodePEM(leaf))
	for _, v := range validators() {
		t.Run(v.name, func(t *testing.T) {
			refuses(t, "another root of that name", v.otherRoot, v.validate(t, other, codeSigning))
			refuses(t, "a leaf as that of a TLS server", v.otherUse, v.validate(t, p, tlsServer))
			refuses(t, "a leaf with another signature", v.tampered, v.validate(t, tampered, codeSigning))
		})
	}
}
