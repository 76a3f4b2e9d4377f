package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestSelfTestSignsNothingOfUse(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"P-256": p256(t), "RSA": rsaKey(t, 2048)} {
		p := newPKI(t, key, nil)
		var digest []byte
		p.key.sign = func(_ int, d []byte) ([]byte, error) { digest = d; return nil, nil }
		a := newTestAuthority(t, func(c *Config) { c.Chains = []*Chain{p.chain(t)} })
		if err := a.SelfTest(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.key.count() != 1 || len(digest) == 0 || a.log.size() != 0 {
			t.Errorf("%s: %d signatures, %d log entries; want one and none", name, p.key.count(), a.log.size())
		}
		if len(a.recorder.open) != 0 || len(a.recorder.outcomes) != 1 {
			t.Fatalf("%s: %d open intents, %d outcomes; want none and one", name, len(a.recorder.open), len(a.recorder.outcomes))
		}
		if o := a.recorder.outcomes[0]; o.Err == nil || o.Err.Reason != ReasonSelfTest || o.CertificateHash != ([32]byte{}) {
			t.Errorf("%s: outcome %+v, want one that hands out nothing", name, o)
		}
	}
}

func TestSelfTestIsRecordedAsOne(t *testing.T) {
	a := newTestAuthority(t, nil)
	var seen Intent
	a.pki.key.sign = func(int, []byte) ([]byte, error) {
		for _, i := range a.recorder.open {
			seen = i // the intent is durable before the signature
		}
		return nil, nil
	}
	if err := a.SelfTest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if seen.Request.API != APISelfTest || seen.Decision.Rule != APISelfTest || seen.Chain != "corp" || seen.Decision.SAN.Kind() != "" ||
		seen.Request.Identity.Subject != "" || !seen.NotAfter.Before(testTime) || !seen.Request.Time.Equal(testTime) {
		t.Errorf("intent %+v, want a self-test without identity, expired", seen)
	}
}

func TestSelfTestFindsABadKey(t *testing.T) {
	other := p256(t)
	for name, tc := range map[string]struct {
		spoil func(a *testAuthority)
		want  Reason
	}{
		"not ready": {func(a *testAuthority) { a.pki.key.ready = errDown }, ReasonSignerFailed},
		"fails":     {func(a *testAuthority) { a.pki.key.sign = func(int, []byte) ([]byte, error) { return nil, errDown } }, ReasonSignerFailed},
		"another key": {func(a *testAuthority) {
			a.pki.key.sign = func(_ int, d []byte) ([]byte, error) { return other.Sign(nil, d, crypto.SHA256) }
		}, ReasonSignerFailed},
		"no journal":      {func(a *testAuthority) { a.recorder.failIntent = errDown }, ReasonAuditFailed},
		"no outcome":      {func(a *testAuthority) { a.recorder.failDone = errDown }, ReasonAuditFailed},
		"clock went back": {func(a *testAuthority) { a.recorder.last = testTime.Add(time.Hour) }, ReasonClock},
	} {
		a := newTestAuthority(t, nil)
		tc.spoil(a)
		err := a.SelfTest(t.Context())
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != tc.want {
			t.Errorf("%s: %v, want reason %s", name, err, tc.want)
		}
		if name != "no outcome" && len(a.recorder.open) != 0 {
			t.Errorf("%s: %d intents stay open", name, len(a.recorder.open))
		}
	}
}

func TestSelfTestAsksTheKeysThatSignNow(t *testing.T) {
	pkis := makePKIs(t, 3)
	entries := []entry{{name: "old", pki: 0, activate: -100}, {name: "now", pki: 1, activate: -10}, {name: "team", authority: "team", pki: 2, activate: -1}}
	var chains []*Chain
	for _, e := range entries {
		chains = append(chains, e.chain(t, pkis))
	}
	pkis[0].key.ready = errDown // it has been superseded
	a := newTestAuthority(t, func(c *Config) { c.Chains = chains })
	if err := a.SelfTest(t.Context()); err != nil || pkis[0].key.count() != 0 || pkis[1].key.count() != 1 || pkis[2].key.count() != 1 {
		t.Errorf("%v, signatures %d %d %d, want 0 1 1", err, pkis[0].key.count(), pkis[1].key.count(), pkis[2].key.count())
	}
	pkis[1].key.ready, pkis[2].key.ready = errDown, errDown
	if err := a.SelfTest(t.Context()); err == nil || !strings.Contains(err.Error(), `"now"`) || !strings.Contains(err.Error(), `"team"`) {
		t.Errorf("%v, want both chains named", err)
	}
}

func TestJudgeSelfTestRefusesWhatIsOfUse(t *testing.T) {
	a := newTestAuthority(t, nil)
	key := prove(t, p256(t), testIdentity())
	fresh := func() *draft {
		return &draft{serial: newSerial(), chain: a.chains[0], notBefore: selfTestNotBefore, notAfter: selfTestNotAfter, key: key}
	}
	want := fresh()
	for name, change := range map[string]func(d *draft){
		"nothing":  func(*draft) {},
		"validity": func(d *draft) { d.notAfter = testTime.Add(time.Hour) },
		"serial":   func(d *draft) { d.serial = newSerial() },
		"key":      func(d *draft) { d.key = prove(t, p256(t), testIdentity()) },
		"issuer": func(d *draft) {
			d.chain = newPKI(t, p256(t), func(_, i *x509.Certificate) { i.Subject.CommonName = "x" }).chain(t)
		},
	} {
		d := *want
		change(&d)
		tbsDER, plain := d.encodeSelfTest()
		if err := judgeSelfTest(tbsDER, want); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
		if judgeSelfTest(plain, want) == nil {
			t.Errorf("%s: passes without poison", name)
		}
	}
	a.decision.Extensions = nil
	_, d, encoded, err := a.prepare(t.Context(), testRequest(t, p256(t)))
	if err != nil {
		t.Fatal(err)
	}
	genuine := precertificate(encoded)
	if judgeSelfTest(genuine, d) == nil {
		t.Error("a real certificate passes as a self-test")
	}
}

// A chain that had retired needs no key. If the clock was set back since, it signs
// again by the clock, and must not take the service down.
func TestSelfTestOfAChainWithoutAKey(t *testing.T) {
	var chain *Chain
	a := newTestAuthority(t, func(c *Config) {
		p := newPKI(t, p256(t), nil)
		var err error
		chain, err = NewChain(ChainConfig{
			Name: "corp", Certificates: []*x509.Certificate{p.intermediate, p.root}, Retire: testTime.Add(-time.Second),
		}, testTime)
		if err != nil {
			t.Fatal(err)
		}
		c.Chains = []*Chain{chain}
	})
	a.now = testTime.Add(-2 * time.Second)
	wantRefusal(t, errors.Unwrap(firstOf(a.SelfTest(t.Context()))), KindUnavailable, ReasonSignerFailed)
	if _, err := a.Issue(t.Context(), testRequest(t, p256(t))); err == nil {
		t.Error("a chain without a key issued")
	}
	if ready := a.Ready(); ready["signer"] == nil {
		t.Errorf("Ready() = %v, want that the signer is not", ready)
	}
}

// firstOf is the first of joined errors.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}
