package ca

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestNewChainNamesWhatIsWrong(t *testing.T) {
	for _, tc := range []struct {
		name   string
		mutate func(root, inter *x509.Certificate)
		adjust func(*ChainConfig)
		want   string
	}{
		{"not a CA", func(_, i *x509.Certificate) { i.IsCA, i.MaxPathLenZero = false, false }, nil, "not a CA certificate"},
		{"path too long", func(r, _ *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = 0, true }, nil, "allows a path of 0 CA certificates"},
		{"key usage", func(_, i *x509.Certificate) { i.KeyUsage = x509.KeyUsageCRLSign }, nil, "keyCertSign"},
		{"extended key usage", func(_, i *x509.Certificate) { i.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, nil, "codeSigning"},
		{"expired", func(_, i *x509.Certificate) { i.NotAfter = testTime.Add(-time.Hour) }, nil, "expired at"},
		{"wrong key", nil, func(c *ChainConfig) { c.Signer = &memSigner{Signer: p256(t)} }, "key does not belong"},
		{"no key", nil, func(c *ChainConfig) { c.Signer = nil }, "has no key"},
		{"root missing", nil, func(c *ChainConfig) { c.Certificates = c.Certificates[:1] }, "not a self-signed root"},
		{"wrong order", nil, func(c *ChainConfig) { c.Certificates[0], c.Certificates[1] = c.Certificates[1], c.Certificates[0] }, "was issued by"},
		{"foreign root", nil, func(c *ChainConfig) { c.Certificates[1] = newPKI(t, p256(t), nil).root }, "authority key identifier"},
		{"retires early", nil, func(c *ChainConfig) { c.Activate, c.Retire = testTime, testTime.Add(-time.Hour) }, "retires before"},
		{"published late", nil, func(c *ChainConfig) { c.PublishFrom = testTime }, "before it is published"},
		{"no name", nil, func(c *ChainConfig) { c.Name = "" }, "without a name"},
		{"empty", nil, func(c *ChainConfig) { c.Certificates = nil }, "no certificates"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPKI(t, p256(t), tc.mutate)
			cfg := ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key}
			if tc.adjust != nil {
				tc.adjust(&cfg)
			}
			_, err := NewChain(cfg, testTime)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("NewChain: %v, want an error that says %q", err, tc.want)
			}
		})
	}
}

