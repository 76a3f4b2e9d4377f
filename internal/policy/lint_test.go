package policy_test

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/policy"
)

func TestNewRefusesRulesThatNobodyCanHaveMeant(t *testing.T) {
	good := one("true")
	change := func(f func(r *policy.Rule)) policy.Rule { r := good; f(&r); return r }
	when := func(s string) policy.Rule { return change(func(r *policy.Rule) { r.When = s }) }
	san := func(s string) policy.Rule { return change(func(r *policy.Rule) { r.SAN = s }) }
	ext := func(n int, s string) policy.Rule {
		return change(func(r *policy.Rule) { r.Extensions = []policy.RuleExtension{{Number: n, Value: s}} })
	}
	for _, tc := range []struct {
		name string
		rule policy.Rule
		why  string // part of the message
	}{
		{"no name", change(func(r *policy.Rule) { r.Name = "" }), "name"},
		{"name with a newline", change(func(r *policy.Rule) { r.Name = "a\nb" }), "name"},
		{"no condition", when(""), "required"},
		{"no SAN", san(""), "required"},
		{"syntax", when("claims.x =="), "Syntax"},
		{"condition is text", when(`"x"`), "not a bool"},
		{"SAN is text", san(`"https://kc.corp.example/x"`), "not a mayfly.name"},
		{"SAN is a claim", san(`claims.sub`), "not a mayfly.name"},
		{"SAN is a hidden claim", san(`dyn(uri("https://kc.corp.example", "x"))`), "not a mayfly.name"},
		{"unknown variable", when(`token.adz == "x"`), "undeclared"},
		{"unknown function", when(`hash(claims.sub) == "x"`), "undeclared"},
		{"too long", when(`"` + strings.Repeat("x", 5000) + `" == "x"`), "exceeds"},
		{"too deep", when(strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100)), "recursion"},
		{"too many conditions", when("true" + strings.Repeat(" && true", 60)), "conditions"},
		{"nested loops", when(`[1].all(a, [1].all(b, [1].all(c, true)))`), "nest"},
		{"bad pattern", when(`claims.sub.matches("(")`), "matches"},
		{"pattern from the token", when(`claims.sub.matches(claims.pattern)`), "pattern"},
		{"network from the token", when(`in_network(request.source, claims.net)`), "network"},
		{"network with host bits", when(`in_network(request.source, "10.1.2.3/8")`), "network"},
		{"bad duration", when(`recent(claims.auth_time, now, duration("soon"))`), "duration"},

		{"or", when(`claims.a == "x" || claims.b == "y"`), "claims.a may be absent"},
		{"or with half a guard", when(`(has(claims.a) && claims.a == "x") || claims.b == "y"`), "claims.b may be absent"},
		{"not", when(`!(claims.a == "x")`), "claims.a may be absent"},
		{"unequal", when(`claims.a != "x"`), "claims.a may be absent"},
		{"not in", when(`!("/x" in claims.groups)`), "claims.groups may be absent"},
		{"ternary", when(`claims.a == "x" ? true : false`), "claims.a may be absent"},
		{"wrong guard", when(`has(claims.b) && !(claims.a == "x")`), "claims.a may be absent"},
		{"negated guard", when(`!has(claims.a) && claims.a != "x"`), "claims.a may be absent"},
		{"guard of the parent", when(`has(claims.a) && claims.a.b != "x"`), "claims.a.b may be absent"},
		{"guard without its own guard", when(`has(claims.a.b) || true`), "claims.a may be absent"},
		{"loop variable", when(`claims.roles.exists(r, r.name == "a")`), "r.name may be absent"},
		{"loop variable of all", when(`claims.roles.all(r, r.name == "a")`), "r.name may be absent"},
		{"optional and then not", when(`claims.b != "x" && claims.?a.orValue("") != "x"`), "claims.b may be absent"},
		{"computed", when(`!({"a": 1}.b == 1)`), "computed"},
		{"all claims", when(`claims == claims`), "name the claim"},
		{"all claims in a list", when(`[claims].exists(c, has(c.email))`), "name the claim"},
		{"all claims as something else", when(`dyn(claims).email == "x"`), "name the claim"},
		{"all claims as optional", when(`optional.of(claims).optMap(c, c.email).hasValue()`), "name the claim"},
		{"e-mail as optional", san(`claims.?email.optMap(e, email(e)).orValue(uri("https://kc.corp.example", "x"))`), "email_verified"},
		{"computed claim", when(`claims["em" + "ail"] == "x"`), "name the claim"},

		{"e-mail", san(`email(claims.email)`), "email_verified"},
		{"optional e-mail", san(`email(claims.?email.orValue("x"))`), "email_verified"},
		{"e-mail by index", san(`email(claims["email"])`), "email_verified"},
		{"e-mail in a condition", when(`claims.email == "a@corp.example"`), "email_verified"},
		{"e-mail in an extension", ext(13, `claims.email`), "email_verified"},
		{"e-mail verified or not", change(func(r *policy.Rule) {
			r.When, r.SAN = `has(claims.email_verified) && claims.email_verified == true || claims.sub == "x"`, `email(claims.email)`
		}), "email_verified"},
		{"e-mail not verified", change(func(r *policy.Rule) {
			r.When, r.SAN = `claims.email_verified == false`, `email(claims.email)`
		}), "email_verified"},
		{"presence of the proof", change(func(r *policy.Rule) {
			r.When, r.SAN = `has(claims.email_verified)`, `email(claims.email)`
		}), "email_verified"},
		{"display name", san(`email(claims.preferred_username)`), "preferred_username"},

		{"base from the token", san(`uri("https://" + claims.host, "x")`), "must be written"},
		{"base is a claim", san(`workflow(claims.base, "x@y")`), "must be written"},
		{"base without host", san(`uri("https://", "evil.example")`), "https:// and a host"},
		{"other scheme", san(`uri("http://kc.corp.example", "x")`), "https:// and a host"},
		{"number as segment", san(`uri("https://kc.corp.example", 5)`), "text()"},
		{"issuer extension", ext(8, `"x"`), "extension 8"},
		{"subject extension", ext(24, `"x"`), "extension 24"},
		{"extension is a number", ext(13, `5`), "not a string"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := policy.New([]policy.Issuer{people(tc.rule)})
			if err == nil || !strings.Contains(err.Error(), tc.why) {
				t.Errorf("%+v: got the error %v, want one with %q", tc.rule, err, tc.why)
			}
		})
	}
}

