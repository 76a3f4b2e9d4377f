package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

func developers() policy.Issuer {
	return people(policy.Rule{
		Name: "developers", SAN: `email(claims.email)`,
		When: `claims.email_verified == true && "/code-signers" in list(claims.groups) && claims.acr in ["mfa", "hwk"] && ` +
			`recent(claims.auth_time, now, duration("15m")) && token.azp == "codesign-cli" && request.api.startsWith("rest")`,
		Extensions: []policy.RuleExtension{{Number: 20, Value: `claims.acr`}}, Profile: "short",
	}, policy.Rule{Name: "robots", When: `has(claims.client_id)`, SAN: `uri("https://kc.corp.example", claims.client_id, claims.pipeline)`})
}

func TestExplainSaysEveryReason(t *testing.T) {
	p := mustNew(t, developers())
	c := keycloakUser.with(claims{"acr": "1", "groups": []string{"/staff"}, "auth_time": nil, "azp": "other"})
	e := p.Explain(t.Context(), tokenOf(t, realm, c))
	if e.Allowed || e.Reason != ca.ReasonPolicy || e.SAN != "" || len(e.Rules) != 2 || e.Rules[0].Matched {
		t.Fatalf("got %+v, want a refusal by policy after two rules", e)
	}
	var got []string
	for _, r := range e.Rules {
		for _, f := range r.Failed {
			got = append(got, f.Condition+": "+f.Why)
		}
	}
	want := []string{
		`"/code-signers" in list(claims.groups): claims.groups is ["/staff"], and must contain "/code-signers"`,
		`claims.acr in ["mfa", "hwk"]: claims.acr is "1", which is not in the list of the rule`,
		`recent(claims.auth_time, now, duration("15m")): the token has no claim "auth_time"`,
		`token.azp == "codesign-cli": token.azp is "other", and must be "codesign-cli"`,
		`has(claims.client_id): the token has no claim client_id`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExplainWhatIsAllowed(t *testing.T) {
	p := mustNew(t, developers())
	e := p.Explain(t.Context(), tokenOf(t, realm, keycloakUser))
	if !e.Allowed || e.Rule != "developers" || e.SANKind != ca.SANEmail || e.SAN != "alice.dev@corp.example" || e.Profile != "short" ||
		len(e.Extensions) != 1 || len(e.Rules) != 1 || !e.Rules[0].Matched || e.Reason != "" {
		t.Errorf("got %+v", e)
	}
	const want = `allowed by rule "developers" of issuer "idp"
  name: email:alice.dev@corp.example
  1.3.6.1.4.1.57264.1.20: mfa
  profile: short
rule "developers" matches
`
	if got := e.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestExplainSaysWhatTheNameLacks(t *testing.T) {
	p := mustNew(t, developers())
	e := p.Explain(t.Context(), tokenOf(t, realm, claims{"sub": "u1", "client_id": "ci"}))
	last := e.Rules[len(e.Rules)-1]
	if e.Allowed || len(last.Failed) != 1 || !strings.Contains(last.Failed[0].Why, `no claim "pipeline"`) || !strings.HasPrefix(last.Failed[0].Condition, "san: ") {
		t.Errorf("got %+v, want that the name lacks the claim pipeline", e)
	}
}

func TestExplainShowsTheNameThatIsNotAllowed(t *testing.T) {
	p := mustNew(t, developers())
	e := p.Explain(t.Context(), tokenOf(t, realm, keycloakUser.with(claims{"email": "alice@other.example"})))
	if e.Allowed || e.Reason != ca.ReasonSANNotAllowed || e.SAN != "alice@other.example" || e.Rule != "developers" {
		t.Errorf("got %+v, want the refused name and rule", e)
	}
}

// A terminal must not obey what a token says, and a long claim must not hide the
// rest.
func TestExplainIsSafeToPrint(t *testing.T) {
	p := mustNew(t, developers())
	evil := "\x1b[2J\u202e\nrule \"developers\" matches\n" + strings.Repeat("ü", 5000)
	for _, c := range []claims{
		keycloakUser.with(claims{"acr": evil, "groups": []string{evil}, "azp": evil}),
		keycloakUser.with(claims{"email": evil}),
		{"sub": "u1", "client_id": evil, "pipeline": "x"},
	} {
		e := p.Explain(t.Context(), tokenOf(t, realm, c))
		text := e.String()
		if strings.ContainsAny(text, "\x1b\u202e") || strings.Contains(text, "\nrule \"developers\" matches\n") || len(text) > 30_000 {
			t.Errorf("%q: printed as %q", c, text)
		}
		if e.Allowed {
			t.Errorf("%q: allowed", c)
		}
	}
}

func TestExplainAgreesWithDecide(t *testing.T) {
	for _, name := range policy.PresetNames() {
		if name == "generic" {
			continue
		}
		p := preset(t, name)
		for _, c := range []claims{keycloakUser, keycloakClient, adfsUser, entraUser, entraApp, gitlabUser, githubRun, jenkinsJob, pod, svid, {}} {
			for _, issuer := range []string{realm, adfs, entraV2, gitlab, actions, jenkins, cluster, spire} {
				r := tokenOf(t, issuer, c)
				e, got := p.Explain(t.Context(), r), ""
				if got = string(e.Reason); e.Allowed {
					got = e.Rule + " " + e.SAN
				}
				if want := verdict(t, p, r); got != want {
					t.Errorf("%s %s %v: explained as %q, decided as %q", name, issuer, c, got, want)
				}
			}
		}
	}
}

func TestExplainCase(t *testing.T) {
	p := mustNew(t, people(one(`request.key_type == "ecdsa-p256" && request.api == "rest-v2" && request.source == ""`)))
	e, err := p.ExplainCase(t.Context(), policy.Case{Issuer: "idp", URL: realm, Claims: []byte(`{"sub":"u1"}`), At: now})
	if err != nil || !e.Allowed {
		t.Errorf("got %+v, %v; want what stock clients use to match", e, err)
	}
	if _, err := p.ExplainCase(t.Context(), policy.Case{Issuer: "idp", Claims: []byte(`[]`)}); err == nil {
		t.Error("a list was taken for claims")
	}
}

// Run with the race detector, for a policy is shared by all requests.
func TestDecideConcurrently(t *testing.T) {
	p := preset(t, "github")
	r := tokenOf(t, actions, githubRun)
	want, err := p.Decide(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if got, err := p.Decide(t.Context(), r); err != nil || got.SAN != want.SAN || !slices.Equal(got.Extensions, want.Extensions) {
					t.Errorf("got %+v, %v; want %+v", got, err, want)
				}
			}
		})
	}
	all.Wait()
}

