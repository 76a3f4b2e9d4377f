package oidc

import (
	"encoding/json"
	"testing"
	"time"
)

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	p := newProvider(t)
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	claims := p.goodClaims().with("jti", "id-1").with("azp", "mayfly").with("nbf", noon.Add(-65*time.Second).Unix()).
		with("run", json.Number("9007199254740993"))
	id, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), claims))
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	if id.IssuerName != "test" || id.Issuer != p.srv.URL || id.Subject != "alice" ||
		id.Email != "alice@example.com" || !id.EmailVerified {
		t.Errorf("identity is %+v", id)
	}
	if id.Claims["run"] != json.Number("9007199254740993") {
		t.Errorf("claim run is %v, want all digits", id.Claims["run"])
	}
}
