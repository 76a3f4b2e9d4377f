package config

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// allowAll is what rules take the place of in the minimal configuration, lines 9
// and 10.
const allowAll = "    allow: all\n    san: email\n"

// ruled is a list of rules in its place; a rule starts in line 10.
func ruled(rules ...string) string {
	return "    rules:\n      - " + strings.Join(rules, "\n      - ") + "\n"
}

const thumbprint = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" // RFC 7638, Section 3.1

func TestLoadRefusesUnsafeProviders(t *testing.T) {
	const name = "name: kc"
	with := func(text string) string { return name + "\n    " + text }
	other := strings.Replace(second("email", "email_domains: [other.example]"), "    allow", "    accepted_issuers: [\"https://KC.corp.example/\"]\n    allow", 1)
	testRefusals(t, []refusal{
		{"unknown preset", name, with("preset: okta"), 7, "issuers[0].preset", "keycloak"},
		{"unknown kind of token", name, with("accept: token"), 7, "issuers[0].accept", "id_token, access_token"},
		{"both kinds of token", name, with("accept: [id_token]"), 7, "issuers[0].accept", "a single value"},
		{"age of nothing", name, with("max_token_age: 0s"), 7, "issuers[0].max_token_age", "from 1m to 24h"},
		{"lifetime of nothing", name, with("max_token_lifetime: 0s"), 7, "issuers[0].max_token_lifetime", "from 1m to 168h"},
		{"no certificates", name, with("max_certificates_per_token: 0"), 7, "issuers[0].max_certificates_per_token", "from 1 to 1000"},
		{"any number of certificates", name, with("max_certificates_per_token: 1001"), 7, "issuers[0].max_certificates_per_token", "from 1 to 1000"},
		{"two certificates of one-time tokens", name, with("max_certificates_per_token: 2\n    one_time_tokens: true"), 7, "issuers[0].max_certificates_per_token", "one_time_tokens"},
		{"own URL accepted twice", name, with(`accepted_issuers: ["https://kc.corp.example/"]`), 7, "issuers[0].accepted_issuers[0]", "line 6 has this URL"},
		{"accepted issuer twice", name, with(`accepted_issuers: ["https://a.example", "https://a.example/"]`), 7, "issuers[0].accepted_issuers[1]", "line 6 has this URL"},
		{"accepted issuer of another", "chains:\n", other, 16, "issuers[1].accepted_issuers[0]", "line 6 has this URL"},
		{"accepted issuer with a query", name, with(`accepted_issuers: ["http://a.example/?x"]`), 7, "issuers[0].accepted_issuers[0]", "query or fragment"},
		{"accepted issuer of no scheme", name, with("accepted_issuers: [kubernetes/serviceaccount]"), 7, "issuers[0].accepted_issuers[0]", "absolute URL"},
		{"keys over http", name, with("jwks_url: http://kc.corp.example/keys"), 7, "issuers[0].jwks_url", "use https"},
		{"keys over http elsewhere", "url: https://kc.corp.example", "url: http://localhost\n    insecure_http: true\n    jwks_url: http://kc.corp.example/keys", 9, "issuers[0].jwks_url", "loopback host only"},
		{"keys at a fragment", name, with("jwks_url: https://kc.corp.example/keys?a#b"), 7, "issuers[0].jwks_url", "fragment"},
		{"keys in a file and at a URL", name, with("jwks_file: keys.json\n    jwks_url: https://kc.corp.example/keys"), 8, "issuers[0].jwks_url", "nothing is fetched"},
		{"keys in a file refreshed", name, with("jwks_file: keys.json\n    refresh: 10m"), 8, "issuers[0].refresh", "nothing is fetched"},
		{"keys in a file through a proxy", name, with("jwks_file: keys.json\n    proxy: http://proxy:3128"), 8, "issuers[0].proxy", "nothing is fetched"},
		{"application by name", name, with("app_id: my-app"), 7, "issuers[0].app_id", "in lower case"},
		{"application without discovery", name, with("app_id: 6731de76-14a6-49ae-97bc-6eba6914391e\n    jwks_url: https://kc.corp.example/keys"), 7, "issuers[0].app_id", "?appid="},
		{"client certificate without a key", name, with("client_certificate: c.pem"), 6, "issuers[0].client_key", "wanted with client_certificate"},
		{"client key without a certificate", name, with("client_key: c.key"), 6, "issuers[0].client_certificate", "wanted with client_key"},
		{"proxy with a password", name, with("proxy: http://u:p@proxy:3128"), 7, "issuers[0].proxy", "user name or password"},
		{"proxy with a path", name, with("proxy: http://proxy:3128/x"), 7, "issuers[0].proxy", "has no path"},
		{"proxy of another kind", name, with("proxy: socks5://proxy:1080"), 7, "issuers[0].proxy", "http:// or https://"},
		{"private address as loopback", name, with("allow_loopback: [10.0.0.1]"), 7, "issuers[0].allow_loopback[0]", "need no leave"},
		{"everything as loopback", name, with("allow_loopback: [0.0.0.0/0]"), 7, "issuers[0].allow_loopback[0]", "need no leave"},
		{"half of everything as loopback", name, with("allow_loopback: [64.0.0.0/2]"), 7, "issuers[0].allow_loopback[0]", "need no leave"},
		{"network around loopback", name, with("allow_loopback: [126.0.0.0/7]"), 7, "issuers[0].allow_loopback[0]", "need no leave"},
		{"IPv6 network around loopback", name, with("allow_loopback: [\"::/64\"]"), 7, "issuers[0].allow_loopback[0]", "need no leave"},
		{"padded thumbprint", name, with("blocked_keys: [" + thumbprint + "=]"), 7, "issuers[0].blocked_keys[0]", "43 characters"},
		{"thumbprint in hex", name, with("blocked_keys: [" + strings.Repeat("ab", 32) + "]"), 7, "issuers[0].blocked_keys[0]", "43 characters"},
		{"thumbprint of another spelling", name, with("blocked_keys: [" + thumbprint[:42] + "t]"), 7, "issuers[0].blocked_keys[0]", "43 characters"},
		{"same thumbprint", name, with("blocked_keys: [" + thumbprint + ", " + thumbprint + "]"), 7, "issuers[0].blocked_keys[1]", "given before"},
		{"trusted claim of a short form", name, with("trusted_claims: [email]"), 7, "issuers[0].trusted_claims", "write rules instead"},
		{"scopes of ID tokens", name, with("required_scopes: [sign]"), 7, "issuers[0].required_scopes", "accept: access_token"},
		{"two scopes in one", name, with("accept: access_token\n    required_scopes: [sign mail]"), 8, "issuers[0].required_scopes[0]", "each by itself"},
		{"scope twice", name, with("accept: access_token\n    required_scopes: [sign, sign]"), 8, "issuers[0].required_scopes[1]", "given before"},
		{"scope of nothing", name, with("accept: access_token\n    required_scopes: [\"\"]"), 8, "issuers[0].required_scopes[0]", "empty"},
		{"keys in a file on schedule", name, with("jwks_file: keys.json\n    refresh_only_on_schedule: true"), 8, "issuers[0].refresh_only_on_schedule", "nothing is fetched"},
		{"user name domain in capitals", "email_domains: [corp.example]", "email_domains: [corp.example]\n      username_domains: [Corp.example]", 13, "issuers[0].may_issue.username_domains[0]", "in lower case"},
		{"user name domain with a wildcard", "email_domains: [corp.example]", "email_domains: [corp.example]\n      username_domains: [\"*.corp.example\"]", 13, "issuers[0].may_issue.username_domains[0]", "in lower case"},
	})
}