func TestCases(t *testing.T) {
	p := mustNew(t, developers())
	alice, err := json.Marshal(keycloakUser.with(claims{"aud": "sigstore", "iat": 1795337736, "exp": 1795338036}))
	if err != nil {
		t.Fatal(err)
	}
	good := policy.Case{Issuer: "idp", URL: realm, Claims: alice, At: now, API: "rest-v2", Expect: "email:alice.dev@corp.example", Rule: "developers"}
	change := func(f func(c *policy.Case)) policy.Case { c := good; f(&c); return c }
	for _, tc := range []struct {
		name string
		c    policy.Case
		want string // part of the error
	}{
		{"as expected", good, ""},
		{"any rule", change(func(c *policy.Case) { c.Rule = "" }), ""},
		{"too late", change(func(c *policy.Case) { c.At = now.Add(time.Hour); c.Expect = "refuse" }), ""},
		{"refused with reason", change(func(c *policy.Case) { c.At = now.Add(time.Hour); c.Expect = "refuse:auth_too_old" }), ""},
		{"other door", change(func(c *policy.Case) { c.API = "grpc"; c.Expect = "refuse:policy" }), ""},
		{"other name", change(func(c *policy.Case) { c.Expect = "email:bob@corp.example" }), "expected email:bob"},
		{"other kind", change(func(c *policy.Case) { c.Expect = "uri:alice.dev@corp.example" }), "got email:alice"},
		{"other rule", change(func(c *policy.Case) { c.Rule = "robots" }), `"robots"`},
		{"not refused", change(func(c *policy.Case) { c.Expect = "refuse" }), "got email:alice"},
		{"other reason", change(func(c *policy.Case) { c.At = now.Add(time.Hour); c.Expect = "refuse:guest" }), "too long ago"},
		{"refused", change(func(c *policy.Case) { c.At = now.Add(time.Hour) }), "got refuse:auth_too_old"},
		{"no JSON", change(func(c *policy.Case) { c.Claims = []byte("eyJ") }), "reading the claims"},
		{"null", change(func(c *policy.Case) { c.Claims = []byte("null") }), "not an object"},
		{"two objects", change(func(c *policy.Case) { c.Claims = []byte("{}{}") }), "more after"},
		{"huge", change(func(c *policy.Case) { c.Claims = make([]byte, 70_000) }), "more than"},
	} {
		err := p.Test(t.Context(), tc.c)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got the error %v, want one with %q", tc.name, err, tc.want)
		}
	}
}
