package lint_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/lint"
)

var (
	sanOID    = asn1.ObjectIdentifier{2, 5, 29, 17}
	fulcioOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}
)

func fulcio(n int, value string) pkix.Extension {
	e := pkix.Extension{Id: append(slices.Clone(fulcioOID), n), Value: []byte(value)}
	if n > 6 {
		e.Value, _ = asn1.MarshalWithParams(value, "utf8")
	}
	return e
}

// san is an extension with one name of that kind.
func san(tags ...any) pkix.Extension {
	var names []asn1.RawValue
	for i := 0; i < len(tags); i += 2 {
		tag, value := tags[i].(int), tags[i+1].(string)
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(value), IsCompound: tag == 0})
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: sanOID, Critical: true, Value: der}
}

// good is a template of a certificate without fault, names and all in Extra.
func good() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(1), 158), NotBefore: now, NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{
			san(1, "alice@corp.example"), fulcio(1, "https://kc.corp.example"), fulcio(8, "https://kc.corp.example"), fulcio(24, "alice"),
		},
	}
}

func TestLeafFindsEveryFault(t *testing.T) {
	poison := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: asn1.NullBytes}
	sct := func(tls ...byte) pkix.Extension {
		der, _ := asn1.Marshal(tls)
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: der}
	}
	noRev := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: asn1.NullBytes}
	set := func(i int, e pkix.Extension) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions[i] = e }
	}
	add := func(e ...pkix.Extension) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, e...) }
	}
	notCritical := san(1, "alice@corp.example")
	notCritical.Critical = false
	for _, tc := range []struct {
		name   string
		change func(*x509.Certificate)
		check  string // "" is none
	}{
		{"nothing", func(*x509.Certificate) {}, ""},
		{"precertificate", add(poison), ""},
		{"one SCT", add(sct(0, 3, 0, 1, 7)), ""},
		{"URI", set(0, san(6, "https://ci.corp.example/a")), ""},
		{"no revocation information", add(noRev), ""},
		{"short serial", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1 << 62) }, lint.LintSerial},
		{"subject", func(c *x509.Certificate) { c.Subject.CommonName = "alice" }, lint.LintSubject},
		{"eleven minutes", func(c *x509.Certificate) { c.NotAfter = now.Add(11 * time.Minute) }, lint.LintValidity},
		{"before the CA", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.AddDate(-2, 0, 0), now.AddDate(-2, 0, 0).Add(time.Minute)
		}, lint.LintValidity},
		{"after the CA", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.AddDate(10, 0, 0), now.AddDate(10, 0, 0).Add(time.Minute)
		}, lint.LintValidity},
		{"key usage", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, lint.LintUsage},
		{"two purposes", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) }, lint.LintUsage},
		{"a CA", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }, lint.LintUsage},
		{"basic constraints", func(c *x509.Certificate) { c.BasicConstraintsValid = true }, lint.LintExtensions},
		{"no subject key identifier", func(c *x509.Certificate) { c.SubjectKeyId = []byte{1} }, lint.LintIdentifier},
		{"unknown extension", add(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: asn1.NullBytes}), lint.LintExtensions},
		{"fulcio's number of a name", add(fulcio(7, "x")), lint.LintExtensions},
		{"a later number of fulcio's", add(fulcio(25, "x")), lint.LintExtensions},
		{"name not critical", set(0, notCritical), lint.LintExtensions},
		{"OCSP", func(c *x509.Certificate) { c.OCSPServer = []string{"http://x.example"} }, lint.LintExtensions},
		{"revocation list that there is not", func(c *x509.Certificate) {
			c.CRLDistributionPoints = []string{"http://x.example"}
			add(noRev)(c)
		}, lint.LintExtensions},
		{"noRevAvail is no NULL", add(pkix.Extension{Id: noRev.Id, Value: []byte{4, 0}}), lint.LintExtensions},
		{"two names", set(0, san(1, "alice@corp.example", 1, "bob@corp.example")), lint.LintName},
		{"two kinds of name", func(c *x509.Certificate) { set(0, san(1, "alice@corp.example", 6, "https://x.example"))(c) }, lint.LintName},
		{"server name", set(0, san(2, "corp.example")), lint.LintName},
		{"NUL in an address", set(0, san(1, "alice@corp.example\x00.evil")), lint.LintName},
		{"upper case host", set(0, san(1, "alice@Corp.example")), lint.LintName},
		{"empty label", set(0, san(1, "alice@corp..example")), lint.LintName},
		{"no host", set(0, san(1, "alice@")), lint.LintName},
		{"nobody", set(0, san(1, "@corp.example")), lint.LintName},
		{"plain http", set(0, san(6, "http://corp.example/")), lint.LintName},
		{"user information", set(0, san(6, "https://a@corp.example/")), lint.LintName},
		{"query", set(0, san(6, "https://corp.example/?a")), lint.LintName},
		{"fragment", set(0, san(6, "https://corp.example/#a")), lint.LintName},
		{"parent directory", set(0, san(6, "https://corp.example/../a")), lint.LintName},
		{"other spelling", set(0, san(6, "HTTPS://corp.example/a")), lint.LintName},
		{"malformed other name", set(0, san(0, "x")), lint.LintName},
		{"raw and DER issuer differ", set(1, fulcio(1, "https://evil.example")), lint.LintFulcio},
		{"no raw issuer", func(c *x509.Certificate) { c.ExtraExtensions = slices.Delete(c.ExtraExtensions, 1, 2) }, lint.LintFulcio},
		{"no token subject", func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[:3] }, lint.LintFulcio},
		{"control character", set(3, fulcio(24, "ali\x07ce")), lint.LintFulcio},
		{"no UTF8String", set(3, pkix.Extension{Id: fulcio(24, "").Id, Value: []byte("raw")}), lint.LintFulcio},
		{"more behind the string", set(3, pkix.Extension{Id: fulcio(24, "").Id, Value: []byte{12, 1, 'a', 5, 0}}), lint.LintFulcio},
		{"out of order", func(c *x509.Certificate) {
			e := c.ExtraExtensions
			e[1], e[2] = e[2], e[1]
		}, lint.LintFulcio},
		{"poison and SCT", add(sct(0, 3, 0, 1, 7), poison), lint.LintLogging},
		{"poison is not last", func(c *x509.Certificate) { c.ExtraExtensions = append([]pkix.Extension{poison}, c.ExtraExtensions...) }, lint.LintLogging},
		{"poison is no NULL", add(pkix.Extension{Id: poison.Id, Critical: true, Value: []byte{4, 0}}), lint.LintLogging},
		{"two SCTs", add(sct(0, 6, 0, 1, 7, 0, 1, 7)), lint.LintLogging},
		{"no SCT in the list", add(sct(0, 0)), lint.LintLogging},
		{"too large", set(3, fulcio(24, strings.Repeat("x", 8<<10))), lint.LintSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			template := good()
			tc.change(template)
			der, issuer := sign(t, template)
			findings := lint.Leaf(der, issuer)
			if tc.check == "" && len(findings) > 0 {
				t.Errorf("findings %+v, want none", findings)
			}
			found := false
			for _, f := range findings {
				found = found || f.Check == tc.check
			}
			if tc.check != "" && !found {
				t.Errorf("findings %+v, want one of %s", findings, tc.check)
			}
		})
	}
}

