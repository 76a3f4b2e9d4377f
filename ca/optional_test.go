package ca

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIssueAddsWhatIsAskedFor(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	cfg := ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key,
		CAIssuersURL: "http://pki.corp.example/issuing.cer", CRLURL: "http://pki.corp.example/issuing.crl"}
	chain, err := NewChain(cfg, testTime)
	if err != nil {
		t.Fatal(err)
	}
	policy := mustOID(t, "1.3.6.1.4.1.55555.1")
	a := newTestAuthority(t, func(c *Config) {
		c.Chains = []*Chain{chain}
		c.Profiles = []Profile{{Name: "policed", Lifetime: time.Minute, Policies: []x509.OID{policy}}}
	})
	a.decision.Profile = "policed"
	cert := issue(t, a, testRequest(t, p256(t)))
	verifyAgainstRoot(t, cert, p)
	if !slices.Equal(cert.IssuingCertificateURL, []string{cfg.CAIssuersURL}) || !slices.Equal(cert.CRLDistributionPoints, []string{cfg.CRLURL}) {
		t.Errorf("URLs %q and %q, want %q and %q", cert.IssuingCertificateURL, cert.CRLDistributionPoints, cfg.CAIssuersURL, cfg.CRLURL)
	}
	if !slices.EqualFunc(cert.Policies, []x509.OID{policy}, x509.OID.Equal) {
		t.Errorf("policies %v, want %v", cert.Policies, policy)
	}
}

func TestIssueSaysThatThereIsNoRevocation(t *testing.T) {
	a := newTestAuthority(t, func(c *Config) {
		c.Profiles = []Profile{{Name: "short", Lifetime: time.Minute, NoRevAvail: true}}
	})
	a.decision.Profile = "short"
	cert := issue(t, a, testRequest(t, p256(t)))
	// RFC 9608, Section 2: "id-ce-noRevAvail OBJECT IDENTIFIER ::= { id-ce 56 }",
	// "noRevAvail EXTENSION ::= { SYNTAX NULL [...] }".
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 56}) })
	if i < 0 || cert.Extensions[i].Critical || string(cert.Extensions[i].Value) != "\x05\x00" {
		t.Errorf("extensions %v: want 2.5.29.56, not critical, NULL", cert.Extensions)
	}
}

// Every combination of the optional extensions is what encoding/asn1 makes of it.
func TestOptionalExtensionsMatchAnotherEncoder(t *testing.T) {
	client := p256(t)
	chain := newPKI(t, p256(t), nil).chain(t)
	for which := range 16 {
		for _, san := range []SAN{{SANEmail, "alice@corp.example"}, {SANURI, "https://corp.example/x"}, {SANUsername, "alice!corp.example"}} {
			ext, err := fulcioExtensions(nil, testIdentity())
			if err != nil {
				t.Fatal(err)
			}
			d := &draft{
				serial: newSerial(), chain: chain, key: prove(t, client, testIdentity()), san: san, extensions: ext, logged: true,
				notBefore: testTime.Truncate(time.Second), notAfter: testTime.Truncate(time.Second).Add(time.Minute),
			}
			withOptional(t, d, which)
			compareWithStandardLibrary(t, d, client.Public())
			encoded, err := d.encode()
			if err != nil {
				t.Fatal(err)
			}
			pre := precertificate(encoded)
			if err := judge(pre, d, testIdentity()); err != nil {
				t.Errorf("combination %04b of %s: the judge says %v", which, san.kind, err)
			}
		}
	}
}

func TestJudgeComparesWhatIsAskedFor(t *testing.T) {
	a := newTestAuthority(t, nil)
	_, d, _, err := a.prepare(t.Context(), testRequest(t, p256(t)))
	if err != nil {
		t.Fatal(err)
	}
	withOptional(t, d, 7)
	for name, change := range map[string]func(d *draft, c *Chain){
		"nothing":         func(*draft, *Chain) {},
		"CA issuers":      func(_ *draft, c *Chain) { c.caIssuersURL += "x" },
		"revocation list": func(_ *draft, c *Chain) { c.crlURL += "x" },
		"one policy less": func(d *draft, _ *Chain) { d.policies = d.policies[:1] },
		"order":           func(d *draft, _ *Chain) { d.policies = []x509.OID{d.policies[1], d.policies[0]} },
	} {
		built, chain := *d, *d.chain
		built.chain = &chain
		change(&built, &chain)
		encoded, err := built.encode()
		if err != nil {
			t.Fatal(err)
		}
		pre := precertificate(encoded)
		if err := judge(pre, d, testIdentity()); (err == nil) != (name == "nothing") {
			t.Errorf("%s differs: the judge says %v", name, err)
		}
	}
}

