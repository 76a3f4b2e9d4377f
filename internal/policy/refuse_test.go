package policy_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// strict is what an enterprise asks of its people and its pipelines.
func strict() policy.Issuer {
	i := people(
		policy.Rule{
			Name: "people", SAN: `email(claims.email)`,
			When: `claims.email_verified == true && "/code-signers" in list(claims.groups) && ` +
				`(claims.?acr.orValue("") in ["mfa"] || list(claims.?amr).exists(m, m in ["otp", "hwk", "mfa"])) && ` +
				`recent(claims.auth_time, now, duration("15m")) && token.azp == "codesign-cli"`,
		},
		policy.Rule{
			Name: "pipelines", SAN: `uri("https://kc.corp.example/ci", claims.client_id)`,
			When: `claims.client_id == token.azp && token.azp in ["ci-builder"] && !has(claims.auth_time)`,
		},
	)
	return i
}

// Tokens that a policy must refuse, each for one reason, next to tokens that
// differ from them in nothing else and are accepted.
func TestStrictRules(t *testing.T) {
	const alice, robot = "people alice.dev@corp.example", "pipelines https://kc.corp.example/ci/ci-builder"
	amr := func(v any) claims { return claims{"acr": nil, "amr": v} }
	for _, tc := range []struct {
		name   string
		of     claims
		change claims
		want   string
	}{
		{"a person", keycloakUser, nil, alice},
		{"one factor of several lists", keycloakUser, amr([]string{"pwd", "hwk"}), alice},
		{"one factor as text", keycloakUser, amr("otp"), alice},
		{"a group as text", keycloakUser, claims{"groups": "/code-signers"}, alice},
		{"plus address", keycloakUser, claims{"email": "Alice+Work@corp.example"}, "people alice+work@corp.example"},
		{"longest local part", keycloakUser, claims{"email": fmt.Sprintf("%064d@corp.example", 1)}, fmt.Sprintf("people %064d@corp.example", 1)},
		{"clock of the provider 20 s ahead", keycloakUser, claims{"auth_time": now.Unix() + 20}, alice},
		{"a pipeline", keycloakClient, nil, robot},

		{"unverified", keycloakUser, claims{"email_verified": false}, "policy"},
		{"verified missing", keycloakUser, claims{"email_verified": nil}, "policy"},
		{"verified maybe", keycloakUser, claims{"email_verified": "maybe"}, "policy"},
		{"verified zero", keycloakUser, claims{"email_verified": 0}, "policy"},
		{"verified under another name", keycloakUser, claims{"email_verified": nil, "email-verified": true, "Email_Verified": true}, "policy"},
		{"no address", keycloakUser, claims{"email": nil}, "policy"},
		{"empty address", keycloakUser, claims{"email": ""}, "san_invalid"},
		{"several addresses", keycloakUser, claims{"email": []string{"a@corp.example"}}, "policy"},
		{"guest", keycloakUser, claims{"email": "bob_partner.example#EXT#@corp.example"}, "guest"},

		{"no groups", keycloakUser, claims{"groups": nil}, "policy"},
		{"no group", keycloakUser, claims{"groups": []string{}}, "policy"},
		{"group in another case", keycloakUser, claims{"groups": []string{"/Code-Signers"}}, "policy"},
		{"bare group name", keycloakUser, claims{"groups": []string{"code-signers"}}, "policy"},
		{"group inside another", keycloakUser, claims{"groups": []string{"/outer/code-signers"}}, "policy"},
		{"group with a space", keycloakUser, claims{"groups": []string{"/code-signers "}}, "policy"},
		{"group with a zero-width space", keycloakUser, claims{"groups": []string{"/code\u200b-signers"}}, "policy"},
		{"groups in one text", keycloakUser, claims{"groups": "/staff,/code-signers"}, "policy"},
		{"groups as object", keycloakUser, claims{"groups": map[string]any{"/code-signers": true}}, "policy"},
		{"groups left out", keycloakUser, claims{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}}, "groups_overage"},
		{"groups hidden", keycloakUser, claims{"groups": nil, "hasgroups": true}, "groups_overage"},

		{"acr 0", keycloakUser, claims{"acr": "0", "amr": nil}, "mfa_required"},
		{"acr 1", keycloakUser, claims{"acr": "1", "amr": nil}, "mfa_required"},
		{"acr as number", keycloakUser, claims{"acr": 2, "amr": nil}, "mfa_required"},
		{"no evidence", keycloakUser, claims{"acr": nil, "amr": nil}, "mfa_required"},
		{"password only", keycloakUser, amr([]string{"pwd"}), "mfa_required"},
		{"no methods", keycloakUser, amr([]string{}), "mfa_required"},
		{"look-alike method", keycloakUser, amr([]string{"mfaX"}), "mfa_required"},

		{"no auth_time", keycloakUser, claims{"auth_time": nil}, "auth_too_old"},
		{"auth_time 16 minutes ago", keycloakUser, claims{"auth_time": now.Unix() - 16*60}, "auth_too_old"},
		{"auth_time ahead", keycloakUser, claims{"auth_time": now.Unix() + 60}, "auth_too_old"},
		{"auth_time junk", keycloakUser, claims{"auth_time": "yesterday"}, "policy"},
		{"auth_time negative", keycloakUser, claims{"auth_time": -1}, "policy"},
		{"auth_time huge", keycloakUser, claims{"auth_time": 1e300}, "policy"},

		{"other client", keycloakUser, claims{"azp": "account-console"}, "policy"},
		{"pipeline as a person", keycloakClient, claims{"email": "alice@corp.example", "email_verified": true, "groups": []string{"/code-signers"}}, robot},
		{"person as a pipeline", keycloakUser, claims{"preferred_username": "service-account-ci-builder", "groups": nil}, "policy"},
		{"person with a client's id", keycloakUser, claims{"client_id": "ci-builder", "groups": nil}, "policy"},
		{"pipeline of another client", keycloakClient, claims{"client_id": "other", "azp": "other"}, "policy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := verdict(t, mustNew(t, strict()), tokenOf(t, realm, tc.of.with(tc.change))); got != tc.want {
				t.Errorf("%v with %v: got %q, want %q", tc.of, tc.change, got, tc.want)
			}
		})
	}
}

