package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// within reports whether a name is one of those that people() may give, by
// looking at its text alone.
func within(san ca.SAN) bool {
	name := san.String()
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return false
		}
	}
	switch san.Kind() {
	case ca.SANEmail:
		return strings.HasSuffix(name, "@corp.example") && strings.Count(name, "@") == 1
	case ca.SANUsername:
		return strings.HasSuffix(name, "!corp.example") && strings.Count(name, "!") == 1
	case ca.SANURI:
		return (strings.HasPrefix(name, "https://kc.corp.example/") || strings.HasPrefix(name, "spiffe://corp.example/")) &&
			!strings.Contains(name+"/", "/../") && !strings.Contains(name+"/", "/./")
	}
	return false
}

// check decides, and fails on a panic, on an error that is no refusal and on a
// name that the issuer must not give.
func check(t *testing.T, p *policy.Policy, r ca.Request) {
	t.Helper()
	d, err := p.Decide(t.Context(), r)
	refusal, refused := errors.AsType[*ca.Refusal](err)
	switch {
	case err == nil && !within(d.SAN):
		t.Errorf("%v: the name %s %q is not one of the issuer's", r.Identity.Claims, d.SAN.Kind(), d.SAN)
	case err != nil && (!refused || refusal.Kind != ca.KindDenied):
		t.Errorf("%v: got the error %v, want a refusal by policy", r.Identity.Claims, err)
	case err == nil && (d.Rule == "" || d.PolicyDigest == [32]byte{}):
		t.Errorf("%v: decided without rule or digest: %+v", r.Identity.Claims, d)
	}
	e := p.Explain(t.Context(), r)
	if e.Allowed != (err == nil) {
		t.Errorf("%v: explained as %v, decided with %v", r.Identity.Claims, e.Allowed, err)
	}
	for _, c := range e.String() {
		if c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 {
			t.Errorf("%v: the explanation has the character %U", r.Identity.Claims, c)
		}
	}
}

// FuzzRule compiles any condition and name and decides a rich token by it.
func FuzzRule(f *testing.F) {
	for _, name := range policy.PresetNames() {
		row, _ := policy.Preset(name)
		for _, r := range row.Rules {
			extension := ""
			if len(r.Extensions) > 0 {
				extension = r.Extensions[len(r.Extensions)/2].Value
			}
			f.Add(r.When, r.SAN, extension)
		}
	}
	f.Add(`"/a" in list(claims.?groups) && recent(claims.auth_time, now, duration("5m"))`, `username(claims.sub, "corp.example")`, `text(claims.?n)`)
	f.Add(`claims.roles.exists(r, has(r.name) && r.name == "a")`, `has(claims.id) ? spiffe(claims.id) : uri("https://kc.corp.example", path(claims.sub))`, `string(claims.n)`)
	text, err := json.Marshal(keycloakUser.with(claims{"n": 5, "id": "spiffe://corp.example/a", "roles": []claims{{"name": "a"}, {"id": 1}}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, when, san, extension string) {
		rule := policy.Rule{Name: "one", When: when, SAN: san}
		if extension != "" {
			rule.Extensions = []policy.RuleExtension{{Number: 20, Value: extension}}
		}
		p, err := policy.New([]policy.Issuer{people(rule)})
		if err != nil {
			return
		}
		check(t, p, request(t, realm, string(text)))
		check(t, p, request(t, realm, `{}`))
	})
}

// FuzzClaims decides any claims by rules that use everything there is.
func FuzzClaims(f *testing.F) {
	for _, c := range []claims{keycloakUser, keycloakClient, adfsUser, entraUser, gitlabUser, githubRun, jenkinsJob, pod, svid} {
		text, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`{"_claim_names":{"groups":"src1"},"hasgroups":true}`)
	f.Add(`{"upn":"a@corp.example\u0000.evil.example","kind":"upn"}`)
	f.Add(`{"kind":"uri","url":"https://kc.corp.example/../x"}`)
	f.Add(`{"kind":"segment","x":"../..","y":"a/../b"}`)
	f.Add(`{"kind":"workflow","x":"a/b//c@d/../e"}`)
	f.Add(`{"kind":"user","x":"a!b"}`)
	f.Add(`{"groups":[["/a"]],"roles":{"a":1e400},"auth_time":-1e99}`)
	rule := func(name, when, san string) policy.Rule {
		return policy.Rule{Name: name, When: when, SAN: san, Extensions: []policy.RuleExtension{{Number: 20, Value: `text(claims.?y)`}}}
	}
	p := mustPolicy(f, people(
		rule("mail", `claims.email_verified == true && (recent(claims.?auth_time.orValue(0), now, duration("15m")) || "/a" in list(claims.?groups))`, `email(claims.email)`),
		rule("upn", `claims.kind == "upn"`, `email(claims.upn)`),
		rule("uri", `claims.kind == "uri"`, `uri(claims.url)`),
		rule("segment", `claims.kind == "segment"`, `uri("https://kc.corp.example", claims.x, path(claims.y))`),
		rule("workflow", `claims.kind == "workflow"`, `workflow("https://kc.corp.example/", claims.x)`),
		rule("user", `claims.kind == "user"`, `username(claims.x, "corp.example")`),
		rule("cluster", `has(claims.x) && claims.sub.startsWith("system:")`, `uri("https://kc.corp.example", dns1123(claims["kubernetes.io"].namespace))`),
		rule("roles", `claims.roles.exists(r, has(r.name) && r.name.matches("^[a-z]+$"))`, `uri("https://kc.corp.example", after(claims.sub, "x"))`),
		rule("spiffe", `true`, `spiffe(claims.sub)`),
	))
	f.Fuzz(func(t *testing.T, text string) {
		var c map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if d.Decode(&c) != nil {
			return
		}
		check(t, p, request(t, realm, text))
	})
}
