package oidc

import (
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// quota returns a verifier whose tokens are good for n uses, or for one.
func quota(t *testing.T, p *provider, n int, oneTime bool) (*Verifier, *clock) {
	t.Helper()
	is := p.issuer()
	is.MaxCertificatesPerToken, is.OneTime = n, oneTime
	return newVerifier(t, Config{Issuers: []Issuer{is}})
}

func TestQuotaPerToken(t *testing.T) {
	p := newProvider(t)
	v, c := quota(t, p, 3, false)
	token := rs256().token(t, goodHeader(), p.goodClaims())
	for i := range 3 {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatalf("use %d: %v", i+1, err)
		}
	}
	_, err := v.Verify(t.Context(), token)
	wantRefusal(t, "fourth use", err, ca.KindExhausted, ca.ReasonTokenQuota)
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims().with("sub", "bob"))); err != nil {
		t.Errorf("another token: %v", err)
	}
	// Until the last moment in which the token is valid.
	c.advance(5*time.Minute + 30*time.Second - 1)
	_, err = v.Verify(t.Context(), token)
	wantRefusal(t, "a nanosecond before the end", err, ca.KindExhausted, ca.ReasonTokenQuota)
	c.advance(1)
	_, err = v.Verify(t.Context(), token)
	wantRefusal(t, "at the end", err, ca.KindInvalid, ca.ReasonExpired)
	c.advance(usesSweep)
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims().with("iat", c.now().Unix()).with("exp", c.now().Unix()+60))); err != nil {
		t.Fatalf("a fresh token: %v", err)
	}
	if got := len(v.uses.tokens); got != 1 {
		t.Errorf("%d tokens are remembered, want the fresh one only", got)
	}
}

// What names a token decides which tokens are one: the provider's name for it if
// it has one, else everything that it says, and never how it is written.
func TestOneTimeTokens(t *testing.T) {
	p := newProvider(t)
	claims := p.goodClaims()
	sign := func(c object) string { return rs256().token(t, goodHeader(), c) }
	es := func(c object) string {
		return signer{"ES256", p256Key()}.token(t, goodHeader().with("alg", "ES256").with("kid", "ec"), c)
	}
	for _, tt := range []struct {
		name          string
		first, second string
		same          bool
	}{
		{"the very token", sign(claims), sign(claims), true},
		{"signed anew", es(claims), es(claims), true},
		{"other claims", sign(claims), sign(claims.with("nonce", "n")), false},
		{"same jti", sign(claims.with("jti", "1")), sign(claims.with("jti", "1").with("nonce", "n")), true},
		{"same jti, other key", sign(claims.with("jti", "1")), es(claims.with("jti", "1")), true},
		{"other jti", sign(claims.with("jti", "1")), sign(claims.with("jti", "2")), false},
		{"same uti", sign(claims.with("uti", "1")), sign(claims.with("uti", "1").with("nonce", "n")), true},
		{"jti counts before uti", sign(claims.with("jti", "1").with("uti", "1")), sign(claims.with("jti", "2").with("uti", "1")), false},
		{"empty jti", sign(claims.with("jti", "")), sign(claims.with("jti", "").with("nonce", "n")), false},
		{"jti a number", sign(claims.with("jti", 1)), sign(claims.with("jti", 1).with("nonce", "n")), false},
	} {
		v, _ := quota(t, p, 0, true)
		if _, err := v.Verify(t.Context(), tt.first); err != nil {
			t.Fatalf("%s: first: %v", tt.name, err)
		}
		_, err := v.Verify(t.Context(), tt.second)
		if tt.same {
			wantRefusal(t, tt.name, err, ca.KindInvalid, ca.ReasonTokenReused)
		} else if err != nil {
			t.Errorf("%s: second: %v", tt.name, err)
		}
	}
}

func TestSameNameOfTwoIssuersIsTwoTokens(t *testing.T) {
	p, q := newProvider(t), newProvider(t)
	first, second := p.issuer(), q.issuer()
	first.OneTime, second.OneTime, second.Name = true, true, "other"
	v, _ := newVerifier(t, Config{Issuers: []Issuer{first, second}})
	for _, issuer := range []*provider{p, q} {
		if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), issuer.goodClaims().with("jti", "1"))); err != nil {
			t.Errorf("Verify: %v", err)
		}
	}
}

