package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func hierarchy(t testing.TB) *Hierarchy {
	t.Helper()
	root, issuing, err := DefaultNames("Example, Corp", now)
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHierarchy(HierarchyConfig{
		RootName: root, IssuingName: issuing, RootYears: 20, IssuingYears: 5,
		Root: newKey(t), Issuing: newKey(t).Public(), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// OpenSSL is the second opinion on what was made.
func TestNewHierarchyIsWhatVerifiersWant(t *testing.T) {
	h := hierarchy(t)
	dir := t.TempDir()
	root, issuing := filepath.Join(dir, "root.pem"), filepath.Join(dir, "issuing.pem")
	for file, c := range map[string]*x509.Certificate{root: h.Root, issuing: h.Issuing} {
		if err := WritePublic(file, EncodeChain([]*x509.Certificate{c})); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "openssl", "verify", "-x509_strict", "-attime", "1795348800", "-CAfile", root, issuing)
	text := tool(t, "openssl", "x509", "-in", issuing, "-noout", "-text")
	for _, want := range []string{
		"CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Code Signing", "Subject: O = \"Example, Corp\", CN = Mayfly Issuing CA 2026",
		"Not Before: Nov 22 11:00:00 2026 GMT", "Not After : Nov 22 12:00:00 2031 GMT",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not show %q in the intermediate:\n%s", want, text)
		}
	}
	text = tool(t, "openssl", "x509", "-in", root, "-noout", "-text")
	if !strings.Contains(text, "CA:TRUE, pathlen:1") || strings.Contains(text, "Extended Key Usage") {
		t.Errorf("the root has another path length than 1, or a purpose:\n%s", text)
	}
	for _, f := range h.Findings {
		if f.Level > ca.OK && f.Check != ca.CheckDesktops {
			t.Errorf("a new chain has the finding %+v", f)
		}
	}
}

func TestNewHierarchyRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*HierarchyConfig){
		"two keys":                func(c *HierarchyConfig) { c.Root = nil },
		"same key":                func(c *HierarchyConfig) { c.Issuing = key.Public() },
		"two names":               func(c *HierarchyConfig) { c.RootName = Name{} },
		"same name":               func(c *HierarchyConfig) { c.RootName = c.IssuingName },
		"demonstration":           func(c *HierarchyConfig) { c.RootName = name(t, "CN=A,O="+ca.DemoOrganization) },
		"allowed are 1 to 50":     func(c *HierarchyConfig) { c.IssuingYears = 0 },
		"root must not end first": func(c *HierarchyConfig) { c.RootYears = 4 },
		"another one":             func(c *HierarchyConfig) { c.Root = lying{key, other.Public()} },
		"not usable, algorithms":  func(c *HierarchyConfig) { c.Issuing = p521.Public() },
	} {
		cfg := HierarchyConfig{
			RootName: name(t, "CN=Root"), IssuingName: name(t, "CN=Issuing"), RootYears: 20, IssuingYears: 5,
			Root: key, Issuing: newKey(t).Public(), Now: now,
		}
		change(&cfg)
		// The standard library finds a key whose halves disagree, in its own words.
		if _, err := NewHierarchy(cfg); err == nil || want != "another one" && !strings.Contains(err.Error(), want) {
			t.Errorf("NewHierarchy = %v, want an error with %q", err, want)
		}
	}
}

func TestReadCertificatesReadsEveryForm(t *testing.T) {
	h := hierarchy(t)
	dir := t.TempDir()
	chain := filepath.Join(dir, "chain.pem")
	if err := WritePublic(chain, EncodeChain(h.Chain())); err != nil {
		t.Fatal(err)
	}
	p7 := []byte(tool(t, "openssl", "crl2pkcs7", "-nocrl", "-certfile", chain))
	block, _ := pem.Decode(p7)
	whole := EncodeChain(h.Chain())
	for _, c := range []struct {
		form string
		data []byte
		n    int
	}{
		{"PEM", whole, 2},
		{"PEM", append([]byte("\xef\xbb\xbf"), whole...), 2},
		{"PEM", append([]byte("subject=/O=Example\n"), bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n"))...), 2},
		{"PEM", []byte(tool(t, "openssl", "x509", "-in", chain, "-text")), 1},
		{"DER", h.Issuing.Raw, 1},
		{"PKCS#7 in PEM", p7, 2},
		{"PKCS#7 in DER", block.Bytes, 2},
		// certutil -encode and the web enrolment pages of AD CS.
		{"PKCS#7 in PEM", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}), 2},
	} {
		certs, form, err := ReadCertificates(c.data)
		if err != nil || form != c.form || len(certs) != c.n {
			t.Errorf("ReadCertificates(%.40q) = %d certificates, %q, %v; want %d, %q", c.data, len(certs), form, err, c.n, c.form)
		}
	}
}

