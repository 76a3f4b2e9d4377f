package oidc

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// vector is a token as a provider documents it: claims beside iss and aud, iat
// and exp, which the test adds.
type vector struct {
	name           string
	header, claims object
	change         func(*Issuer)
}

const guid = "aaaabbbb-0000-cccc-1111-dddd2222eeee"

// idTokenVectors are the shapes of tokens of people and workloads. They are
// built from documentation, not recorded.
func idTokenVectors() []vector {
	typed := object{"alg": "RS256", "kid": "rsa", "typ": "JWT"}
	at := noon.Unix()
	return []vector{
		{"Keycloak user", typed, object{
			"jti": "onrtac:1", "sub": "3f0c7e0e-5b5f-4a0c-9b1b-1b5f4a0c9b1b", "typ": "ID", "azp": "mayfly", "nonce": "n", "sid": "s",
			"at_hash": "h", "acr": "mfa", "amr": []string{"pwd", "otp"}, "auth_time": at - 90, "email_verified": true, "name": "Alice Dev",
			"preferred_username": "alice", "email": "alice.dev@corp.example", "groups": []string{"/code-signers"},
			"resource_access": object{"a": object{"roles": []string{"x"}}, "b": object{"roles": []string{}}},
		}, nil},
		{"Keycloak service account", typed, object{
			"sub": guid, "typ": "ID", "azp": "mayfly", "client_id": "mayfly", "clientHost": "10.0.0.7", "clientAddress": "10.0.0.7",
			"preferred_username": "service-account-mayfly", "email_verified": false,
		}, nil},
		{"AD FS", typed.with("x5t", "rsa"), object{
			"sub": "k4Cw/Uu5m3gVg+T4l7c=", "upn": "alice@corp.example", "unique_name": `CORP\alice`, "auth_time": at - 10,
			"pwd_exp": "1209600", "sid": "S-1-5-21-1-2-3-1105", "groups": "Signers", "appid": "mayfly", "ver": "1.0",
		}, nil},
		{"Entra v2", typed, object{
			"ver": "2.0", "tid": guid, "oid": guid, "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "uti": "u", "rh": "0.AAA.",
			"preferred_username": "alice@corp.example", "name": "Alice", "nonce": "n", "aio": "x", "acct": 0, "xms_edov": "1",
			"groups": []string{guid}, "roles": []string{"Signer"},
		}, nil},
		{"Entra v1", typed.with("x5t", "rsa"), object{
			"ver": "1.0", "tid": guid, "oid": guid, "sub": "pairwise", "unique_name": "alice@corp.example", "upn": "alice@corp.example",
			"amr": []string{"pwd", "mfa"}, "ipaddr": "203.0.113.7", "uti": "u", "hasgroups": true,
		}, nil},
		{"GitLab job", typed, object{
			"jti": guid, "nbf": at - 65, "sub": "project_path:eng/app:ref_type:branch:ref:main", "namespace_id": "7", "project_id": "42",
			"project_path": "eng/app", "user_email": "alice@corp.example", "ref": "main", "ref_protected": "true", "runner_id": json.Number("9007199254740993"),
			"runner_environment": "self-hosted", "sha": strings.Repeat("a", 40), "ci_config_ref_uri": nil, "user_identities": []object{{"provider": "x"}},
		}, nil},
		{"GitHub Enterprise", typed.with("x5t", "t"), object{
			"jti": guid, "sub": "repo:o/r:environment:a:b", "repository": "o/r", "repository_id": "1", "job_workflow_ref": "o/r/.github/workflows/x.yml@refs/heads/main",
			"run_attempt": "1", "nbf": at - 5, "enterprise": "corp",
		}, nil},
		{"Jenkins, without jti", object{"alg": "RS256", "kid": "rsa"}, object{
			"sub": "https://ci.corp.example/job/feature%252Fx/", "build_number": 17,
		}, nil},
		{"Kubernetes", object{"alg": "RS256", "kid": "rsa"}, object{
			"jti": guid, "nbf": at - 60, "sub": "system:serviceaccount:build:tekton",
			"kubernetes.io": object{"namespace": "build", "serviceaccount": object{"name": "tekton", "uid": guid}, "pod": object{"name": "p", "uid": guid}, "node": nil},
		}, nil},
		{"Buildkite", typed, object{
			"nbf": at - 60, "sub": "organization:o:pipeline:p:ref:refs/heads/main:commit:HEAD:step:", "organization_slug": "o",
			"build_number": 1, "step_key": nil, "build_tag": nil,
		}, nil},
		{"SPIRE", object{"alg": "ES256", "kid": "ec", "typ": "JWT"}, object{"sub": "spiffe://corp.example/ns/build/sa/tekton"}, nil},
		{"Bitbucket", typed, object{"sub": "{uuid}:{step}", "workspaceUuid": "{b2c3}", "pipelineUuid": "{d4}"}, nil},
		{"Cognito", typed, object{
			"sub": guid, "token_use": "id", "email": "a+tag@xn--crp-sna.example", "email_verified": "true", "cognito:groups": []string{"g"},
		}, func(is *Issuer) { is.EmailVerifiedString = true }},
		{"one-value amr and groups", typed, object{"sub": "a", "amr": "mfa", "groups": "/code-signers"}, nil},
		{"e-mail of odd form", typed, object{"sub": "a", "email": strings.Repeat("x", 64) + "@Corp.Example", "email_verified": true}, nil},
	}
}