func TestNewRefusesContradictions(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	policy := mustOID(t, "1.2.3")
	for _, tc := range []struct {
		name    string
		chain   func(*ChainConfig)
		profile Profile
		want    string
	}{
		{"revocation list that there is not", func(c *ChainConfig) { c.CRLURL = "http://x.example/crl" }, Profile{NoRevAvail: true}, "no revocation information"},
		{"same policy twice", nil, Profile{Policies: []x509.OID{policy, policy}}, "twice"},
		{"empty policy", nil, Profile{Policies: []x509.OID{{}}}, "object identifier"},
		{"many policies", nil, Profile{Policies: make([]x509.OID, 9)}, "more than 8"},
		{"directory instead of web", func(c *ChainConfig) { c.CRLURL = "ldap:///cn=x" }, Profile{}, "crl_url"},
		{"relative URL", func(c *ChainConfig) { c.CAIssuersURL = "/ca.cer" }, Profile{}, "ca_issuers_url"},
		{"long URL", func(c *ChainConfig) { c.CAIssuersURL = "http://x.example/" + strings.Repeat("x", 256) }, Profile{}, "ca_issuers_url"},
		{"URL with a password", func(c *ChainConfig) { c.CAIssuersURL = "http://a:b@x.example/" }, Profile{}, "ca_issuers_url"},
		{"URL with a newline", func(c *ChainConfig) { c.CAIssuersURL = "http://x.example/\n" }, Profile{}, "ca_issuers_url"},
		{"negative lead", func(c *ChainConfig) { c.MinLead = -1 }, Profile{}, "min_lead"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key}
			if tc.chain != nil {
				tc.chain(&cfg)
			}
			tc.profile.Name, tc.profile.Lifetime = "p", time.Minute
			chain, err := NewChain(cfg, testTime)
			if err == nil {
				_, err = New(Config{
					Chains: []*Chain{chain}, Profiles: []Profile{tc.profile}, Recorder: &memRecorder{t: t}, WithoutLog: true,
					Policy: func(context.Context, Request) (Decision, error) { return Decision{}, nil },
				})
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error that says %q", err, tc.want)
			}
		})
	}
}

// crossSign makes a second root and a path from it to the issuing key of p.
func crossSign(t *testing.T, p pki, mutate func(*x509.Certificate)) []*x509.Certificate {
	t.Helper()
	rootKey := p256(t)
	other := newPKI(t, rootKey, nil) // its intermediate is of no interest
	root := &x509.Certificate{
		SerialNumber: other.root.SerialNumber, Subject: other.root.Subject, NotBefore: other.root.NotBefore, NotAfter: other.root.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1,
	}
	root.Subject.CommonName = "Merged Corp Root"
	root = signCert(t, root, root, rootKey.Public(), rootKey)
	cross := *p.intermediate
	cross.AuthorityKeyId, cross.SignatureAlgorithm = nil, 0
	if mutate != nil {
		mutate(&cross)
	}
	return []*x509.Certificate{signCert(t, &cross, root, p.key.Public(), rootKey), root}
}

func TestCrossSignedPathsAreTrustedToo(t *testing.T) {
	p := newPKI(t, p256(t), nil)
	cross := crossSign(t, p, nil)
	chain, err := NewChain(ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key,
		CrossSigned: [][]*x509.Certificate{cross}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	old, err := NewChain(ChainConfig{Name: "old", Certificates: []*x509.Certificate{p.intermediate, p.root}, Activate: testTime.AddDate(0, 0, -9),
		Retire: testTime.AddDate(0, 0, -1)}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	a := newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{chain, old} })
	bundle := a.TrustBundle("")
	if len(bundle) != 3 || bundle[0].Name() != "old" || bundle[1].Name() != "corp" || bundle[2].Name() != "corp" || !bundle[2].Certificates()[1].Equal(cross[1]) {
		t.Fatalf("bundle %v: want the cross-signed path right after its own", bundle)
	}
	a = newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{chain} })
	cert := issue(t, a, testRequest(t, p256(t)))
	verifyAgainstRoot(t, cert, p)
	verifyAgainstRoot(t, cert, pki{root: cross[1], intermediate: cross[0]})
}

func TestCrossSignedPathsMustLeadToTheSameKey(t *testing.T) {
	p, q := newPKI(t, p256(t), nil), newPKI(t, p256(t), nil)
	for name, tc := range map[string]struct {
		path []*x509.Certificate
		want string
	}{
		"another key":     {[]*x509.Certificate{q.intermediate, q.root}, "key does not belong"},
		"another subject": {crossSign(t, p, func(c *x509.Certificate) { c.RawSubject, c.Subject.CommonName = nil, "Other" }), "another subject"},
		"another key ID":  {crossSign(t, p, func(c *x509.Certificate) { c.SubjectKeyId = []byte("x") }), "key identifier"},
		"the same path":   {[]*x509.Certificate{p.intermediate, p.root}, "there already"},
		"no codeSigning": {crossSign(t, p, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "lacks codeSigning"},
		"empty": {nil, "no certificates"},
	} {
		_, err := NewChain(ChainConfig{Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Signer: p.key,
			CrossSigned: [][]*x509.Certificate{tc.path}}, testTime)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "cross-signed path 1") {
			t.Errorf("%s: %v, want an error that says %q", name, err, tc.want)
		}
	}
}