// A hostile administrator of a realm may write any claim but those that the
// token layer compares. Whatever it is, the name is one that the issuer may
// give.
func TestHostileClaims(t *testing.T) {
	values := []any{
		"root@evil.example", "root@evilcorp.example", "root@corp.example.evil.example", "root@corp.example,root@evil.example",
		"root@corp.example\x00.evil.example", "root@evil.example\n@corp.example", "<root@evil.example>@corp.example", "root@CORP.EXAMPLE.",
		"\"root@evil.example\"@corp.example", "root@\u0441orp.example", "root@corp\u3002example", "root@corp.example ", "@corp.example", "root@",
		"root@sub.corp.example", "root@[127.0.0.1]", "root%40evil.example", "root!corp.example", "root#EXT#@corp.example", "ro\u200bot@corp.example",
		"\u202etoor@corp.example", "root@corp.example#@evil.example", "a b@corp.example", "../../evil", "..", ".", "", "/", "//evil.example/x",
		"x/../../evil", "%2e%2e", "..%2f..%2fevil", "x?y=z", "x#y", "x\\..\\y", "https://evil.example/", "spiffe://evil.example/x",
		"spiffe://corp.example/../x", "spiffe://corp.example@evil.example/x", "https://kc.corp.example@evil.example/", "javascript:alert(1)",
		"https://kc.corp.example.evil.example/", "https://kc.corp.example/../x", "https:\\\\evil.example", "a/b@refs/heads/x@refs/heads/main",
		"a/b@refs/heads/../../x", "a//b//c@x", "kc.corp.example/a//b@refs/heads/main", "system:serviceaccount:a/../b:c", "{{.sub}}", "${sub}",
		nil, true, false, 0, -1, 1.5, 1e300, []any{}, []any{"root@corp.example"}, map[string]any{}, map[string]any{"namespace": "a/../b"},
	}
	names := []string{"email", "client_id", "azp", "upn", "sub", "groups", "x", "y", "kind", "url", "id", "kubernetes.io", "auth_time", "acr"}
	p := mustNew(t, people(
		policy.Rule{Name: "mail", When: `claims.email_verified == true`, SAN: `email(claims.email)`},
		policy.Rule{Name: "client", When: `has(claims.client_id)`, SAN: `uri(issuer.url, "clients", claims.client_id)`},
		policy.Rule{Name: "upn", When: `has(claims.upn)`, SAN: `email(claims.upn)`},
		policy.Rule{Name: "user", When: `has(claims.x)`, SAN: `username(claims.x, "corp.example")`},
		policy.Rule{Name: "whole", When: `has(claims.url)`, SAN: `uri(claims.url)`},
		policy.Rule{Name: "workload", When: `has(claims.id)`, SAN: `spiffe(claims.id)`},
		policy.Rule{Name: "path", When: `has(claims.y)`, SAN: `uri("https://kc.corp.example", path(claims.y))`},
		policy.Rule{Name: "pipeline", When: `true`, SAN: `workflow(issuer.origin, claims.sub)`},
	))
	for _, name := range names {
		for _, v := range values {
			for _, base := range []claims{keycloakUser, keycloakClient, {"sub": "u1"}} {
				c := base.with(nil)
				c[name] = v
				r := tokenOf(t, realm, c)
				d, err := p.Decide(t.Context(), r)
				if _, refused := errors.AsType[*ca.Refusal](err); !refused && !within(d.SAN) {
					t.Errorf("%s %q: got the name %s %q and the error %v", name, v, d.SAN.Kind(), d.SAN, err)
				}
			}
		}
	}
}
