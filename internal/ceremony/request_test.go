package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func name(t testing.TB, text string) Name {
	t.Helper()
	n, err := ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tool runs a program that must succeed and returns what it prints.
func tool(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// OpenSSL, whose reading the organization's PKI is most likely to share, sees
// what was meant.
func TestNewRequestAsksForAnIssuingCertificate(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newKey(t), rsaKey} {
		r, err := NewRequest(name(t, "CN=Mayfly Issuing CA 1,O=Example Corp,C=DE"), key)
		if err != nil {
			t.Fatalf("NewRequest with %T = %v", key, err)
		}
		file := filepath.Join(t.TempDir(), "ca.csr")
		if err := os.WriteFile(file, r.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		text := tool(t, "openssl", "req", "-in", file, "-noout", "-text", "-verify")
		for _, want := range []string{
			"verify OK", "Subject: C = DE, O = Example Corp, CN = Mayfly Issuing CA 1",
			"X509v3 Basic Constraints: critical\n                    CA:TRUE, pathlen:0",
			"X509v3 Key Usage: critical\n                    Certificate Sign, CRL Sign",
			"X509v3 Extended Key Usage: \n                    Code Signing", "X509v3 Subject Key Identifier",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("openssl does not show %q for %T:\n%s", want, key, text)
			}
		}
	}
}

func TestNewRequestRefuses(t *testing.T) {
	if r, err := NewRequest(Name{}, newKey(t)); err == nil {
		t.Errorf("NewRequest without a subject = %v, want an error", r)
	}
	broken := lying{newKey(t), newKey(t).Public()}
	if r, err := NewRequest(name(t, "CN=A"), broken); err == nil {
		t.Errorf("NewRequest with a key whose halves disagree = %v, want an error", r)
	}
}

// lying is a key with the public half of another.
type lying struct {
	crypto.Signer
	public crypto.PublicKey
}

func (l lying) Public() crypto.PublicKey { return l.public }

func TestParseRequestRefusesOtherRequests(t *testing.T) {
	key := newKey(t)
	create := func(template x509.CertificateRequest) []byte {
		template.RawSubject = name(t, "CN=A").DER()
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good, err := requestExtensions(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	challenge := filepath.Join(t.TempDir(), "csr.der")
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	tool(t, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", keyFile,
		"-subj", "/CN=A", "-outform", "DER", "-out", challenge)
	plain, err := os.ReadFile(challenge)
	if err != nil {
		t.Fatal(err)
	}
	whole := create(x509.CertificateRequest{ExtraExtensions: good})
	if _, err := ParseRequest(whole); err != nil {
		t.Fatalf("ParseRequest of a good request = %v", err)
	}
	for _, c := range []struct {
		what string
		der  []byte
		want string
	}{
		{"nothing", nil, "parsing"},
		{"a request without extensions", plain, "attributes"},
		{"an extension too few", create(x509.CertificateRequest{ExtraExtensions: good[:3]}), "extensions"},
		{"a name too much", create(x509.CertificateRequest{ExtraExtensions: good, DNSNames: []string{"a.example"}}), "extensions"},
		{"a byte too much", append(bytes.Clone(whole), 0), "parsing"},
		{"a broken signature", append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1), "signature"},
		{"too long", create(x509.CertificateRequest{ExtraExtensions: good, DNSNames: []string{strings.Repeat("a", maxRequest)}}), "more than"},
	} {
		if _, err := ParseRequest(c.der); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseRequest of %s = %v, want an error with %q", c.what, err, c.want)
		}
	}
}

// What is accepted has a subject, verifies, and says the same when read again.
func FuzzParseRequest(f *testing.F) {
	r, err := NewRequest(name(f, "CN=A,O=B"), newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.der)
	f.Add(r.der[:len(r.der)/2])
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := ParseRequest(der)
		if err != nil {
			return
		}
		again, err := ParseRequest(r.der)
		if err != nil || again.Subject() != r.Subject() || again.Fingerprint() != r.Fingerprint() || r.Subject() == "" {
			t.Fatalf("ParseRequest(%x) has subject %q; again %v, %v", der, r.Subject(), again, err)
		}
	})
}