func TestOneTimeTokenRacedForIsUsedOnce(t *testing.T) {
	p := newProvider(t)
	v, _ := quota(t, p, 0, true)
	token := rs256().token(t, goodHeader(), p.goodClaims())
	won := make(chan struct{}, 50)
	var wg sync.WaitGroup
	for range cap(won) {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), token); err == nil {
				won <- struct{}{}
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d of %d won the race, want one", len(won), cap(won))
	}
}

func TestRefundGivesBackOneUse(t *testing.T) {
	p := newProvider(t)
	v, _ := quota(t, p, 2, false)
	token := rs256().token(t, goodHeader(), p.goodClaims())
	verify := func() (ca.Identity, error) { return v.Verify(t.Context(), token) }
	id, err := verify()
	if err != nil {
		t.Fatal(err)
	}
	v.Refund(id)
	if len(v.uses.tokens) != 0 {
		t.Errorf("%d tokens are remembered after the only use was taken back", len(v.uses.tokens))
	}
	v.Refund(id) // one too many gives nothing
	for i := range 2 {
		if _, err := verify(); err != nil {
			t.Errorf("use %d: %v", i+1, err)
		}
	}
	v.Refund(id)
	if _, err := verify(); err != nil {
		t.Errorf("after a refund: %v", err)
	}
	_, err = verify()
	wantRefusal(t, "nothing left", err, ca.KindExhausted, ca.ReasonTokenQuota)
}

// Forgetting a token to make room would let it be used again.
func TestFullMemoryRefuses(t *testing.T) {
	p := newProvider(t)
	v, c := quota(t, p, 0, true)
	v.uses.limit = 10
	sign := func(i int) string {
		return rs256().token(t, goodHeader(), p.goodClaims().with("jti", strangeKid(i)))
	}
	for i := range 10 {
		if _, err := v.Verify(t.Context(), sign(i)); err != nil {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	_, err := v.Verify(t.Context(), sign(10))
	wantRefusal(t, "one too many", err, ca.KindUnavailable, ca.ReasonOverloaded)
	_, err = v.Verify(t.Context(), sign(0))
	wantRefusal(t, "the first again", err, ca.KindInvalid, ca.ReasonTokenReused)
	c.advance(6 * time.Minute)
	late := p.goodClaims().with("iat", c.now().Unix()).with("exp", c.now().Add(time.Minute).Unix())
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), late)); err != nil {
		t.Errorf("after the others have expired: %v", err)
	}
}

// A provider that makes tokens without end must not use up the memory of the
// others.
func TestFullMemoryOfOneIssuerIsNoneOfAnothers(t *testing.T) {
	p, q := newProvider(t), newProvider(t)
	first, second := p.issuer(), q.issuer()
	second.Name = "second"
	first.OneTime, second.OneTime = true, true
	v, _ := newVerifier(t, Config{Issuers: []Issuer{first, second}})
	v.uses.limit = 10
	for i := range 11 {
		_, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims().with("jti", strangeKid(i))))
		if i == 10 {
			wantRefusal(t, "the first issuer's eleventh", err, ca.KindUnavailable, ca.ReasonOverloaded)
		} else if err != nil {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	id, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), q.goodClaims().with("jti", "x")))
	if err != nil {
		t.Fatalf("the second issuer's first: %v", err)
	}
	v.Refund(id)
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), q.goodClaims().with("jti", "x"))); err != nil {
		t.Errorf("the second issuer's first, given back: %v", err)
	}
}

// A token of a day that is refused when it is an hour old is remembered for an
// hour, and no token is forgotten while it can be used.
func TestUsesAreRememberedAsLongAsTheTokenIsGood(t *testing.T) {
	p := newProvider(t)
	v, c := quota(t, p, 0, true)
	claims := p.goodClaims().with("iat", noon.Unix()).with("exp", noon.Add(20*time.Hour).Unix())
	token := rs256().token(t, goodHeader(), claims)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	_, err := v.Verify(t.Context(), token)
	wantRefusal(t, "an hour old", err, ca.KindInvalid, ca.ReasonTokenReused)
	c.advance(1)
	_, err = v.Verify(t.Context(), token)
	wantRefusal(t, "older", err, ca.KindInvalid, ca.ReasonIssuedAt)
	for _, until := range v.uses.tokens {
		if d := until.until.Sub(noon); d > time.Hour+time.Minute {
			t.Errorf("the token is remembered for %v", d)
		}
	}
}