func TestNewTakesRulesThatSayWhatTheyMean(t *testing.T) {
	verified := func(when string) policy.Rule { return policy.Rule{Name: "one", When: when, SAN: `email(claims.email)`} }
	trusting := people(verified("true"))
	trusting.TrustedClaims = []string{"email"}
	display := people(policy.Rule{Name: "one", When: "true", SAN: `email(claims.preferred_username)`})
	display.TrustedClaims = []string{"preferred_username"}
	for name, issuer := range map[string]policy.Issuer{
		"verified":           people(verified(`claims.email_verified`)),
		"verified equals":    people(verified(`true == claims.email_verified && claims.sub == "x"`)),
		"verified as text":   people(verified(`claims.email_verified == "true"`)),
		"by the token layer": people(verified(`token.email_verified`)),
		"by Entra ID":        people(verified(`yes(claims.xms_edov)`)),
		"either":             people(verified(`(has(claims.email_verified) && claims.email_verified == true) || yes(claims.?xms_edov)`)),
		"trusted":            trusting,
		"trusted display":    display,
		"guarded or":         people(one(`(has(claims.a) && claims.a == "x") || (has(claims.b) && claims.b == "y")`)),
		"guarded not":        people(one(`has(claims.a) && !(claims.a == "x")`)),
		"guarded deep":       people(one(`has(claims.a) && has(claims.a.b) && claims.a.b != "x"`)),
		"inverted guard":     people(one(`!has(claims.a) || claims.a != "x"`)),
		"ternary":            people(one(`has(claims.a) ? claims.a == "x" : true`)),
		"optional deep":      people(one(`claims.?a.b.c.orValue("x") != "x" && claims.?a.?b.orValue("x") != "x"`)),
		"always there":       people(one(`claims.sub != "x" || claims.iss == "y"`)),
		"loop variable":      people(one(`claims.roles.exists(r, has(r.name) && r.name == "a")`)),
		"presence of mail":   people(one(`!has(claims.email)`)),
	} {
		if _, err := policy.New([]policy.Issuer{issuer}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
