package policy_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// now is when the tokens of these tests are presented.
var now = time.Unix(1795337736, 0)

// decode reads claims as the token layer does.
func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil {
		t.Fatalf("claims %s: %v", text, err)
	}
	return claims
}

// request makes what a verified token with these claims leads to.
func request(t testing.TB, issuerURL, claims string) ca.Request {
	t.Helper()
	c := decode(t, claims)
	text := func(name string) string { s, _ := c[name].(string); return s }
	verified, _ := c["email_verified"].(bool)
	return ca.Request{Time: now, Source: netip.MustParseAddr("10.1.2.3"), API: "rest-v2", Identity: ca.Identity{
		IssuerName: "idp", Issuer: issuerURL, Subject: text("sub"), Email: text("email"), EmailVerified: verified, Claims: c,
		Token: ca.TokenFacts{Algorithm: "RS256", KeyID: "k1", Audience: []string{"sigstore"}, AuthorizedParty: text("azp")},
	}}
}

const realm = "https://kc.corp.example/realms/eng"

// people is an issuer of everything, with these rules.
func people(rules ...policy.Rule) policy.Issuer {
	return policy.Issuer{
		Name: "idp", EmailDomains: []string{"corp.example"}, UsernameDomains: []string{"corp.example"},
		URIPrefixes: []string{"https://kc.corp.example/", "spiffe://corp.example/"}, Rules: rules,
	}
}

// one is a rule for everybody whose name does not matter.
func one(when string) policy.Rule {
	return policy.Rule{Name: "one", When: when, SAN: `uri("https://kc.corp.example", "x")`}
}

// verdict says in short how a request was decided: the rule, or the reason.
func verdict(t testing.TB, p *policy.Policy, r ca.Request) string {
	t.Helper()
	d, err := p.Decide(t.Context(), r)
	if err == nil {
		return d.Rule + " " + d.SAN.String()
	}
	refusal, ok := errors.AsType[*ca.Refusal](err)
	if !ok {
		t.Fatalf("got the error %v, want a refusal", err)
	}
	return string(refusal.Reason)
}