func TestLoadRefusesUserNamesOfTwoIssuers(t *testing.T) {
	text := strings.Replace(minimal, "email_domains: [corp.example]", "email_domains: [corp.example]\n      username_domains: [a.example, users.example]", 1)
	for other, overlap := range map[string]bool{"users.example": true, "b.example": false, "x.users.example": false} {
		both := strings.Replace(text, "chains:\n", second("email", "email_domains: [other.example], username_domains: ["+other+"]"), 1)
		testOverlap(t, other, both, "issuers[1].may_issue.username_domains[0]", 19, overlap)
	}
}

func TestLoadRefusesUnsafeRules(t *testing.T) {
	const san = "san: email(claims.email)"
	rule := func(rest string) string { return ruled("name: a\n        " + san + "\n        " + rest) }
	extension := func(text string) string { return rule("extensions: [" + text + "]") }
	test := func(text string) string { return rule("tests: [{" + text + "}]") }
	const at = ", at: 2026-11-22T09:00:00Z"
	testRefusals(t, []refusal{
		{"rules and allow", "    san: email\n", ruled("{name: a, san: x}"), 9, "issuers[0].allow", "exclude each other"},
		{"rules and a name beside them", "    allow: all\n", ruled("{name: a, san: x}"), 11, "issuers[0].san", "its own san"},
		{"trusted claim twice", allowAll, "    trusted_claims: [email, email]\n" + ruled("{name: a, san: x}"), 9, "issuers[0].trusted_claims[1]", "given before"},
		{"no rules", allowAll, "    rules: []\n", 9, "issuers[0].rules", "lets nobody in"},
		{"allow without a name", "    san: email\n", "    preset: keycloak\n", 6, "issuers[0].san", "required with allow"},
		{"name without allow", "    allow: all\n", "    preset: keycloak\n", 6, "issuers[0].allow", "required without rules"},
		{"generic preset alone", allowAll, "    preset: generic\n", 6, "issuers[0].allow", "required without rules"},
		{"rule without a name", allowAll, ruled("san: x"), 10, "issuers[0].rules[0].name", "required"},
		{"rule with a bad name", allowAll, ruled("{name: A b, san: x}"), 10, "issuers[0].rules[0].name", "lower-case"},
		{"rules of one name", allowAll, ruled("{name: a, san: x}", "{name: a, san: x}"), 11, "issuers[0].rules[1].name", "line 10"},
		{"rule without what to certify", allowAll, ruled("name: a"), 10, "issuers[0].rules[0].san", "required"},
		{"unknown key of a rule", allowAll, rule("require: x"), 12, "issuers[0].rules[0].require", "unknown key"},
		{"unknown profile", allowAll, rule("profile: pipeline"), 12, "issuers[0].rules[0].profile", `no profile "pipeline"`},
		{"unknown authority", allowAll, rule("authority: tenant"), 12, "issuers[0].rules[0].authority", `authority "tenant"`},
		{"expression that is a number", allowAll, ruled("{name: a, san: 7}"), 10, "issuers[0].rules[0].san", "put it in quotes"},
		{"condition that is a boolean", allowAll, rule("when: true"), 12, "issuers[0].rules[0].when", "put it in quotes"},
		{"empty condition", allowAll, rule(`when: ""`), 12, "issuers[0].rules[0].when", "remove the key"},
		{"condition of spaces", allowAll, rule(`when: " "`), 12, "issuers[0].rules[0].when", "remove the key"},
		{"condition with a tab", allowAll, rule(`when: "a\tb"`), 12, "issuers[0].rules[0].when", "invisible"},
		{"condition with a bidi override", allowAll, rule("when: \"a\u202eb\""), 12, "issuers[0].rules[0].when", "invisible"},
		{"condition without an end", allowAll, rule("when: " + strings.Repeat("a", 5000)), 12, "issuers[0].rules[0].when", "shorten it"},
		{"comment that hides a condition", allowAll, rule("when: >-\n          claims.a == 1\n          // and also\n          && claims.b == 2"), 12, "issuers[0].rules[0].when", "hide the conditions"},
		{"extension without a name", allowAll, extension("{value: x}"), 12, "issuers[0].rules[0].extensions[0].name", "required"},
		{"extension in Fulcio's spelling", allowAll, extension("{name: source-repository-uri, value: x}"), 12, "issuers[0].rules[0].extensions[0].name", "did you mean source_repository_uri?"},
		{"extension by number", allowAll, extension("{name: \"9\", value: x}"), 12, "issuers[0].rules[0].extensions[0].name", "use one of github_workflow_trigger"},
		{"extension that says the issuer", allowAll, extension("{name: issuer, value: x}"), 12, "issuers[0].rules[0].extensions[0].name", "not known"},
		{"same extension", allowAll, extension("{name: build_trigger, value: x}, {name: build_trigger, value: y}"), 12, "issuers[0].rules[0].extensions[1].name", "before"},
		{"extension without a value", allowAll, extension("{name: build_trigger}"), 12, "issuers[0].rules[0].extensions[0].value", "required"},
		{"test without a token", allowAll, test("expect: refuse" + at), 12, "issuers[0].rules[0].tests[0].token", "required"},
		{"test without a time", allowAll, test("token: t, expect: refuse"), 12, "issuers[0].rules[0].tests[0].at", "required"},
		{"test without an outcome", allowAll, test("token: t" + at), 12, "issuers[0].rules[0].tests[0].expect", "required"},
		{"test of an unknown kind", allowAll, test("token: t, expect: \"dns:a\"" + at), 12, "issuers[0].rules[0].tests[0].expect", "neither a name"},
		{"test of a bare name", allowAll, test("token: t, expect: alice@corp.example" + at), 12, "issuers[0].rules[0].tests[0].expect", "neither a name"},
		{"test of no name", allowAll, test("token: t, expect: \"email:\"" + at), 12, "issuers[0].rules[0].tests[0].expect", "neither a name"},
		{"test of no reason", allowAll, test("token: t, expect: \"refuse:\"" + at), 12, "issuers[0].rules[0].tests[0].expect", "not a reason"},
		{"test of a sentence", allowAll, test("token: t, expect: \"refuse: no MFA\"" + at), 12, "issuers[0].rules[0].tests[0].expect", "not a reason"},
		{"no names", allowAll + "    may_issue:\n      email_domains: [corp.example]\n", ruled("{name: a, san: x}"), 6, "issuers[0].may_issue", "required; list the email_domains"},
	})
}