func TestReadCertificatesRefuses(t *testing.T) {
	h := hierarchy(t)
	dir := t.TempDir()
	key, cert, message := filepath.Join(dir, "key"), filepath.Join(dir, "cert"), filepath.Join(dir, "m")
	tool(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=A")
	if err := WritePublic(message, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	detached := []byte(tool(t, "openssl", "cms", "-sign", "-in", message, "-signer", cert, "-inkey", key, "-outform", "PEM"))
	signed := []byte(tool(t, "openssl", "cms", "-sign", "-in", message, "-signer", cert, "-inkey", key, "-outform", "PEM", "-nodetach"))
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	whole := EncodeChain(h.Chain())
	for _, c := range []struct {
		what, want string
		data       []byte
	}{
		{"nothing", "empty", []byte(" \n")},
		{"text", "no certificate found", []byte("hello")},
		{"a key", "PRIVATE KEY: take it out", append(bytes.Clone(whole), text...)},
		{"a request", "certificate request", pem.EncodeToMemory(&pem.Block{Type: "NEW CERTIFICATE REQUEST"})},
		{"a CRL", "X509 CRL", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL"})},
		{"a signed message", "message or a signature", signed},
		{"a signature", "message or a signature", detached},
		{"a message", "message or a signature", withContent(h.Root.Raw)},
		{"UTF-16", "UTF-16", []byte("\xff\xfe-\x00-\x00")},
		{"broken DER", "neither", h.Root.Raw[:100]},
		{"a byte after a certificate", "neither", append(bytes.Clone(h.Root.Raw), 0)},
		{"many", "more than 32", bytes.Repeat(whole, 17)},
		{"a long file", "more than", make([]byte, maxFile+1)},
	} {
		if certs, form, err := ReadCertificates(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ReadCertificates of %s = %d, %q, %v; want an error with %q", c.what, len(certs), form, err, c.want)
		}
	}
}

// withContent returns a PKCS#7 without signers, with a certificate and a message.
func withContent(certificate []byte) []byte {
	explicit := cryptobyte_asn1.Tag(0).Constructed().ContextSpecific()
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(explicit, func(b *cryptobyte.Builder) {
			b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cryptobyte_asn1.SET, func(*cryptobyte.Builder) {})
				b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidData)
					b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte("hello")) })
				})
				b.AddASN1(explicit, func(b *cryptobyte.Builder) { b.AddBytes(certificate) })
				b.AddASN1(cryptobyte_asn1.SET, func(*cryptobyte.Builder) {})
			})
		})
	})
	return b.BytesOrPanic()
}