func TestConditions(t *testing.T) {
	const claims = `{"sub":"u1","acr":"mfa","amr":["pwd","otp"],"auth_time":1795337000,"groups":["/code-signers"],"one":"/code-signers",
		"n":12345678901234567,"huge":123456789012345678901234567890,"nothing":null,"realm_access":{"roles":["signer"]},"flag":true,"none":[],
		"azp":"codesign-cli","roles":[{"name":"a"},{"id":1}],"soon":1795337756,"later":1795337796,"written":"1795337000","https://corp.example/role":"x"}`
	for _, tc := range []struct{ when, want string }{
		{`true`, "one"},
		{`false`, "policy"},
		{`claims.flag`, "one"},
		{`claims.acr == "mfa" && token.azp == "codesign-cli"`, "one"},
		{`claims["https://corp.example/role"] == "x"`, "one"},
		{`"/code-signers" in claims.groups`, "one"},
		{`"/Code-Signers" in claims.groups`, "policy"},
		{`"/code-signers" in list(claims.one)`, "one"},
		{`"signer" in claims.realm_access.roles`, "one"},
		{`list(claims.amr).exists(m, m in ["otp", "hwk"])`, "one"},
		{`list(claims.amr).exists(m, m in ["hwk"])`, "mfa_required"},
		{`claims.n == 12345678901234567`, "one"},
		{`recent(claims.auth_time, now, duration("15m"))`, "one"},
		{`recent(claims.auth_time, now, duration("5m"))`, "auth_too_old"},
		{`recent(claims.soon, now, duration("15m"))`, "one"},
		{`recent(claims.later, now, duration("15m"))`, "policy"},
		{`recent(claims.written, now, duration("15m"))`, "one"},
		{`now - ts(claims.auth_time) < duration("15m")`, "one"},
		{`in_network(request.source, "10.0.0.0/8")`, "one"},
		{`in_network(request.source, "192.168.0.0/16")`, "policy"},
		{`request.api == "rest-v2" && token.alg == "RS256" && "sigstore" in token.aud`, "one"},
		{`issuer.name == "idp" && issuer.url == "` + realm + `" && issuer.origin == "https://kc.corp.example"`, "one"},
		{`issuer.address == "kc.corp.example/realms/eng"`, "one"},
		{`claims.roles.exists(r, has(r.name) && r.name == "a")`, "one"},
		// A list where a string was expected is in no list of strings, and no key.
		{`has(claims.groups) && !(claims.groups in ["/code-signers", "/staff"])`, "one"},
		{`has(claims.groups) && !(claims.groups in {"/code-signers": true})`, "one"},
		{`has(claims.none) && !optional.ofNonZeroValue(claims.none).hasValue()`, "one"},
		{`optional.ofNonZeroValue(claims.groups).hasValue()`, "one"},

		// What is absent is no match, wherever it stands.
		{`claims.missing == "x"`, "policy"},
		{`"x" in claims.missing`, "policy"},
		{`claims.realm_access.missing == "x"`, "policy"},
		{`claims.flag && claims.missing == "x" && claims.flag`, "policy"},
		{`has(claims.missing)`, "policy"},
		{`!has(claims.missing)`, "one"},
		{`has(claims.missing) && claims.missing != "x"`, "policy"},
		{`!has(claims.missing) || claims.missing == "x"`, "one"},
		{`list(claims.?missing) == []`, "one"},
		{`claims.?missing.orValue("x") == "x"`, "one"},
		{`!("x" in list(claims.?missing))`, "one"},
		{`has(claims.acr) ? claims.acr == "mfa" : false`, "one"},
		{`list(claims.?nothing) == [] && text(claims.?nothing) == ""`, "one"},
	} {
		t.Run(tc.when, func(t *testing.T) {
			p := mustNew(t, people(one(tc.when)))
			if got, _, _ := strings.Cut(verdict(t, p, request(t, realm, claims)), " "); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.when, got, tc.want)
			}
		})
	}
}

// A token chooses how long its lists are, and so how long a rule runs. What the
// operators of CEL cost must not hang on whether it knows the claim's type.
func TestCostOfClaimsOfUnknownType(t *testing.T) {
	groups := `["` + strings.Repeat(`a","`, 399) + `a"]`
	deep := "[[[" + groups + "]]]"
	text := `"` + strings.Repeat("a", 4000) + `"`
	for _, tc := range []struct {
		when, claims string
		bounded      bool
	}{
		{`has(claims.a) && claims.b.exists(g, g in claims.a)`, `{"a":` + groups + `,"b":["b","b"]}`, false},
		{`has(claims.a) && claims.b.exists(g, "b" in claims.a)`, `{"a":` + groups + `,"b":` + groups + `}`, true},
		{`has(claims.a) && has(claims.c) && claims.b.exists(g, claims.a == claims.c && g == "b")`, `{"a":` + deep + `,"b":` + groups + `,"c":` + deep + `}`, true},
		{`has(claims.a) && has(claims.c) && claims.b.exists(g, claims.a != claims.c)`, `{"a":` + deep + `,"b":` + groups + `,"c":` + deep + `}`, true},
		{`has(claims.a) && claims.b.map(g, claims.a + claims.a).size() == 0`, `{"a":` + text + `,"b":` + groups + `}`, true},
	} {
		p := mustNew(t, people(one(tc.when)))
		_, err := p.Decide(t.Context(), request(t, realm, tc.claims))
		if got := err != nil && strings.Contains(err.Error(), "cost limit exceeded"); got != tc.bounded {
			t.Errorf("%s: got %v, want the cost exceeded: %v", tc.when, err, tc.bounded)
		}
	}
}

