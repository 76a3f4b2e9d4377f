package ca

import (
	"crypto/x509"
	"testing"
)

func TestConstrainedChainRefusesForeignNames(t *testing.T) {
	for _, tc := range []struct {
		name      string
		constrain func(root, inter *x509.Certificate)
		kind      SANKind
		value     string
		permitted bool
	}{
		{"e-mail inside", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} }, SANEmail, "alice@corp.example", true},
		{"e-mail outside", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} }, SANEmail, "alice@evil.example", false},
		{"e-mail below a host", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} }, SANEmail, "alice@sub.corp.example", false},
		{"e-mail below a domain", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{".corp.example"} }, SANEmail, "alice@sub.corp.example", true},
		{"one mailbox", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"bob@corp.example"} }, SANEmail, "alice@corp.example", false},
		{"excluded e-mail", func(_, i *x509.Certificate) { i.ExcludedEmailAddresses = []string{"corp.example"} }, SANEmail, "alice@corp.example", false},
		{"constrained by the root", func(r, _ *x509.Certificate) { r.PermittedEmailAddresses = []string{"corp.example"} }, SANEmail, "alice@evil.example", false},
		{"narrowed twice", func(r, i *x509.Certificate) {
			r.PermittedEmailAddresses, i.PermittedEmailAddresses = []string{"corp.example"}, []string{"corp.example", "evil.example"}
		}, SANEmail, "alice@evil.example", false},
		{"URI inside", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{".corp.example"} }, SANURI, "https://ci.corp.example:8443/job/a", true},
		{"URI outside", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{".corp.example"} }, SANURI, "https://ci.corp.example.evil.example/", false},
		{"spiffe ID inside", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{"corp.example"} }, SANURI, "spiffe://corp.example/w", true},
		{"URI below a host", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{"corp.example"} }, SANURI, "https://ci.corp.example/", false},
		{"URI of the domain itself", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{".corp.example"} }, SANURI, "https://corp.example/", false},
		{"one of several", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"a.example", ".Corp.example"} }, SANEmail, "alice@eu.corp.example", true},
		{"that mailbox", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"alice@Corp.example"} }, SANEmail, "alice@corp.example", true},
		{"other kind is free", func(_, i *x509.Certificate) { i.PermittedURIDomains = []string{"corp.example"} }, SANEmail, "alice@evil.example", true},
		{"user names are of no kind that is constrained", func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} }, SANUsername, "alice!evil.example", true},
		{"servers only", func(_, i *x509.Certificate) { i.PermittedDNSDomains = []string{"corp.example"} }, SANEmail, "alice@evil.example", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPKI(t, p256(t), tc.constrain)
			a := newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{p.chain(t)} })
			a.decision.SAN = SAN{tc.kind, tc.value}
			cert, err := a.Issue(t.Context(), testRequest(t, p256(t)))
			if tc.permitted {
				if err != nil {
					t.Fatalf("%s %q: %v, want a certificate", tc.kind, tc.value, err)
				}
				parsed, err := x509.ParseCertificate(cert.DER)
				if err != nil {
					t.Fatal(err)
				}
				parsed.UnhandledCriticalExtensions = nil // a user name, as Sigstore's verifiers do
				verifyAgainstRoot(t, parsed, p)
				return
			}
			wantRefusal(t, err, KindDenied, ReasonNameNotPermitted)
			if n := len(a.recorder.serials); n != 0 || p.key.count() != 0 || a.log.size() != 0 {
				t.Errorf("%d intents, %d signatures and %d log entries for a refused name, want none", n, p.key.count(), a.log.size())
			}
			if len(a.recorder.refused) != 1 {
				t.Errorf("%d refusals recorded, want 1", len(a.recorder.refused))
			}
		})
	}
}

func TestWithinIsToTheLetter(t *testing.T) {
	for _, tc := range []struct {
		subtree string
		san     SAN
		want    bool
	}{
		{"corp.example", SAN{SANEmail, "a@corp.example"}, true},
		{"corp.example", SAN{SANEmail, "a@x.corp.example"}, false},
		{"corp.example", SAN{SANEmail, "a@evilcorp.example"}, false},
		{".corp.example", SAN{SANEmail, "a@x.corp.example"}, true},
		{".corp.example", SAN{SANEmail, "a@corp.example"}, false},
		{".corp.example", SAN{SANEmail, "a@b"}, false},
		{".Corp.Example", SAN{SANEmail, "a@x.corp.example"}, true},
		{"A@corp.example", SAN{SANEmail, "a@corp.example"}, false},
		{"", SAN{SANEmail, "a@anywhere.example"}, true},
		{"corp.example", SAN{SANURI, "https://corp.example:8443/a"}, true},
		{".corp.example", SAN{SANURI, "https://x/corp.example"}, false},
		{"corp.example", SAN{SANURI, "spiffe://evil.example/corp.example"}, false},
	} {
		if got := within(tc.subtree, tc.san); got != tc.want {
			t.Errorf("%s %q within %q: %v, want %v", tc.san.kind, tc.san.value, tc.subtree, got, tc.want)
		}
	}
}

func TestUnconstrainedChainAsksNoTwin(t *testing.T) {
	if newPKI(t, p256(t), nil).chain(t).constrained {
		t.Error("every issuance would pay for a verification that cannot refuse")
	}
}

// A twin has its subject, extensions and validity from its model, and not its keys.
func TestTwinSharesEverythingButKeys(t *testing.T) {
	p := newPKI(t, rsaKey(t, 2048), func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} })
	certs := []*x509.Certificate{p.intermediate, p.root}
	tw, err := newTwin(certs)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range tw.chain.certificates {
		want := certs[i]
		if string(got.RawSubject) != string(want.RawSubject) || !got.NotAfter.Equal(want.NotAfter) || !got.NotBefore.Equal(want.NotBefore) {
			t.Errorf("certificate %d: the twin has another subject or validity", i)
		}
		if len(got.Extensions) != len(want.Extensions) {
			t.Fatalf("certificate %d: %d extensions, want %d", i, len(got.Extensions), len(want.Extensions))
		}
		for j, e := range got.Extensions {
			if w := want.Extensions[j]; !e.Id.Equal(w.Id) || e.Critical != w.Critical || string(e.Value) != string(w.Value) {
				t.Errorf("certificate %d: extension %v differs", i, e.Id)
			}
		}
		if string(got.RawSubjectPublicKeyInfo) == string(want.RawSubjectPublicKeyInfo) {
			t.Errorf("certificate %d: the twin has the key of its model", i)
		}
	}
}

func BenchmarkTwinVerify(b *testing.B) {
	p := newPKI(b, p256(b), func(_, i *x509.Certificate) { i.PermittedEmailAddresses = []string{"corp.example"} })
	a := newTestAuthority(b, func(c *Config) { c.Chains = []*Chain{p.chain(b)} })
	_, d, _, err := a.prepare(b.Context(), testRequest(b, p256(b)))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := d.chain.twin.verify(d); err != nil {
			b.Fatal(err)
		}
	}
}
