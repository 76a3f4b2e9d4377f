package oidc

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
)

// A header is remembered when a token under it was verified, and never before:
// otherwise go-oidc would be spared the reading of a header that a stranger made.
func TestOnlyHeadersOfVerifiedTokensAreRemembered(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	known := &v.issuers[0].headers.known
	header := goodHeader()
	for i := range 10 {
		forged := signer{"RS256", rsaKey2()}.token(t, header.with("x", i), p.goodClaims())
		_, err := v.Verify(t.Context(), forged)
		wantRefusal(t, "forged token", err, ca.KindInvalid, ca.ReasonBadSignature)
		_, err = v.Verify(t.Context(), rs256().token(t, header.with("x", i), p.goodClaims().with("aud", "other")))
		wantRefusal(t, "token for somebody else", err, ca.KindInvalid, ca.ReasonAudience)
	}
	if len(*known) != 0 {
		t.Fatalf("%d headers of refused tokens are remembered", len(*known))
	}
	for i := range 3 * maxHeaders {
		h := header.with("x", i%(maxHeaders+5))
		for range 2 {
			if _, err := v.Verify(t.Context(), rs256().token(t, h, p.goodClaims())); err != nil {
				t.Fatalf("header %v: %v", h, err)
			}
		}
		if len(*known) < 1 || len(*known) > maxHeaders {
			t.Fatalf("%d headers are remembered, want 1 to %d", len(*known), maxHeaders)
		}
	}
}

// With a header that was seen before, everything else about a token is looked at
// as before: its signature, its claims, and whether go-oidc agrees about them.
func TestARememberedHeaderExcusesNothing(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims())); err != nil {
		t.Fatal(err)
	}
	if len(v.issuers[0].headers.known) != 1 {
		t.Fatal("the header is not remembered")
	}
	good := p.goodClaims()
	testRejections(t, p, v, []rejection{
		{"forged", signer{"RS256", rsaKey2()}.token(t, goodHeader(), good), ca.ReasonBadSignature},
		{"expired", rs256().token(t, goodHeader(), good.with("exp", noon.Unix()-100).with("iat", noon.Unix()-200)), ca.ReasonExpired},
		{"two subjects for go-oidc", rs256().compact(t, text(goodHeader()), strings.TrimSuffix(text(good), "}")+`,"SUB":"root"}`), ca.ReasonTokenMalformed},
		{"claims of a distributed source that is not there", rs256().token(t, goodHeader(), good.with("_claim_names", object{"groups": "nowhere"})), ca.ReasonTokenMalformed},
	})
}