// An error that is not an absent claim must not let the next rule decide.
func TestErrorsRefuse(t *testing.T) {
	everybody := policy.Rule{Name: "everybody", When: "true", SAN: `uri("https://kc.corp.example", "everybody")`}
	claims := `{"sub":"u1","acr":"mfa","groups":[1],"scalar":"x","huge":123456789012345678901234567890,"late":"yesterday",
		"upn":"a_b.example#EXT#@corp.example","bidi":"a\u202eb","nul":"a\u0000b","up":"..","slash":"a/b","empty":"https://kc.corp.example/a//b","mail":"a@b@corp.example",
		"long":"` + strings.Repeat("a", 3000) + `"}`
	for _, tc := range []struct {
		when, san string
		want      ca.Reason
	}{
		{`claims.acr > 3`, "", ca.ReasonPolicy},
		{`claims.scalar.member == "x"`, "", ca.ReasonPolicy},
		{`claims.huge > 5`, "", ca.ReasonPolicy},
		{`"x" in list(claims.groups)`, "", ca.ReasonPolicy},
		{`"x" in claims.acr`, "", ca.ReasonPolicy},
		{`claims.acr`, "", ca.ReasonPolicy},
		{`recent(claims.late, now, duration("15m"))`, "", ca.ReasonPolicy},
		{`claims.missing == "x" && claims.acr > 3`, "", ca.ReasonPolicy},
		{`has(claims.long) && [1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, has(claims.long) && claims.long.contains("a") && claims.long.matches("b?a+$")))`, "", ca.ReasonPolicy},
		{`true`, `email(claims.mail)`, ca.ReasonSANInvalid},
		{`true`, `email(claims.scalar)`, ca.ReasonSANInvalid},
		{`true`, `email(claims.groups)`, ca.ReasonPolicy},
		{`true`, `email(claims.upn)`, ca.ReasonGuest},
		{`true`, `uri("https://kc.corp.example", claims.bidi)`, ca.ReasonSANInvalid},
		{`true`, `uri("https://kc.corp.example", claims.nul)`, ca.ReasonSANInvalid},
		{`true`, `uri("https://kc.corp.example", claims.up)`, ca.ReasonSANInvalid},
		{`true`, `uri(claims.empty)`, ca.ReasonSANInvalid},
		{`true`, `uri("https://kc.corp.example", claims.slash)`, ca.ReasonSANInvalid},
		{`true`, `uri("https://kc.corp.example", claims.groups)`, ca.ReasonPolicy},
		{`true`, `uri("https://kc.corp.example", claims.long)`, ca.ReasonSANInvalid},
		{`true`, `uri("https://other.example", "x")`, ca.ReasonSANNotAllowed},
		{`true`, `email("a@other.example")`, ca.ReasonSANNotAllowed},
		{`true`, `username("a", "other.example")`, ca.ReasonSANNotAllowed},
		{`true`, `spiffe("spiffe://other.example/x")`, ca.ReasonSANNotAllowed},
	} {
		t.Run(tc.when+tc.san, func(t *testing.T) {
			r := one(tc.when)
			if tc.san != "" {
				r.SAN = tc.san
			}
			p := mustNew(t, people(r, everybody))
			if got := verdict(t, p, request(t, realm, claims)); got != string(tc.want) {
				t.Errorf("when %s san %s: got %q, want the reason %q", tc.when, tc.san, got, tc.want)
			}
		})
	}
}

func TestFirstMatchDecides(t *testing.T) {
	named := func(name, when string) policy.Rule {
		return policy.Rule{Name: name, When: when, SAN: `uri("https://kc.corp.example", "` + name + `")`, Profile: "p", Authority: "a"}
	}
	p := mustNew(t, people(named("absent", `claims.x == 1`), named("no", `claims.sub == "x"`), named("first", "true"), named("second", "true")))
	d, err := p.Decide(t.Context(), request(t, realm, `{"sub":"u1"}`))
	if err != nil || d.Rule != "first" || d.Profile != "p" || d.Authority != "a" || d.PolicyDigest != p.Digest() {
		t.Errorf("got %+v, %v; want the rule first with its profile, authority and digest", d, err)
	}
}