func (tt vector) sign(t *testing.T, p *provider, aud any) string {
	t.Helper()
	claims := tt.claims.with("iss", p.srv.URL).with("aud", aud).with("iat", noon.Add(-time.Minute).Unix()).
		with("exp", noon.Add(5*time.Minute).Unix())
	s := rs256()
	if tt.header["alg"] == "ES256" {
		s = signer{"ES256", p256Key()}
	}
	return s.token(t, tt.header, claims)
}

// Every claim arrives exactly as the provider wrote it, since policy decides on
// them, and the audience may be a string or a list.
func TestTokensOfKnownProviders(t *testing.T) {
	p := newProvider(t)
	for _, tt := range idTokenVectors() {
		is := p.issuer()
		if tt.change != nil {
			tt.change(&is)
		}
		v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
		for _, aud := range []any{"mayfly", []string{"mayfly"}} {
			id, err := v.Verify(t.Context(), tt.sign(t, p, aud))
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			want := readAsMap(t, []byte(text(tt.claims)))
			for name, value := range want {
				if !reflect.DeepEqual(id.Claims[name], value) {
					t.Errorf("%s: claim %s is %#v, want %#v", tt.name, name, id.Claims[name], value)
				}
			}
			if id.Subject != tt.claims["sub"] || id.Issuer != p.srv.URL {
				t.Errorf("%s: subject %q of %q", tt.name, id.Subject, id.Issuer)
			}
		}
	}
}

