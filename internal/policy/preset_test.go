package policy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// The tokens below are simulated: they are built from the documented shape of
// each provider's claims, with the names and types that the provider uses.

const (
	tid      = "2a4ff2d1-6a5e-4b63-9d4c-1f0f5a9b7c11"
	oid      = "6f5b8b0e-90c4-4d6e-8a53-1d2c3b4a5f60"
	entraV2  = "https://login.microsoftonline.com/" + tid + "/v2.0"
	entraV1  = "https://sts.windows.net/" + tid + "/"
	actions  = "https://token.actions.githubusercontent.com"
	ghes     = "https://github.corp.example/_services/token"
	gitlab   = "https://gitlab.corp.example"
	jenkins  = "https://jenkins.corp.example/oidc"
	cluster  = "https://kubernetes.default.svc.cluster.local"
	spire    = "https://spire.corp.example"
	adfs     = "https://adfs.corp.example/adfs"
	gitlabCI = "gitlab.corp.example/group/sub/project//.gitlab-ci.yml@refs/heads/main"
)

type claims map[string]any

// with returns the claims with some changed; a nil value removes one.
func (c claims) with(changes claims) claims {
	c = maps.Clone(c)
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

var (
	keycloakUser = claims{
		"sub": "3f0c7e0e-5a51-4a3e-9d3b-0f6f0e6f5d11", "typ": "ID", "azp": "codesign-cli", "auth_time": 1795337730, "acr": "mfa",
		"amr": []string{"pwd", "otp"}, "email": "Alice.Dev@corp.example", "email_verified": true, "preferred_username": "alice",
		"groups": []string{"/code-signers"},
	}
	keycloakClient = claims{
		"sub": "f1c8a3de-6b0a-4f45-8b52-0b1d8a2f7c33", "typ": "ID", "azp": "ci-builder", "client_id": "ci-builder", "acr": "1",
		"preferred_username": "service-account-ci-builder",
	}
	adfsUser = claims{
		"sub": "3/yc2o+ZK0E=", "upn": "Alice@corp.example", "unique_name": "CORP\\alice", "auth_time": 1795337730, "ver": "1.0",
	}
	entraUser = claims{
		"sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ", "tid": tid, "oid": oid, "ver": "2.0", "acct": 0,
		"preferred_username": "alice@corp.example", "name": "Alice", "email": "alice@corp.example",
	}
	entraApp   = claims{"sub": oid, "tid": tid, "oid": oid, "idtyp": "app", "azp": "app", "azpacr": "2", "roles": []string{"signer"}}
	gitlabUser = claims{
		"sub": "project_path:group/sub/project:ref_type:branch:ref:main", "namespace_id": "72", "namespace_path": "group/sub",
		"project_id": "20", "project_path": "group/sub/project", "user_email": "alice@corp.example", "pipeline_id": "574",
		"pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
		"ref_protected": "true", "runner_id": 1, "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
		"project_visibility": "private", "ci_config_ref_uri": gitlabCI, "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
	}
	githubRun = claims{
		"sub": "repo:corp/app:ref:refs/heads/main", "repository": "corp/app", "repository_owner": "corp", "repository_id": "74",
		"repository_owner_id": "65", "run_id": "42", "run_attempt": "1", "event_name": "push", "sha": "7a0b", "ref": "refs/heads/main",
		"workflow": "CI", "workflow_ref": "corp/app/.github/workflows/ci.yml@refs/heads/main", "workflow_sha": "7a0c",
		"job_workflow_ref": "corp/app/.github/workflows/build.yml@refs/heads/main", "job_workflow_sha": "7a0d",
		"runner_environment": "github-hosted", "repository_visibility": "internal",
	}
	jenkinsJob = claims{"sub": "https://jenkins.corp.example/job/team/job/app/job/feature%252Fx/", "build_number": 17}
	pod        = claims{
		"sub": "system:serviceaccount:build:tekton-bot",
		"kubernetes.io": map[string]any{
			"namespace": "build", "serviceaccount": map[string]any{"name": "tekton-bot", "uid": "f0b5"}, "pod": map[string]any{"name": "p-1"},
		},
	}
	svid = claims{"sub": "spiffe://corp.example/ns/build/sa/signer"}
)

// podNamed returns a token of a service account.
func podNamed(namespace, name string) claims {
	return claims{
		"sub":           "system:serviceaccount:" + namespace + ":" + name,
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": name}},
	}
}

// preset makes the policy of a provider with the preset's own rules.
func preset(t testing.TB, name string) *policy.Policy {
	t.Helper()
	row, ok := policy.Preset(name)
	if !ok {
		t.Fatalf("no preset %q", name)
	}
	return mustPolicy(t, policy.Issuer{
		Name: "idp", Rules: row.Rules, TrustedClaims: row.TrustedClaims,
		EmailDomains: []string{"corp.example"},
		URIPrefixes: []string{
			realm + "/clients/", "https://login.microsoftonline.com/" + tid + "/", "https://gitlab.corp.example/group/", "https://github.com/corp/",
			"https://github.corp.example/corp/", "https://jenkins.corp.example/job/team/", "https://kubernetes.io/namespaces/build/",
			"spiffe://corp.example/",
		},
	})
}

func mustPolicy(t testing.TB, issuers ...policy.Issuer) *policy.Policy {
	t.Helper()
	p, err := policy.New(issuers)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tokenOf(t testing.TB, issuer string, c claims) ca.Request {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return request(t, issuer, string(text))
}

func TestPresets(t *testing.T) {
	const ghName = "https://github.com/corp/app/.github/workflows/build.yml@refs/heads/main"
	for _, tc := range []struct {
		name, preset, issuer string
		claims               claims
		want                 string
	}{
		{"user", "keycloak", realm, keycloakUser, "user alice.dev@corp.example"},
		{"unverified", "keycloak", realm, keycloakUser.with(claims{"email_verified": false}), "policy"},
		{"verified missing", "keycloak", realm, keycloakUser.with(claims{"email_verified": nil}), "policy"},
		{"verified as text", "keycloak", realm, keycloakUser.with(claims{"email_verified": "maybe"}), "policy"},
		{"verified as number", "keycloak", realm, keycloakUser.with(claims{"email_verified": 1}), "policy"},
		{"foreign domain", "keycloak", realm, keycloakUser.with(claims{"email": "alice@evilcorp.example"}), "san_not_allowed"},
		{"service account", "keycloak", realm, keycloakClient, "service-account " + realm + "/clients/ci-builder"},
		{"service account with an address", "keycloak", realm,
			keycloakClient.with(claims{"email": "alice@corp.example", "email_verified": true}), "service-account " + realm + "/clients/ci-builder"},
		{"person named like one", "keycloak", realm, keycloakUser.with(claims{"preferred_username": "service-account-ci-builder"}), "user alice.dev@corp.example"},
		{"person with a client_id", "keycloak", realm, keycloakUser.with(claims{"client_id": "codesign-cli"}), "policy"},
		{"other client's id", "keycloak", realm, keycloakClient.with(claims{"client_id": "root"}), "policy"},
		{"client with dots", "keycloak", realm, keycloakClient.with(claims{"client_id": "..", "azp": ".."}), "san_invalid"},
		{"client with a slash", "keycloak", realm, keycloakClient.with(claims{"client_id": "a/b", "azp": "a/b"}), "san_invalid"},

		{"user", "adfs", adfs, adfsUser, "user alice@corp.example"},
		{"no upn", "adfs", adfs, adfsUser.with(claims{"upn": nil, "email": "alice@corp.example"}), "policy"},
		{"other suffix", "adfs", adfs, adfsUser.with(claims{"upn": "alice@other.example"}), "san_not_allowed"},
		{"several", "adfs", adfs, adfsUser.with(claims{"upn": []string{"alice@corp.example", "root@corp.example"}}), "policy"},
		{"DOMAIN\\user", "adfs", adfs, adfsUser.with(claims{"upn": "CORP\\alice"}), "san_invalid"},
		{"Kelvin sign", "adfs", adfs, adfsUser.with(claims{"upn": "alice@\u212aorp.example"}), "san_invalid"},

		{"user v2", "entra", entraV2, entraUser, "user https://login.microsoftonline.com/" + tid + "/users/" + oid},
		{"user v1", "entra", entraV1, entraUser.with(claims{"ver": "1.0", "acct": "0"}), "user https://login.microsoftonline.com/" + tid + "/users/" + oid},
		{"guest", "entra", entraV2, entraUser.with(claims{"acct": 1}), "policy"},
		{"maybe a guest", "entra", entraV2, entraUser.with(claims{"acct": nil}), "policy"},
		{"other tenant", "entra", entraV2, entraUser.with(claims{"tid": oid}), "policy"},
		{"template", "entra", "https://login.microsoftonline.com/{tenantid}/v2.0", entraUser.with(claims{"tid": "{tenantid}"}), "policy"},
		{"no oid", "entra", entraV2, entraUser.with(claims{"oid": nil}), "policy"},
		{"odd oid", "entra", entraV2, entraUser.with(claims{"oid": "../" + oid}), "policy"},
		{"application", "entra", entraV2, entraApp, "application https://login.microsoftonline.com/" + tid + "/servicePrincipals/" + oid},
		{"application as user", "entra", entraV2, entraApp.with(claims{"acct": 0}), "application https://login.microsoftonline.com/" + tid + "/servicePrincipals/" + oid},

		{"pipeline", "gitlab", gitlab, gitlabUser, "pipeline https://" + gitlabCI},
		{"unprotected", "gitlab", gitlab, gitlabUser.with(claims{"ref_protected": "false"}), "policy"},
		{"no configuration", "gitlab", gitlab, gitlabUser.with(claims{"ci_config_ref_uri": nil}), "policy"},
		{"configuration from elsewhere", "gitlab", gitlab,
			gitlabUser.with(claims{"ci_config_ref_uri": "evil.example/group/p//.gitlab-ci.yml@refs/heads/main"}), "san_invalid"},
		{"branch like main", "gitlab", gitlab,
			gitlabUser.with(claims{"ci_config_ref_uri": strings.Replace(gitlabCI, "heads/main", "heads/x@refs/heads/main", 1)}), "san_invalid"},
		{"other group", "gitlab", gitlab, gitlabUser.with(claims{"ci_config_ref_uri": strings.Replace(gitlabCI, "group", "groups", 1)}), "san_not_allowed"},
		{"custom sub", "gitlab", gitlab, gitlabUser.with(claims{"sub": "root"}), "pipeline https://" + gitlabCI},

		{"workflow", "github", actions, githubRun, "workflow " + ghName},
		{"enterprise issuer", "github", actions + "/corp", githubRun, "workflow " + ghName},
		{"server", "github", ghes, githubRun, "workflow-server https://github.corp.example/corp/app/.github/workflows/build.yml@refs/heads/main"},
		{"pull request", "github", actions, githubRun.with(claims{"event_name": "pull_request"}), "policy"},
		{"pull request target", "github", actions, githubRun.with(claims{"event_name": "pull_request_target"}), "policy"},
		{"review of a pull request", "github", actions,
			githubRun.with(claims{"event_name": "pull_request_review", "ref": "refs/pull/7/merge"}), "policy"},
		{"comment in a review, on a server", "github", ghes,
			githubRun.with(claims{"event_name": "pull_request_review_comment", "ref": "refs/pull/7/merge"}), "policy"},
		{"event yet unknown, of a pull request", "github", actions, githubRun.with(claims{"event_name": "new", "ref": "refs/pull/7/head"}), "policy"},
		{"no ref", "github", actions, githubRun.with(claims{"ref": nil}), "policy"},
		{"no event", "github", actions, githubRun.with(claims{"event_name": nil}), "policy"},
		{"other organization", "github", actions, githubRun.with(claims{
			"repository_owner": "evil", "repository": "evil/app", "job_workflow_ref": "evil/app/.github/workflows/build.yml@refs/heads/main",
		}), "san_not_allowed"},
		{"our workflow, their repository", "github", actions, githubRun.with(claims{"repository_owner": "evil", "repository": "evil/app"}), "policy"},
		{"branch like main", "github", actions,
			githubRun.with(claims{"job_workflow_ref": "corp/app/.github/workflows/build.yml@refs/heads/x@refs/heads/main"}), "san_invalid"},
		{"dots", "github", actions, githubRun.with(claims{"job_workflow_ref": "corp/../evil/b.yml@refs/heads/main"}), "san_invalid"},

		{"job", "jenkins", jenkins, jenkinsJob, "job https://jenkins.corp.example/job/team/job/app/job/feature%252Fx/"},
		{"other folder", "jenkins", jenkins, jenkinsJob.with(claims{"sub": "https://jenkins.corp.example/job/other/"}), "san_not_allowed"},
		{"other server", "jenkins", jenkins, jenkinsJob.with(claims{"sub": "https://kubernetes.io/namespaces/build/serviceaccounts/x"}), "policy"},
		{"dots", "jenkins", jenkins, jenkinsJob.with(claims{"sub": "https://jenkins.corp.example/job/team/../other/"}), "san_invalid"},
		{"escaped dots", "jenkins", jenkins, jenkinsJob.with(claims{"sub": "https://jenkins.corp.example/job/team/%2e%2e/other/"}), "san_invalid"},

		{"service account", "kubernetes", cluster, pod, "service-account https://kubernetes.io/namespaces/build/serviceaccounts/tekton-bot"},
		{"traversal", "kubernetes", cluster, podNamed("a/../../b", "x"), "san_invalid"},
		{"upper case", "kubernetes", cluster, podNamed("build", "Bot"), "san_invalid"},
		{"empty", "kubernetes", cluster, podNamed("", ""), "san_invalid"},
		{"other namespace", "kubernetes", cluster, podNamed("other", "x"), "san_not_allowed"},
		{"sub and claim differ", "kubernetes", cluster, pod.with(claims{"sub": "system:serviceaccount:kube-system:root"}), "policy"},
		{"no claim", "kubernetes", cluster, pod.with(claims{"kubernetes.io": nil}), "policy"},
		{"claim is text", "kubernetes", cluster, pod.with(claims{"kubernetes.io": "build"}), "policy"},

		{"workload", "spiffe", spire, svid, "workload spiffe://corp.example/ns/build/sa/signer"},
		{"other trust domain", "spiffe", spire, svid.with(claims{"sub": "spiffe://other.example/x"}), "san_not_allowed"},
		{"dots", "spiffe", spire, svid.with(claims{"sub": "spiffe://corp.example/../x"}), "san_invalid"},
		{"not a SPIFFE ID", "spiffe", spire, svid.with(claims{"sub": "https://corp.example/x"}), "policy"},
	} {
		t.Run(tc.preset+"/"+tc.name, func(t *testing.T) {
			if got := verdict(t, preset(t, tc.preset), tokenOf(t, tc.issuer, tc.claims)); got != tc.want {
				t.Errorf("%v: got %q, want %q", tc.claims, got, tc.want)
			}
		})
	}
}

// What Fulcio's templates make of the same claims (config/identity/config.yaml),
// expanded by hand.
func TestExtensionsAreFulcios(t *testing.T) {
	for _, tc := range []struct {
		preset, issuer string
		claims         claims
		want           string
	}{
		{"github", actions, githubRun.with(claims{"environment": "production"}), `
2 push
3 7a0b
4 CI
5 corp/app
6 refs/heads/main
9 https://github.com/corp/app/.github/workflows/build.yml@refs/heads/main
10 7a0d
11 github-hosted
12 https://github.com/corp/app
13 7a0b
14 refs/heads/main
15 74
16 https://github.com/corp
17 65
18 https://github.com/corp/app/.github/workflows/ci.yml@refs/heads/main
19 7a0c
20 push
21 https://github.com/corp/app/actions/runs/42/attempts/1
22 internal
23 production`},
		{"gitlab", gitlab, gitlabUser, `
9 https://gitlab.corp.example/group/sub/project//.gitlab-ci.yml@refs/heads/main
10 714a629c0b401fdce83e847fc9589983fc6f46bc
11 self-hosted
12 https://gitlab.corp.example/group/sub/project
13 714a629c0b401fdce83e847fc9589983fc6f46bc
14 refs/heads/main
15 20
16 https://gitlab.corp.example/group/sub
17 72
18 https://gitlab.corp.example/group/sub/project//.gitlab-ci.yml@refs/heads/main
19 714a629c0b401fdce83e847fc9589983fc6f46bc
20 push
21 https://gitlab.corp.example/group/sub/project/-/jobs/302
22 private`},
		{"gitlab", gitlab, gitlabUser.with(claims{"ref_type": "tag", "ref": "v1.0", "ci_config_sha": nil, "project_id": 20, "environment": nil}), `
9 https://gitlab.corp.example/group/sub/project//.gitlab-ci.yml@refs/heads/main
11 self-hosted
12 https://gitlab.corp.example/group/sub/project
13 714a629c0b401fdce83e847fc9589983fc6f46bc
14 refs/tags/v1.0
15 20
16 https://gitlab.corp.example/group/sub
17 72
18 https://gitlab.corp.example/group/sub/project//.gitlab-ci.yml@refs/heads/main
20 push
21 https://gitlab.corp.example/group/sub/project/-/jobs/302
22 private`},
		{"jenkins", jenkins, jenkinsJob, `
21 https://jenkins.corp.example/job/team/job/app/job/feature%252Fx/17/`},
	} {
		d, err := preset(t, tc.preset).Decide(t.Context(), tokenOf(t, tc.issuer, tc.claims))
		if err != nil {
			t.Errorf("%s: %v", tc.preset, err)
			continue
		}
		got := ""
		for _, e := range d.Extensions {
			got += fmt.Sprintf("\n%d %s", e.Number, e.Value)
		}
		if got != tc.want {
			t.Errorf("%s: got%s\nwant%s", tc.preset, got, tc.want)
		}
	}
}

func TestPresetIssuers(t *testing.T) {
	for name, urls := range map[string]struct{ good, bad []string }{
		"keycloak": {[]string{realm, "https://kc.corp.example:8443/auth/realms/eng", "http://127.0.0.1:8081/realms/eng"},
			[]string{realm + "/", "https://kc.corp.example", "https://kc.corp.example/realms/", "https://kc.corp.example/realms/a/b", "x" + realm}},
		"adfs": {[]string{adfs}, []string{adfs + "/", "http://adfs.corp.example/adfs/services/trust", "https://adfs.corp.example"}},
		"entra": {[]string{entraV1, entraV2}, []string{"https://login.microsoftonline.com/common/v2.0",
			"https://login.microsoftonline.com/{tenantid}/v2.0", strings.TrimSuffix(entraV1, "/"), "https://login.microsoftonline.com/" + tid + "/v2.0/"}},
		"gitlab":     {[]string{gitlab, "https://corp.example/gitlab"}, []string{gitlab + "/", "gitlab.corp.example"}},
		"github":     {[]string{actions, ghes, actions + "/corp"}, []string{actions + "/", "https://github.com", ghes + "/"}},
		"jenkins":    {[]string{jenkins, jenkins + "/job/folder", "https://corp.example/jenkins/oidc"}, []string{jenkins + "/", "https://jenkins.corp.example"}},
		"kubernetes": {[]string{cluster, "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC"}, []string{"kubernetes/serviceaccount"}},
		"spiffe":     {[]string{spire}, []string{"spiffe://corp.example"}},
		"generic":    {[]string{"https://login.corp.example/x"}, []string{"https://login.corp.example/?x"}},
	} {
		row, _ := policy.Preset(name)
		for _, u := range append(urls.good, row.Example) {
			if err := row.CheckIssuer(u); err != nil {
				t.Errorf("%s: %q: %v", name, u, err)
			}
		}
		for _, u := range urls.bad {
			if row.CheckIssuer(u) == nil {
				t.Errorf("%s: %q was accepted", name, u)
			}
		}
	}
	row, _ := policy.Preset("adfs")
	if got := row.FurtherIssuers(adfs); !slices.Equal(got, []string{"http://adfs.corp.example/adfs/services/trust"}) {
		t.Errorf("further issuers of AD FS: got %q", got)
	}
	if _, ok := policy.Preset("okta"); ok {
		t.Error("there is a preset okta")
	}
}

func TestPresetIsACopy(t *testing.T) {
	row, _ := policy.Preset("github")
	row.Rules[0].Name, row.Rules[0].Extensions[0].Value = "changed", "changed"
	if again, _ := policy.Preset("github"); again.Rules[0].Name == "changed" || again.Rules[0].Extensions[0].Value == "changed" {
		t.Error("a change to a row changed the table")
	}
}