func TestNames(t *testing.T) {
	const claims = `{"sub":"https://kc.corp.example/job/feature%252Fx/","u":"CORP\\alice","id":"spiffe://corp.example/ns/a","mail":"Alice+x@Corp.example",
		"odd":"a b@c%d\u00fc","dir":"a/b","wf":"corp/app/.github/workflows/ci.yml@refs/heads/main","gl":"kc.corp.example/g/p//.gitlab-ci.yml@refs/heads/main"}`
	for _, tc := range []struct{ san, want string }{
		{`email(claims.mail)`, "alice+x@corp.example"},
		{`username("alice", "corp.example")`, "alice!corp.example"},
		{`uri(claims.sub)`, "https://kc.corp.example/job/feature%252Fx/"},
		{`uri(claims.id)`, "spiffe://corp.example/ns/a"},
		{`uri(issuer.url, "clients", claims.odd)`, realm + "/clients/a%20b%40c%25d%C3%BC"},
		{`uri(issuer.origin + "/x", path(claims.dir), "c")`, "https://kc.corp.example/x/a/b/c"},
		{`spiffe(claims.id)`, "spiffe://corp.example/ns/a"},
		{`workflow("https://kc.corp.example", claims.wf)`, "https://kc.corp.example/corp/app/.github/workflows/ci.yml@refs/heads/main"},
		{`workflow(issuer.origin, after(claims.gl, "kc.corp.example/"))`, "https://kc.corp.example/g/p//.gitlab-ci.yml@refs/heads/main"},
		{`has(claims.mail) ? email(claims.mail) : uri("https://kc.corp.example", "x")`, "alice+x@corp.example"},
	} {
		p := mustNew(t, people(policy.Rule{Name: "one", When: "true", SAN: tc.san}))
		if got := verdict(t, p, request(t, realm, claims)); got != "one "+tc.want {
			t.Errorf("%s: got %q, want %q", tc.san, got, tc.want)
		}
	}
	for _, wf := range []string{
		"corp/app/ci.yml@refs/heads/x@refs/heads/main", "corp/app/ci.yml", "corp/../ci.yml@refs/heads/main", "corp//a//b@refs/heads/main",
		"/corp/a@refs/heads/main", "corp/a@", "corp/a@refs//main", "corp/a@refs/heads/..", "//a@main", "", "a\\b@main",
	} {
		text, _ := json.Marshal(map[string]string{"wf": wf})
		p := mustNew(t, people(policy.Rule{Name: "one", When: "true", SAN: `workflow("https://kc.corp.example", claims.wf)`}))
		if got := verdict(t, p, request(t, realm, string(text))); got != "san_invalid" {
			t.Errorf("workflow %q: got %q, want san_invalid", wf, got)
		}
	}
	for _, id := range []string{"spiffe://corp.example", "spiffe://corp.example/", "spiffe://corp.example/../x", "spiffe://corp.example/a/",
		"spiffe://corp.example/a%2fb", "https://corp.example/a", "spiffe://corp.example//a", "SPIFFE://corp.example/a", "spiffe://corp.example:1/a"} {
		text, _ := json.Marshal(map[string]string{"id": id})
		p := mustNew(t, people(policy.Rule{Name: "one", When: "true", SAN: `spiffe(claims.id)`}))
		if got := verdict(t, p, request(t, realm, string(text))); got != "san_invalid" {
			t.Errorf("spiffe %q: got %q, want san_invalid", id, got)
		}
	}
}