// What a client sends by mistake, or an attacker who has got hold of one of the
// many other tokens that the provider's keys sign.
func TestOtherTokensOfKnownProviders(t *testing.T) {
	p := newProvider(t)
	is := p.issuer()
	is.OneTime = false
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	claims := p.goodClaims()
	header := goodHeader()
	sign := func(h, c object) string { return rs256().token(t, h, c) }
	more := func(s string) string {
		return rs256().compact(t, text(header), strings.TrimSuffix(text(claims), "}")+","+s+"}")
	}
	year := noon.Add(365 * 24 * time.Hour).Unix()
	testRejections(t, p, v, []rejection{
		{"Kubernetes: token of a secret", sign(header, object{"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:a:b"}), ca.ReasonIssuerUnknown},
		{"Kubernetes: mounted for a year", sign(header, claims.with("exp", year).with("kubernetes.io", object{"warnafter": noon.Unix() + 3607})), ca.ReasonLifetime},
		{"Kubernetes: for the API server", sign(header, claims.with("aud", []string{"https://kubernetes.default.svc"})), ca.ReasonAudience},
		{"Keycloak: access token", sign(header, claims.with("typ", "Bearer").with("scope", "openid")), ca.ReasonTokenType},
		{"Keycloak: refresh token", sign(header, claims.with("typ", "Refresh")), ca.ReasonTokenType},
		{"Keycloak: logout token", sign(header.with("typ", "logout+jwt"), claims.with("typ", "Logout").with("events", object{})), ca.ReasonTokenType},
		{"Keycloak: action token", sign(header, claims.with("typ", "verify-email")), ca.ReasonTokenType},
		{"Keycloak: delegated", sign(header, claims.with("typ", "ID").with("act", object{"sub": "admin"})), ca.ReasonDelegated},
		{"Keycloak: impersonated", sign(header, claims.with("typ", "ID").with("impersonator_id", guid)), ca.ReasonDelegated},
		{"Keycloak: exchanged for more audiences", sign(header, claims.with("typ", "ID").with("aud", []string{"mayfly", "vault"}).with("azp", "mayfly")), ca.ReasonAudienceExtra},
		{"Keycloak: another client's", sign(header, claims.with("typ", "ID").with("azp", "grafana")), ca.ReasonAuthorizedParty},
		{"Keycloak: realm by another name", sign(header, claims.with("iss", p.srv.URL+"/auth/realms/x")), ca.ReasonIssuerUnknown},
		{"Entra: for Microsoft Graph", sign(header.with("nonce", "n"), claims.with("scp", "User.Read")), ca.ReasonTokenType},
		{"Entra: access token", sign(header, claims.with("scp", "x").with("appid", "mayfly")), ca.ReasonTokenType},
		{"Entra: application's access token", sign(header, claims.with("azpacr", "1").with("azp", "mayfly")), ca.ReasonTokenType},
		{"Cognito: access token", sign(header, claims.with("token_use", "access")), ca.ReasonTokenType},
		{"Jenkins: template AUD", more(`"AUD":"vault"`), ca.ReasonTokenMalformed},
		{"Jenkins: template Iss", more(`"Iss":"https://idp.example"`), ca.ReasonTokenMalformed},
		{"Jenkins: no audience set", sign(header, claims.with("aud", "")), ca.ReasonAudience},
		{"SPIRE: without iss", sign(header, claims.with("iss", absent)), ca.ReasonTokenMalformed},
		{"GitLab: host instead of URL", sign(header, claims.with("iss", strings.TrimPrefix(p.srv.URL, "https://"))), ca.ReasonIssuerUnknown},
		{"DPoP proof", sign(object{"alg": "RS256", "typ": "dpop+jwt", "jwk": publicJWK(rsaKey1().Public())}, object{"jti": "1", "htm": "POST", "htu": "https://ca", "iat": noon.Unix()}), ca.ReasonTokenMalformed},
		{"DPoP proof with iss", sign(header.with("typ", "dpop+jwt"), claims), ca.ReasonTokenType},
		{"client assertion", sign(header, claims.with("iss", "mayfly").with("sub", "mayfly").with("aud", p.srv.URL)), ca.ReasonIssuerUnknown},
		{"security event", sign(header.with("typ", "secevent+jwt"), claims.with("events", object{})), ca.ReasonTokenType},
		{"security event, plain typ", sign(header, claims.with("events", object{"x": object{}})), ca.ReasonTokenType},
		{"selective disclosure", sign(header.with("typ", "vc+sd-jwt"), claims), ca.ReasonTokenType},
		{"request object", sign(header.with("typ", "oauth-authz-req+jwt"), claims), ca.ReasonTokenType},
		{"introspection answer", sign(header.with("typ", "token-introspection+jwt"), claims), ca.ReasonTokenType},
		{"nested JWT", sign(header.with("cty", "JWT").with("typ", "JWE"), claims), ca.ReasonTokenType},
		{"bound to a certificate", sign(header, claims.with("cnf", object{"x5t#S256": "t"})), ca.ReasonPopRequired},
		{"bound to nothing", sign(header, claims.with("cnf", nil)), ca.ReasonPopRequired},
		{"duplicate role inside", more(`"resource_access":{"a":{"roles":["x"],"roles":["y"]}}`), ca.ReasonTokenMalformed},
		{"a million seconds in the past, as a fraction", more(`"nbf":1e400`), ca.ReasonNotBefore},
		{"uti with a line break", sign(header, claims.with("uti", "a\nb")), ca.ReasonClaimChars},
		{"appid with an override", sign(header, claims.with("appid", "a\u202eb")), ca.ReasonClaimChars},
		{"oid with NUL", sign(header, claims.with("oid", "a\x00")), ca.ReasonClaimChars},
	})
}
