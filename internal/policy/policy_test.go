package policy_test

import (
	"errors"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

func mustNew(t *testing.T, issuers ...policy.Issuer) *policy.Policy {
	t.Helper()
	p, err := policy.New(issuers)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDecide(t *testing.T) {
	p := mustNew(t,
		policy.Issuer{Name: "people", SAN: ca.SANEmail, EmailDomains: []string{"corp.example", "*.sub.example"}},
		policy.Issuer{Name: "ci", SAN: ca.SANURI, URIPrefixes: []string{"https://ci.corp.example/team/", "spiffe://corp.example/"}},
	)
	email := func(addr string, verified bool) ca.Identity {
		return ca.Identity{IssuerName: "people", Subject: "1", Email: addr, EmailVerified: verified}
	}
	uri := func(sub string) ca.Identity { return ca.Identity{IssuerName: "ci", Subject: sub} }
	for _, tc := range []struct {
		name string
		id   ca.Identity
		want string // SAN
		kind ca.Kind
		why  ca.Reason
	}{
		{"own domain", email("alice@corp.example", true), "alice@corp.example", 0, ""},
		{"mixed case", email("Alice.Dev@Corp.Example", true), "alice.dev@corp.example", 0, ""},
		{"below a wildcard", email("a@x.y.sub.example", true), "a@x.y.sub.example", 0, ""},
		{"the wildcard's parent", email("a@sub.example", true), "", ca.KindDenied, ca.ReasonSANNotAllowed},
		{"look-alike suffix", email("a@evilcorp.example", true), "", ca.KindDenied, ca.ReasonSANNotAllowed},
		{"below an exact domain", email("a@x.corp.example", true), "", ca.KindDenied, ca.ReasonSANNotAllowed},
		{"unverified", email("alice@corp.example", false), "", ca.KindInvalid, ca.ReasonEmailUnverified},
		{"no address", email("", true), "", ca.KindInvalid, ca.ReasonEmailUnverified},
		{"Kelvin sign", email("alice@ban\u212a.example", true), "", ca.KindDenied, ca.ReasonSANInvalid},
		{"two addresses", email("a@corp.example,b@corp.example", true), "", ca.KindDenied, ca.ReasonSANInvalid},
		{"own prefix", uri("https://ci.corp.example/team/x"), "https://ci.corp.example/team/x", 0, ""},
		{"spiffe", uri("spiffe://corp.example/ns/a"), "spiffe://corp.example/ns/a", 0, ""},
		{"the bare prefix", uri("https://ci.corp.example/team/"), "", ca.KindDenied, ca.ReasonSANNotAllowed},
		{"other team", uri("https://ci.corp.example/teams/x"), "", ca.KindDenied, ca.ReasonSANNotAllowed},
		{"dot segments", uri("https://ci.corp.example/team/../root"), "", ca.KindDenied, ca.ReasonSANInvalid},
		{"empty segment", uri("https://ci.corp.example/team//x"), "", ca.KindDenied, ca.ReasonSANInvalid},
		{"no URI", uri("alice"), "", ca.KindDenied, ca.ReasonSANInvalid},
		{"unknown issuer", ca.Identity{IssuerName: "other", Email: "a@corp.example", EmailVerified: true}, "", ca.KindDenied, ca.ReasonPolicy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := p.Decide(t.Context(), ca.Request{Identity: tc.id})
			if tc.want != "" {
				if err != nil || d.SAN.String() != tc.want || d.Rule == "" || d.PolicyDigest == [32]byte{} {
					t.Errorf("got %+v, %v; want the name %q with rule and digest", d, err, tc.want)
				}
				return
			}
			r, ok := errors.AsType[*ca.Refusal](err)
			if !ok || r.Kind != tc.kind || r.Reason != tc.why {
				t.Errorf("got %v, want kind %d reason %q", err, tc.kind, tc.why)
			}
		})
	}
}

func TestNewRefusesEntriesThatCannotWork(t *testing.T) {
	for name, i := range map[string]policy.Issuer{
		"no name":           {SAN: ca.SANEmail, EmailDomains: []string{"corp.example"}},
		"no kind":           {Name: "x", EmailDomains: []string{"corp.example"}},
		"no domain":         {Name: "x", SAN: ca.SANEmail, URIPrefixes: []string{"https://corp.example/"}},
		"no prefix":         {Name: "x", SAN: ca.SANURI, EmailDomains: []string{"corp.example"}},
		"upper-case domain": {Name: "x", SAN: ca.SANEmail, EmailDomains: []string{"Corp.example"}},
		"bare star":         {Name: "x", SAN: ca.SANEmail, EmailDomains: []string{"*"}},
		"open prefix":       {Name: "x", SAN: ca.SANURI, URIPrefixes: []string{"https://corp.example/a"}},
		"host prefix":       {Name: "x", SAN: ca.SANURI, URIPrefixes: []string{"https://corp.example"}},
	} {
		if _, err := policy.New([]policy.Issuer{i}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDigestFollowsThePolicy(t *testing.T) {
	digest := func(domain string) [32]byte {
		p := mustNew(t, policy.Issuer{Name: "people", SAN: ca.SANEmail, EmailDomains: []string{domain}})
		d, err := p.Decide(t.Context(), ca.Request{Identity: ca.Identity{IssuerName: "people", Email: "a@" + domain, EmailVerified: true}})
		if err != nil {
			t.Fatal(err)
		}
		return d.PolicyDigest
	}
	first, again, other := digest("corp.example"), digest("corp.example"), digest("corp2.example")
	if first != again || first == other {
		t.Errorf("digests %x, again %x, of another policy %x; want the first two equal and the third different", first, again, other)
	}
}
