package ca

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"
)

func TestRehearseCoversChainsProfilesAndNames(t *testing.T) {
	constrained := newPKI(t, rsaKey(t, 2048), func(_, i *x509.Certificate) {
		i.PermittedEmailAddresses, i.ExcludedURIDomains = []string{".corp.example"}, []string{""}
	})
	free := newPKI(t, p256(t), nil)
	second, err := NewChain(ChainConfig{Name: "constrained", Certificates: []*x509.Certificate{constrained.intermediate, constrained.root},
		Signer: constrained.key, Activate: testTime.Add(time.Hour)}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	gone, err := NewChain(ChainConfig{Name: "gone", Certificates: []*x509.Certificate{free.intermediate, free.root},
		Activate: testTime.AddDate(0, 0, -9), Retire: testTime.AddDate(0, 0, -1)}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Rehearse([]*Chain{free.chain(t), second, gone}, []Profile{{Name: "brief", Lifetime: time.Minute, NoRevAvail: true}}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, r := range all {
		got[r.Chain+" "+r.Profile+" "+string(r.Kind)]++
		cert, err := x509.ParseCertificate(r.DER)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignatureFrom(r.Issuer); err != nil {
			t.Errorf("%s: %v", r.Chain, err)
		}
		if _, ok := r.Issuer.PublicKey.(*rsa.PublicKey); ok || r.Issuer.Equal(free.intermediate) {
			t.Errorf("%s: the issuer of a rehearsal has a real key", r.Chain)
		}
		for _, issuing := range []*x509.Certificate{free.intermediate, constrained.intermediate} {
			if cert.CheckSignatureFrom(issuing) == nil {
				t.Errorf("%s: a rehearsal is signed by a real key", r.Chain)
			}
		}
	}
	for _, want := range []string{
		"corp default email", "corp default uri", "corp default username", "corp brief email", "corp brief uri", "corp brief username",
		"constrained default email", "constrained default username", "constrained brief email", "constrained brief username",
	} {
		if got[want] != 1 {
			t.Errorf("%q was rehearsed %d times, want once", want, got[want])
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("rehearsed beyond that: %v", got)
	}
}

// A chain whose CA demands a policy works with profiles that have it, and New
// says which profile has not.
func TestNewRehearsesPoliciesOfProfiles(t *testing.T) {
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}
	p := newPKI(t, p256(t), func(_, i *x509.Certificate) {
		i.Policies = []x509.OID{mustOID(t, oid.String())}
		i.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}}
	})
	wantFinding(t, Inspect([]*x509.Certificate{p.intermediate, p.root}, p.key.Public(), testTime), CheckRehearsal, Note, oid.String())
	chain := p.chain(t)
	with := func(policies ...x509.OID) error {
		_, err := New(Config{
			Chains: []*Chain{chain}, Recorder: &memRecorder{t: t}, WithoutLog: true, Clock: func() time.Time { return testTime },
			Profiles: []Profile{{Name: DefaultName, Lifetime: MaxLifetime, Policies: policies}},
			Policy:   func(context.Context, Request) (Decision, error) { return Decision{}, nil },
		})
		return err
	}
	if err := with(mustOID(t, oid.String())); err != nil {
		t.Errorf("the policy that the CA demands: %v", err)
	}
	for name, policies := range map[string][]x509.OID{"none": nil, "another": {mustOID(t, "1.2.3")}} {
		if err := with(policies...); err == nil || !strings.Contains(err.Error(), `would not work with profile "default"`) {
			t.Errorf("%s: %v, want the profile refused", name, err)
		}
	}
}