func TestExtensions(t *testing.T) {
	const claims = `{"sub":"u1","sha":"abc","n":42,"b":true,"nul":"a\u0000","bidi":"a\u202e","o":{},"empty":"","f":1.5}`
	decide := func(value string) (ca.Decision, error) {
		p := mustNew(t, people(policy.Rule{Name: "one", When: "true", SAN: `uri("https://kc.corp.example", "x")`,
			Extensions: []policy.RuleExtension{{Number: 20, Value: `"push"`}, {Number: 13, Value: value}}}))
		return p.Decide(t.Context(), request(t, realm, claims))
	}
	for value, want := range map[string]string{
		`claims.sha`: "abc", `text(claims.n)`: "42", `text(claims.b)`: "true", `text(claims.?missing)`: "", `claims.empty`: "",
		`"refs/heads/" + claims.sha`: "refs/heads/abc", `uri("https://x.example", claims.sha)`: "https://x.example/abc",
		`string(claims.n)`: "42",
	} {
		d, err := decide(value)
		wantAll := []ca.Extension{{Number: 13, Value: want}, {Number: 20, Value: "push"}}
		if want == "" {
			wantAll = wantAll[1:]
		}
		if err != nil || len(d.Extensions) != len(wantAll) || d.Extensions[0] != wantAll[0] {
			t.Errorf("%s: got %v, %v; want %v", value, d.Extensions, err, wantAll)
		}
	}
	for _, value := range []string{`claims.nul`, `claims.bidi`, `claims.n`, `text(claims.f)`, `text(claims.o)`, `claims.missing`, `claims.o`} {
		if d, err := decide(value); err == nil {
			t.Errorf("%s: got %v, want a refusal", value, d.Extensions)
		}
	}
}

func TestGroupsLeftOutRefuse(t *testing.T) {
	reads := one(`"/a" in list(claims.?groups)`)
	everybody := policy.Rule{Name: "everybody", When: "true", SAN: `uri("https://kc.corp.example", "everybody")`}
	for _, tc := range []struct{ claims, want string }{
		{`{"groups":["/a"]}`, "one https://kc.corp.example/x"},
		{`{}`, "everybody https://kc.corp.example/everybody"},
		{`{"_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{"endpoint":"https://graph.windows.net/x"}}}`, "groups_overage"},
		{`{"_claim_names":{"groups":"src1"},"groups":["/a"]}`, "groups_overage"},
		{`{"_claim_names":{"other":"src1"}}`, "everybody https://kc.corp.example/everybody"},
		{`{"_claim_names":"junk"}`, "groups_overage"},
		{`{"hasgroups":true}`, "groups_overage"},
		{`{"hasgroups":"true"}`, "groups_overage"},
		{`{"hasgroups":false}`, "everybody https://kc.corp.example/everybody"},
	} {
		p := mustNew(t, people(reads, everybody))
		if got := verdict(t, p, request(t, realm, tc.claims)); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.claims, got, tc.want)
		}
	}
	// A rule that reads no groups does not care.
	p := mustNew(t, people(everybody))
	if got := verdict(t, p, request(t, realm, `{"hasgroups":true}`)); !strings.HasPrefix(got, "everybody") {
		t.Errorf("a rule without groups: got %q, want everybody", got)
	}
}

// What a loop calls is paid for by its size, or a token could buy much for little.
func TestLoopsPayForWhatTheyCall(t *testing.T) {
	everybody := policy.Rule{Name: "everybody", When: "true", SAN: `uri("https://kc.corp.example", "everybody")`}
	p := mustNew(t, people(one(`list(claims.groups).exists(g, g in list(claims.?groups) && g == "x")`), everybody))
	for n, want := range map[int]string{20: "everybody https://kc.corp.example/everybody", 2000: "policy"} {
		groups := strings.TrimSuffix(strings.Repeat(`"/g",`, n), ",")
		if got := verdict(t, p, request(t, realm, `{"groups":[`+groups+`]}`)); got != want {
			t.Errorf("%d groups: got %q, want %q", n, got, want)
		}
	}
	p = mustNew(t, people(one(`list(claims.groups).exists(g, list(claims.?groups) == [])`), everybody))
	groups := strings.TrimSuffix(strings.Repeat(`"/g",`, 2000), ",")
	if got := verdict(t, p, request(t, realm, `{"groups":[`+groups+`]}`)); got != "policy" {
		t.Errorf("a list in a loop: got %q, want a refusal", got)
	}
}