func TestLoadBoundsRules(t *testing.T) {
	rules := make([]string, maxRules+1)
	for i := range rules {
		rules[i] = fmt.Sprintf("{name: r%d, san: x}", i)
	}
	text := strings.Replace(minimal, allowAll, ruled(rules...), 1)
	if ps := problems(t, text); len(ps) != 1 || ps[0].Path != "issuers[0].rules" || ps[0].Line != 9 {
		t.Errorf("%d rules: got problems\n%v\nwant one at line 9: issuers[0].rules", len(rules), ps)
	}
	mustLoad(t, write(t, strings.Replace(minimal, allowAll, ruled(rules[1:]...), 1)), nil)

	tests := strings.Repeat("{token: t, at: 2026-11-22T09:00:00Z, expect: refuse}, ", maxRuleTests+1)
	text = strings.Replace(minimal, allowAll, ruled("{name: a, san: x, tests: ["+tests+"]}"), 1)
	if ps := problems(t, text); len(ps) != 1 || ps[0].Path != "issuers[0].rules[0].tests" || ps[0].Line != 10 {
		t.Errorf("%d tests: got problems\n%v\nwant one at line 10: issuers[0].rules[0].tests", maxRuleTests+1, ps)
	}
}

func TestLoadReadsRules(t *testing.T) {
	path := write(t, strings.Replace(minimal, allowAll, `    preset: keycloak
    accept: access_token
    jwks_url: https://kc.corp.example/keys?appid=1
    allow_loopback: [127.0.0.1, "::1", 127.0.0.0/8]
    blocked_keys: [`+thumbprint+`]
    rules:
      - name: developers
        when: |
          "/code-signers" in claims.groups
            && claims.acr == "mfa"
        san: 'uri("https://ci.corp.example", r"\", claims.azp)'
        extensions:
          - {name: source_repository_uri, value: '"https://git.corp.example/" + claims.project'}
        tests:
          - {token: alice.json, at: 2026-11-22T09:00:00Z, expect: "email:alice@corp.example"}
          - {token: /bob.json, at: 2026-11-22T09:00:00Z, expect: refuse}
          - {token: /bob.json, at: 2026-11-22T09:00:00Z, expect: "refuse:groups_overage"}
      - name: everyone
`, 1))
	is := mustLoad(t, path, nil).Issuers[0]
	dir := strings.TrimSuffix(path, "/mayfly.yaml")
	want := []Rule{{
		Name: "developers", When: "\"/code-signers\" in claims.groups\n  && claims.acr == \"mfa\"",
		SAN:        `uri("https://ci.corp.example", r"\", claims.azp)`,
		Extensions: []Extension{{"source_repository_uri", `"https://git.corp.example/" + claims.project`}},
		Profile:    "default", Authority: "default",
		Tests: []RuleTest{{dir + "/alice.json", now, "email:alice@corp.example"}, {"/bob.json", now, "refuse"}, {"/bob.json", now, "refuse:groups_overage"}},
	}, {Name: "everyone", Profile: "default", Authority: "default"}}
	if diff := cmp.Diff(want, is.Rules); diff != "" {
		t.Errorf("rules differ (-want +got):\n%s", diff)
	}
	var refs []string
	for _, r := range References(mustLoad(t, path, nil).Config) {
		refs = append(refs, r.KeyPath)
	}
	if !slices.Contains(refs, "issuers[0].rules[0].tests[1].token") {
		t.Errorf("got references %q, want the token files of tests among them", refs)
	}
}

