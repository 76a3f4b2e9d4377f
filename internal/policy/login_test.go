package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// A person who could have a certificate with another login is told so; whom a
// rule is not for is told nothing of it.
func TestRefusalSaysWhatLoginIsWanted(t *testing.T) {
	const (
		group  = `"/code-signers" in list(claims.groups)`
		mfa    = `claims.acr == "mfa"`
		ifMFA  = `has(claims.acr) && ` + mfa
		otp    = `"otp" in list(claims.?amr)`
		recent = `recent(claims.auth_time, now, duration("15m"))`
		nobody = `"/nobody" in list(claims.groups)`
	)
	weak := fmt.Sprintf(`{"sub":"u1","groups":["/code-signers"],"acr":"1","amr":["pwd"],"auth_time":%d}`, now.Unix())
	old := fmt.Sprintf(`{"sub":"u1","groups":["/code-signers"],"acr":"mfa","amr":["pwd","otp"],"auth_time":%d}`, now.Add(-time.Hour).Unix())
	both := fmt.Sprintf(`{"sub":"u1","groups":["/code-signers"],"acr":"1","auth_time":%d}`, now.Add(-time.Hour).Unix())
	silent := `{"sub":"u1","groups":["/code-signers"]}`
	rule := func(when string) policy.Rule { return one(when) }
	const ( // what rules made of these answer
		policyAlone = "policy"
		stronger    = "mfa_required"
		fresher     = "auth_too_old"
	)
	for _, tc := range []struct {
		name, claims string
		rules        []policy.Rule
		want         string
	}{
		{"acr", weak, []policy.Rule{rule(group + " && " + mfa)}, stronger},
		{"acr before the rest", weak, []policy.Rule{rule(mfa + " && " + group)}, stronger},
		{"amr", weak, []policy.Rule{rule(group + " && " + otp)}, stronger},
		{"either of acr and amr", weak, []policy.Rule{rule(group + " && (" + ifMFA + " || " + otp + ")")}, stronger},
		{"neither in the token", silent, []policy.Rule{rule(group + " && " + mfa)}, stronger},
		{"not the weak values", weak, []policy.Rule{rule(group + ` && has(claims.acr) && !(claims.acr in ["0", "1"])`)}, stronger},
		{"old", old, []policy.Rule{rule(group + " && " + mfa + " && " + recent)}, fresher},
		{"no auth_time", silent, []policy.Rule{rule(group + " && " + recent)}, fresher},
		{"old by arithmetic", old, []policy.Rule{rule(group + ` && now - ts(claims.auth_time) < duration("15m")`)}, fresher},
		{"weak and old", both, []policy.Rule{rule(group + " && " + recent + " && " + mfa)}, stronger},
		{"a fresh login or a strong one", both, []policy.Rule{rule(group + " && (" + ifMFA + " || has(claims.auth_time) && " + recent + ")")}, fresher},
		{"the second rule", weak, []policy.Rule{one(nobody), {Name: "two", When: group + " && " + mfa, SAN: one("true").SAN}}, stronger},
		{"the first that came near", old, []policy.Rule{one(group + " && " + recent), {Name: "two", When: group + ` && claims.acr == "hwk"`, SAN: one("true").SAN}}, fresher},

		{"a group, too", weak, []policy.Rule{rule(nobody + " && " + mfa)}, policyAlone},
		{"a group, too, asked for later", weak, []policy.Rule{rule(mfa + " && " + nobody)}, policyAlone},
		{"a claim, too", weak, []policy.Rule{rule(group + " && has(claims.client_id) && " + mfa)}, policyAlone},
		{"group or factor", weak, []policy.Rule{rule(`(has(claims.groups) && ` + nobody + ` || ` + ifMFA + `) && ` + group)}, policyAlone},
		{"client and factor", weak, []policy.Rule{rule(group + ` && (token.azp == "x" || ` + ifMFA + `)`)}, policyAlone},
		{"a rule against people who log in", weak, []policy.Rule{rule(group + " && !has(claims.auth_time)")}, policyAlone},
		{"a rule against what tells of a login", weak, []policy.Rule{rule(group + " && !has(claims.acr)")}, policyAlone},
		{"a rule against a factor", old, []policy.Rule{rule(group + ` && !("otp" in list(claims.?amr))`)}, policyAlone},
		{"a login that is never recent", old, []policy.Rule{rule(group + ` && recent(claims.auth_time, now, duration("-5m"))`)}, policyAlone},
		{"a name that cannot be made", weak, []policy.Rule{{Name: "one", When: group + " && " + mfa, SAN: `uri("https://kc.corp.example", claims.job)`}}, policyAlone},
		{"a name of others", weak, []policy.Rule{{Name: "one", When: group + " && " + mfa, SAN: `uri("https://other.example", "x")`}}, policyAlone},
		{"an error before", weak, []policy.Rule{rule(`claims.acr > 1 && ` + mfa)}, policyAlone},
		{"an error after", weak, []policy.Rule{rule(mfa + ` && claims.sub > 1`)}, policyAlone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := verdict(t, mustNew(t, people(tc.rules...)), request(t, realm, tc.claims)); got != tc.want {
				t.Errorf("%v with %s: got %q, want %q", tc.rules, tc.claims, got, tc.want)
			}
		})
	}
}

// The claims of the request are what the journal shows, and are not changed by
// asking what another login would do.
func TestWhatIsWantedLeavesTheClaims(t *testing.T) {
	r := request(t, realm, `{"sub":"u1","acr":"1"}`)
	p := mustNew(t, people(one(`recent(claims.auth_time, now, duration("15m")) && claims.acr == "mfa"`)))
	_, err := p.Decide(t.Context(), r)
	if why := ca.AsRefusal(err); why.Reason != ca.ReasonMFARequired || why.Kind != ca.KindDenied {
		t.Errorf("got %v of kind %v, want %s", err, why.Kind, ca.ReasonMFARequired)
	}
	if len(r.Identity.Claims) != 2 || r.Identity.Claims["acr"] != "1" {
		t.Errorf("claims are %v afterwards", r.Identity.Claims)
	}
}
