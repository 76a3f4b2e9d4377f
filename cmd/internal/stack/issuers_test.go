package stack

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// planned is all that the parts of the service are told about an issuer.
func (s *site) planned(is config.Issuer) string {
	s.t.Helper()
	p := &plan{file: &config.File{Config: config.Config{Issuers: []config.Issuer{is}}}}
	p.planIssuers()
	row, _ := policy.Preset(is.Preset)
	decides := p.policyIssuer("", is, row)
	for i := range p.issuers {
		if p.issuers[i].RootCAs != nil {
			p.blocked = append(p.blocked, "with roots")
			p.issuers[i].RootCAs = nil // a pool has no text
		}
	}
	if p.policy != nil {
		p.runRuleTests()
	}
	text, err := json.Marshal([]any{p.issuers, p.blocked, p.public, decides, p.problems})
	s.must(err)
	return string(text)
}

// A key that nothing reads is a protection that is not there, so each key of an
// issuer must change what some part of the service is told.
func TestEveryKeyOfAnIssuerHasAnEffect(t *testing.T) {
	s := newSite(t)
	roots := s.dir + "/chain.pem"
	keys := s.write("keys.json", []byte(`{"keys":[]}`))
	base := config.Issuer{
		Name: "people", Preset: config.PresetGeneric, URL: "https://kc.corp.example/realms/eng", Audiences: []string{"sigstore"},
		Allow: config.AllowAll, SAN: config.SANEmail,
		MayIssue: config.MayIssue{EmailDomains: []string{"corp.example"}, URIPrefixes: []string{"https://ci.corp.example/"}},
	}
	rule := config.Rule{Name: "one", SAN: `uri("https://ci.corp.example", claims.job)`}
	ruled := base
	ruled.Allow, ruled.SAN, ruled.Rules = "", "", []config.Rule{rule}

	differ(t, s, base, func(is *config.Issuer) any { return is }, map[string]any{
		"Name": "others", "Preset": config.PresetKeycloak, "URL": "https://kc.corp.example/realms/ops",
		"AcceptedIssuers": []string{"https://kc.corp.example/realms/old"}, "Accept": config.AcceptAccessToken,
		"Audiences": []string{"mayfly"}, "ExtraAudiences": []string{"account"}, "AuthorizedParties": []string{"cli"},
		"Algorithms": []string{"ES256"}, "CAFile": roots, "ClientCertificate": roots, "ClientKey": roots, "BearerTokenFile": roots,
		"Proxy": "http://proxy.corp.example:3128", "AllowLoopback": []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		"InsecureHTTP": true, "JWKSHosts": []string{"keys.corp.example"}, "JWKSURL": "https://kc.corp.example/keys", "JWKSFile": keys,
		"BlockedKeys": []string{strings.Repeat("A", 43)}, "AppID": "6731de76-14a6-49ae-97bc-6eba6914391e",
		"ClockSkew": time.Minute, "MaxTokenAge": time.Minute, "MaxTokenLifetime": time.Minute, "MaxCertificatesPerToken": 2,
		"OneTimeTokens": true, "RequiredScopes": []string{"sign"}, "Refresh": time.Minute, "RefreshOnlyOnSchedule": true, "MaxStale": 48 * time.Hour, "EmailVerifiedString": true,
		"TrustedClaims": []string{"email"}, "Allow": "", "SAN": config.SANURI,
		"MayIssue": config.MayIssue{EmailDomains: []string{"eng.corp.example"}}, "Rules": ruled.Rules,
	})
	differ(t, s, ruled, func(is *config.Issuer) any { return &is.MayIssue }, map[string]any{
		"EmailDomains": []string{"eng.corp.example"}, "UsernameDomains": []string{"corp.example"},
		"URIPrefixes": []string{"https://other.corp.example/"},
	})
	differ(t, s, ruled, func(is *config.Issuer) any {
		is.Rules = []config.Rule{rule}
		return &is.Rules[0]
	}, map[string]any{
		"Name": "two", "When": `claims.job == "build"`, "SAN": `uri("https://ci.corp.example", "x", claims.job)`,
		"Extensions": []config.Extension{{Name: "source_repository_ref", Value: "claims.ref"}}, "Profile": "long", "Authority": "eng",
		"Tests": []config.RuleTest{{Token: s.dir + "/none.json", Expect: "refuse"}},
	})
}