// A preset must be able to tell what the file leaves to it.
func TestWhatAPresetMaySayIsZeroUntilTheFileSaysIt(t *testing.T) {
	is := mustLoad(t, write(t, strings.Replace(minimal, allowAll, "    preset: gitlab\n", 1)), nil).Issuers[0]
	if is.Preset != PresetGitLab || is.Accept != "" || is.Algorithms != nil || is.ExtraAudiences != nil ||
		is.MaxTokenAge != 0 || is.MaxTokenLifetime != 0 || is.Rules != nil || is.Allow != "" || is.SAN != "" {
		t.Errorf("got %+v, want nothing of what a preset may say", is)
	}
	if got := mustLoad(t, write(t, minimal), nil).Issuers[0].Preset; got != PresetGeneric {
		t.Errorf("no preset: got %q, want %q", got, PresetGeneric)
	}
}

func TestHasComment(t *testing.T) {
	for text, want := range map[string]bool{
		`a // b`:                          true,
		`//`:                              true,
		`a / b`:                           false,
		`"https://a"`:                     false,
		`'https://a'`:                     false,
		`"""a " // b"""`:                  false,
		`'''a ' // b'''`:                  false,
		`"a\" // b"`:                      false,
		`r"a\" // b`:                      true, // the backslash is the last character of the string
		`R'a\' // b`:                      true,
		`br"a\" // b`:                     true,
		`for"a\" // b"`:                   false, // a name that ends in r
		`"a" // "b"`:                      true,
		`uri("https://a", "b") // c`:      true,
		`uri("https://a", 'b//') == "//"`: false,
		`"unfinished // `:                 false, // the compiler refuses it
		"a\n// b\n&& c":                   true,
	} {
		if got := hasComment(text); got != want {
			t.Errorf("hasComment(%s): got %v, want %v", text, got, want)
		}
	}
}