func TestNewChainRefusesKeysThatClientsRefuse(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"Ed25519": mustEd25519(t), "P-521": mustECDSA(t, elliptic.P521()), "P-224": mustECDSA(t, elliptic.P224())} {
		p := newPKI(t, key, nil)
		_, err := NewChain(ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key}, testTime)
		if err == nil || !strings.Contains(err.Error(), "clients refuse") {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func TestParseChain(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	good := encodePEM(p.intermediate.Raw) + "\n" + encodePEM(p.root.Raw) + "\n"
	certs, err := ParseChain([]byte("# comment before the first block\n" + good))
	if err != nil || len(certs) != 2 || !certs[0].Equal(p.intermediate) {
		t.Fatalf("ParseChain: %d certificates, %v", len(certs), err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	for name, data := range map[string]string{
		"empty":         "",
		"no PEM":        "hello",
		"private key":   good + key,
		"trailing text": good + "oops",
		"broken":        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30}})),
		"too many":      strings.Repeat(good, 5),
		"too large":     good + strings.Repeat("\n", maxChainFile),
	} {
		if _, err := ParseChain([]byte(data)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzParseChain parses chain files. Whatever certificates come out, every check
// answers, and a chain is made of them exactly if none finds a problem.
func FuzzParseChain(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	files, err := filepath.Glob("testdata/pki/*/*.pem")
	if err != nil || len(files) < 4 {
		f.Fatalf("chain files %v, %v", files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := ParseChain(data)
		if err != nil {
			return
		}
		if len(certs) == 0 || len(certs) > maxChainLength {
			t.Errorf("%d certificates without an error", len(certs))
		}
		now := certs[0].NotBefore.Add(time.Hour)
		findings := Inspect(certs, certs[0].PublicKey, now)
		for _, c := range allChecks {
			if c != CheckRehearsal && !slices.ContainsFunc(findings, func(f Finding) bool { return f.Check == c }) {
				t.Errorf("check %s gives no answer", c)
			}
		}
		for _, f := range findings {
			if !utf8.ValidString(f.Text) || strings.ContainsFunc(f.Text, unicode.IsControl) {
				t.Errorf("%s: %q is not fit for a terminal", f.Check, f.Text)
			}
		}
		_, err = NewChain(ChainConfig{Name: "x", Certificates: certs, Signer: publicOnly{certs[0].PublicKey}}, now)
		if (err == nil) != (Worst(findings) < Problem) {
			t.Errorf("NewChain: %v, but the worst finding is %v: %+v", err, Worst(findings), findings)
		}
	})
}

// publicOnly has the key of a certificate and cannot sign.
type publicOnly struct{ public crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.public }
func (publicOnly) Ready() error               { return errDown }
func (publicOnly) Sign(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errDown
}

// TestSigningLooksAtFileAndClockOnly walks two chains through a rotation.
func TestSigningLooksAtFileAndClockOnly(t *testing.T) {
	p, q := newPKI(t, p256(t), nil), newPKI(t, p256(t), nil)
	q.key.ready = errDown // health must not matter
	day := 24 * time.Hour
	chain := func(p pki, name string, publish, activate, retire time.Time) *Chain {
		c, err := NewChain(ChainConfig{
			Name: name, Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key,
			PublishFrom: publish, Activate: activate, Retire: retire,
		}, testTime)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := chain(p, "old", time.Time{}, testTime, time.Time{})
	next := chain(q, "new", testTime.Add(day), testTime.Add(2*day), testTime.Add(4*day))
	for _, tc := range []struct {
		at      time.Duration
		signs   string
		publish string
	}{
		{-time.Second, "", "old"},
		{0, "old", "old"},
		{day, "old", "old new"},
		{2 * day, "new", "new old"},
		{4 * day, "", "new old"},
	} {
		a := newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{old, next} })
		a.now = testTime.Add(tc.at)
		got := ""
		if c, err := signing(a.chains, DefaultName, a.now); err == nil {
			got = c.Name()
		}
		var published []string
		for _, c := range a.TrustBundle("") {
			published = append(published, c.Name())
		}
		if got != tc.signs || strings.Join(published, " ") != tc.publish {
			t.Errorf("after %v: %q signs, %v published; want %q, %q", tc.at, got, published, tc.signs, tc.publish)
		}
	}
}

func TestValidityStaysInsideTheChain(t *testing.T) {
	p := newPKI(t, p256(t), func(_, i *x509.Certificate) {
		i.NotBefore, i.NotAfter = testTime.Truncate(time.Second).Add(-10*time.Second), testTime.Add(time.Hour)
	})
	c := p.chain(t)
	profile := DefaultProfile()
	notBefore, notAfter, err := profile.validity(testTime, c)
	if err != nil || !notBefore.Equal(c.notBefore) || notAfter.Sub(testTime.Truncate(time.Second)) != 570*time.Second {
		t.Errorf("validity %v to %v, %v: back-dating must give way to the chain's start, the end must not move", notBefore, notAfter, err)
	}
	_, _, err = profile.validity(testTime.Add(55*time.Minute), c)
	wantRefusal(t, err, KindUnavailable, ReasonChainExpiring)
	_, _, err = profile.validity(testTime.Add(-time.Minute), c)
	wantRefusal(t, err, KindUnavailable, ReasonNoActiveChain)
}

func TestDemoChainIsRecognised(t *testing.T) {
	p := newPKI(t, p256(t), func(r, _ *x509.Certificate) { r.Subject.Organization = []string{DemoOrganization} })
	if !p.chain(t).Demo() || newPKI(t, p256(t), nil).chain(t).Demo() {
		t.Error("a demonstration root is not told from a real one")
	}
}