// differ changes each field of a part of an issuer by itself. A field that
// values does not name is a new one, and fails.
func differ(t *testing.T, s *site, base config.Issuer, part func(*config.Issuer) any, values map[string]any) {
	t.Helper()
	before := s.planned(base)
	typ := reflect.TypeOf(part(&base)).Elem()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		value, ok := values[name]
		if !ok {
			t.Errorf("%v.%s: this test does not know the key; add a value and see that it has an effect", typ, name)
			continue
		}
		changed := base
		reflect.ValueOf(part(&changed)).Elem().Field(i).Set(reflect.ValueOf(value))
		if s.planned(changed) == before {
			t.Errorf("%v.%s = %v: nothing is told to any part of the service, want an effect", typ, name, value)
		}
	}
}

// AD FS has its second issuer in access tokens and nowhere else. Where ID tokens
// are wanted, taking it would only let access tokens try to pass for one.
func TestSecondIssuerIsTakenForAccessTokensOnly(t *testing.T) {
	const second = "http://adfs.corp.example/adfs/services/trust"
	is := config.Issuer{
		Name: "adfs", Preset: config.PresetADFS, URL: "https://adfs.corp.example/adfs", Audiences: []string{"sigstore"},
		AuthorizedParties: []string{"cli"}, MayIssue: config.MayIssue{EmailDomains: []string{"corp.example"}},
	}
	for _, tc := range []struct {
		accept string
		listed []string
		want   bool
	}{
		{"", nil, false},
		{config.AcceptIDToken, nil, false},
		{config.AcceptAccessToken, nil, true},
		{config.AcceptIDToken, []string{second}, true}, // the administrator's own words
	} {
		is.Accept, is.AcceptedIssuers = tc.accept, tc.listed
		p := &plan{file: &config.File{Config: config.Config{Issuers: []config.Issuer{is}}}}
		p.planIssuers()
		if len(p.problems) > 0 {
			t.Fatal(p.problems)
		}
		if got := len(p.issuers[0].AcceptedIssuers) > 0; got != tc.want {
			t.Errorf("accept %q, accepted_issuers %q: takes %q, want the second issuer: %v", tc.accept, tc.listed, p.issuers[0].AcceptedIssuers, tc.want)
		}
	}
}

// Two entries for one AD FS would each take the tokens of the other.
func TestOneProviderCannotBeTwoEntries(t *testing.T) {
	one := config.Issuer{
		Name: "adfs", Preset: config.PresetADFS, URL: "https://adfs.corp.example/adfs", Audiences: []string{"a"}, Accept: config.AcceptAccessToken,
		AuthorizedParties: []string{"cli"}, MayIssue: config.MayIssue{EmailDomains: []string{"corp.example"}},
	}
	for name, change := range map[string]func(is *config.Issuer){
		"the same":         func(*config.Issuer) {},
		"host in capitals": func(is *config.Issuer) { is.URL = "https://ADFS.corp.example/adfs" },
		"port written out": func(is *config.Issuer) { is.URL = "https://adfs.corp.example:443/adfs" },
		"second issuer as a first": func(is *config.Issuer) {
			is.Preset, is.URL = "generic", "https://x.corp.example"
			is.AcceptedIssuers = []string{"http://adfs.corp.example/adfs/services/trust/"}
		},
		"first issuer as a second": func(is *config.Issuer) {
			is.URL = "https://x.corp.example/adfs"
			is.AcceptedIssuers = []string{one.URL}
		},
	} {
		other := one
		other.Name, other.MayIssue = "other", config.MayIssue{EmailDomains: []string{"other.example"}}
		change(&other)
		if other.Preset == "generic" {
			other.Allow, other.SAN = config.AllowAll, config.SANEmail
		}
		p := &plan{file: &config.File{Config: config.Config{Issuers: []config.Issuer{one, other}}}}
		p.planIssuers()
		if len(p.problems) == 0 {
			t.Errorf("%s: the plan takes %q and %q beside each other", name, one.URL, other.URL)
		}
	}
}