func TestExtensionNumbersAreThoseOfFulcio(t *testing.T) {
	names := ExtensionNames()
	seen := make(map[int]bool)
	for _, name := range names {
		n, ok := ExtensionNumber(name)
		if !ok || seen[n] || n < 2 || n > 23 || n == 7 || n == 8 {
			t.Errorf("ExtensionNumber(%q): got %d, %v, want a number of its own from 2 to 6 or 9 to 23", name, n, ok)
		}
		seen[n] = true
	}
	for name, want := range map[string]int{"build_signer_uri": 9, "source_repository_ref": 14, "run_invocation_uri": 21, "deployment_environment": 23} {
		if got, _ := ExtensionNumber(name); got != want {
			t.Errorf("ExtensionNumber(%q): got %d, want %d", name, got, want)
		}
	}
	for _, name := range []string{"", "issuer", "Build_Signer_URI"} {
		if n, ok := ExtensionNumber(name); ok {
			t.Errorf("ExtensionNumber(%q): got %d, want none", name, n)
		}
	}
}

// The files that the rules of the example are tested with must be there, and what
// they hold must be claims; the rules themselves are tested by config check.
func TestKeycloakExampleLoads(t *testing.T) {
	f := mustLoad(t, "../deploy/examples/keycloak/mayfly.yaml", nil)
	tests := 0
	for _, r := range f.Issuers[0].Rules {
		for _, rt := range r.Tests {
			tests++
			text, err := os.ReadFile(rt.Token)
			if err != nil {
				t.Errorf("rule %s: %v", r.Name, err)
				continue
			}
			var claims map[string]any
			if err := json.Unmarshal(text, &claims); err != nil || claims["iss"] != f.Issuers[0].URL {
				t.Errorf("%s: got error %v, iss %v, want claims of %s", rt.Token, err, claims["iss"], f.Issuers[0].URL)
			}
		}
	}
	if tests < 5 {
		t.Errorf("got %d tests of rules, want an example of more", tests)
	}
}

func TestManualListsExtensions(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range ExtensionNames() {
		n, _ := ExtensionNumber(name)
		row := fmt.Sprintf("| `%s` | %d | `%s` |\n", name, n, strings.ReplaceAll(name, "_", "-"))
		if !strings.Contains(string(text), row) {
			t.Errorf("%s: got no row %q, want one", manual, row)
		}
	}
}