// A root that another one has cross-signed ends the path; the cross-signed
// certificate is for a path of its own.
func TestOrderPrefersTheSelfSignedIssuer(t *testing.T) {
	root, issuing, other := newKey(t), newKey(t), hierarchy(t)
	otherKey := newKey(t)
	h, err := NewHierarchy(HierarchyConfig{
		RootName: name(t, "CN=Root"), IssuingName: name(t, "CN=Issuing"), RootYears: 20, IssuingYears: 5,
		Root: root, Issuing: issuing.Public(), Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	template, err := template(name(t, "CN=Root"), root.Public(), now, 10)
	if err != nil {
		t.Fatal(err)
	}
	signer := *other.Root
	signer.PublicKey = otherKey.Public()
	cross, err := create(template, &signer, root.Public(), otherKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range [][]*x509.Certificate{{cross, h.Root, h.Issuing}, {h.Root, h.Issuing, cross}} {
		path, rest, err := Order(in, issuing.Public())
		if err != nil || len(path) != 2 || !path[1].Equal(h.Root) || len(rest) != 1 || !rest[0].Equal(cross) {
			t.Errorf("Order with a cross-signed root = %d and %d certificates, %v; want the self-signed one in the path", len(path), len(rest), err)
		}
	}
}

func TestDesktopEvidenceAsksThisMachine(t *testing.T) {
	h := hierarchy(t)
	trusting := x509.NewCertPool()
	trusting.AddCert(h.Root)
	for _, c := range []struct {
		system *x509.CertPool
		want   int
	}{{nil, 0}, {x509.NewCertPool(), 0}, {trusting, 1}} {
		if got := DesktopEvidence(h.Chain(), c.system, now); len(got) != c.want {
			t.Errorf("DesktopEvidence with %d roots on this machine = %v, want %d findings", c.want, got, c.want)
		}
	}
}

func TestOrderFindsThePath(t *testing.T) {
	h, other := hierarchy(t), hierarchy(t)
	for _, c := range []struct {
		what string
		in   []*x509.Certificate
		rest int
	}{
		{"in order", []*x509.Certificate{h.Issuing, h.Root}, 0},
		{"root first", []*x509.Certificate{h.Root, h.Issuing}, 0},
		{"twice", []*x509.Certificate{h.Root, h.Issuing, h.Root, h.Issuing}, 0},
		// Of the same name, but another key: the signature decides.
		{"with another root of that name", []*x509.Certificate{other.Root, h.Root, h.Issuing}, 1},
		{"with another root of that name, later", []*x509.Certificate{h.Root, other.Root, h.Issuing}, 1},
		{"with a whole other chain", []*x509.Certificate{other.Root, other.Issuing, h.Root, h.Issuing}, 2},
	} {
		path, rest, err := Order(c.in, h.Issuing.PublicKey)
		if err != nil || len(path) != 2 || !path[0].Equal(h.Issuing) || !path[1].Equal(h.Root) || len(rest) != c.rest {
			t.Errorf("Order of a chain %s = %d and %d certificates, %v; want the path and %d", c.what, len(path), len(rest), err, c.rest)
		}
	}
	if path, _, err := Order([]*x509.Certificate{h.Root, h.Issuing}, nil); err != nil || len(path) != 2 || !path[0].Equal(h.Issuing) {
		t.Errorf("Order without a key = %d certificates, %v; want the path", len(path), err)
	}
	if path, _, err := Order([]*x509.Certificate{h.Issuing}, nil); err != nil || len(path) != 1 {
		t.Errorf("Order of the intermediate alone = %d certificates, %v; want it", len(path), err)
	}
	for want, in := range map[string][]*x509.Certificate{
		"no certificate is for this key": {other.Root, other.Issuing}, "there is no certificate": nil,
	} {
		if _, _, err := Order(in, h.Issuing.PublicKey); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Order = %v, want an error with %q", err, want)
		}
	}
	if _, _, err := Order([]*x509.Certificate{h.Issuing, other.Issuing}, nil); err == nil || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("Order of two chains without a key = %v, want an error", err)
	}
}

func TestWriteDirectoryIsAllOrNothing(t *testing.T) {
	// What is public must be so for the service's user, whatever root's umask is.
	defer syscall.Umask(syscall.Umask(0o077))
	parent := t.TempDir()
	dir := filepath.Join(parent, "pki")
	files := []File{{Name: "root.pem", Data: []byte("root")}, {Name: "root.key", Secret: true, Data: []byte("key")}}
	if err := WriteDirectory(dir, files); err != nil {
		t.Fatalf("WriteDirectory = %v", err)
	}
	for file, mode := range map[string]os.FileMode{"root.pem": 0o644, "root.key": 0o600, ".": 0o700 | os.ModeDir} {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Mode() != mode {
			t.Errorf("%s has %v, %v; want mode %v", file, st, err, mode)
		}
	}
	if err := WriteDirectory(dir, files); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("WriteDirectory again = %v, want a refusal", err)
	}
	second := filepath.Join(parent, "second")
	err := WriteDirectory(second, append(files, files...)) // the third cannot be written
	if err == nil || !strings.Contains(err.Error(), "partial-") {
		t.Errorf("WriteDirectory that fails = %v, want an error that names what is left", err)
	}
	if _, err := os.Stat(second); !os.IsNotExist(err) {
		t.Errorf("after a failure, stat of the directory = %v, want that there is none", err)
	}
	left, err := filepath.Glob(filepath.Join(parent, ".second.partial-*", "root.key"))
	if err != nil || len(left) != 1 {
		t.Errorf("after a failure the key is in %v (%v), want it kept in one place", left, err)
	}
}

// Whatever is read can be ordered without a panic, and read again once written.
func FuzzReadCertificates(f *testing.F) {
	h := hierarchy(f)
	f.Add(EncodeChain(h.Chain()))
	f.Add(h.Root.Raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, _, err := ReadCertificates(data)
		if err != nil {
			return
		}
		path, rest, err := Order(certs, nil)
		if err != nil {
			return
		}
		again, form, err := ReadCertificates(EncodeChain(path))
		if err != nil || form != "PEM" || len(again) != len(path) || len(path)+len(rest) > len(certs) {
			t.Fatalf("%d certificates, path of %d and %d beside; read again %d, %q, %v", len(certs), len(path), len(rest), len(again), form, err)
		}
	})
}