// sign issues from a template, with a subject key identifier unless it has one.
func sign(t testing.TB, template *x509.Certificate) ([]byte, *x509.Certificate) {
	t.Helper()
	caKey, key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	issuer := makeChain(t, "x", caKey, nil).Certificates()[0]
	if template.SubjectKeyId == nil {
		template.SubjectKeyId = keyID(t, key)
	}
	return must(x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), caKey))(t), issuer
}

func TestLeafNoticesAForeignIssuer(t *testing.T) {
	der, _ := sign(t, good())
	_, other := sign(t, good())
	checks := map[string]bool{}
	for _, f := range lint.Leaf(der, other) {
		checks[f.Check] = true
	}
	if !checks[lint.LintIssuer] || !checks[lint.LintIdentifier] {
		t.Errorf("findings of %v, want issuer and key identifiers", checks)
	}
	if f := lint.Leaf([]byte{0x30, 0}, other); len(f) != 1 || f[0].Check != lint.LintParse {
		t.Errorf("junk: %v, want %s", f, lint.LintParse)
	}
}

// FuzzLeaf looks for bytes that make the linter panic, and for names that it
// passes and crypto/x509 reads otherwise.
func FuzzLeaf(f *testing.F) {
	der, issuer := sign(f, good())
	f.Add(der)
	uri := good()
	uri.ExtraExtensions[0] = san(6, "https://ci.corp.example/a%20b")
	der, _ = sign(f, uri)
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		findings := lint.Leaf(der, issuer)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			if len(findings) == 0 {
				t.Error("passes what does not parse")
			}
			return
		}
		for _, finding := range findings {
			if finding.Check == lint.LintName || finding.Check == lint.LintExtensions {
				return
			}
		}
		for _, u := range cert.URIs {
			if again, err := url.Parse(u.String()); err != nil || again.String() != u.String() || u.Host == "" {
				t.Errorf("passes the URI %q", u)
			}
		}
		if len(cert.EmailAddresses)+len(cert.URIs) > 1 || len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
			t.Errorf("passes the names %v %v %v", cert.EmailAddresses, cert.URIs, cert.DNSNames)
		}
	})
}

// keyID is SHA-1 of a P-256 key: RFC 5280, Section 4.2.1.2, method (1).
func keyID(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	sum := sha1.Sum(must(key.PublicKey.Bytes())(t))
	return sum[:]
}
