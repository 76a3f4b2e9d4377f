package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Row is what is known of a kind of provider. It is data: a configuration may
// override every field, and nothing asks for the name of a row later.
type Row struct {
	// Name is the preset's name, Title what people call the provider.
	Name, Title string
	// Issuer is a regular expression for the whole issuer URL, Example such a
	// URL.
	Issuer, Example string
	// Further are issuers that access tokens of the same provider may have, with
	// HOST for the host of the issuer URL.
	Further []string
	// Accept is the kind of token: "id_token" or "access_token".
	Accept string
	// Algorithms are the signature algorithms that the provider uses.
	Algorithms []string
	// ExtraAudiences may stand beside ours.
	ExtraAudiences []string
	// MaxTokenAge and MaxTokenLifetime bound tokens; zero means the
	// configuration's own default.
	MaxTokenAge, MaxTokenLifetime time.Duration
	// TrustedClaims are as in [Issuer].
	TrustedClaims []string
	// Rules say who gets a certificate when the configuration does not. The
	// first is for the identities that the provider is mostly used for: its
	// name, extensions and condition are what a rule of the configuration
	// without a name of its own takes over. The issuer's names bound all of them.
	Rules []Rule
	// Traps are what the rules refuse because the provider's tokens invite it,
	// for documentation.
	Traps []string
}

// CheckIssuer refuses a URL that is no issuer of this kind of provider.
func (r Row) CheckIssuer(url string) error {
	if !regexp.MustCompile(`\A(?:` + r.Issuer + `)\z`).MatchString(url) {
		return fmt.Errorf("%q is not the issuer of %s, which looks like %s", url, r.Title, r.Example)
	}
	return nil
}

// FurtherIssuers returns the other values of iss for a provider.
func (r Row) FurtherIssuers(url string) []string {
	host, _ := address(url)
	host, _, _ = strings.Cut(host, "/")
	var all []string
	for _, f := range r.Further {
		all = append(all, strings.ReplaceAll(f, "HOST", host))
	}
	return all
}

// Preset returns the row of a name.
func Preset(name string) (Row, bool) {
	i := slices.IndexFunc(presets, func(r Row) bool { return r.Name == name })
	if i < 0 {
		return Row{}, false
	}
	r := presets[i]
	r.Rules = slices.Clone(r.Rules)
	for n := range r.Rules {
		r.Rules[n].Extensions = slices.Clone(r.Rules[n].Extensions)
	}
	return r, true
}

// PresetNames returns the names of all presets in the order of the table.
func PresetNames() []string {
	var names []string
	for _, r := range presets {
		names = append(names, r.Name)
	}
	return names
}

const (
	idToken = "id_token"
	host    = `https?://[a-z0-9.-]+(?::[0-9]+)?`
	guid    = `[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}`
)

// presets is the table. Each row is documented in docs/presets.
var presets = []Row{
	{
		Name: "keycloak", Title: "Keycloak", Issuer: host + `(?:/[^?#]+)?/realms/[^/?#]+`, Example: "https://keycloak.corp.example/realms/eng",
		Accept: idToken, Algorithms: []string{"RS256", "PS256", "ES256"}, MaxTokenAge: 10 * time.Minute,
		Rules: []Rule{
			{Name: "user", When: `claims.email_verified == true && has(claims.auth_time) && !has(claims.client_id)`, SAN: `email(claims.email)`},
			{
				Name: "service-account", When: `claims.client_id == token.azp && !has(claims.auth_time)`,
				SAN: `uri(issuer.url, "clients", claims.client_id)`,
			},
		},
		Traps: []string{
			"an address that the realm did not verify",
			"a service account as a person, and a person named service-account-x as a pipeline",
		},
	},
	{
		Name: "adfs", Title: "AD FS", Issuer: host + `/adfs`, Example: "https://adfs.corp.example/adfs", Further: []string{"http://HOST/adfs/services/trust"},
		Accept: idToken, Algorithms: []string{"RS256"}, MaxTokenAge: 10 * time.Minute,
		Rules: []Rule{{Name: "user", When: `has(claims.upn)`, SAN: `email(claims.upn)`}},
		Traps: []string{
			"the email claim, for AD FS has no email_verified",
			"unique_name and sub, which are DOMAIN\\user and different for each client",
		},
	},
	{
		Name: "entra", Title: "Microsoft Entra ID",
		Issuer:  `https://login\.microsoftonline\.com/` + guid + `/v2\.0|https://sts\.windows\.net/` + guid + `/`,
		Example: "https://login.microsoftonline.com/2a4ff2d1-6a5e-4b63-9d4c-1f0f5a9b7c11/v2.0",
		Accept:  idToken, Algorithms: []string{"RS256"},
		Rules: []Rule{
			{
				Name: "user", When: tenant + ` && text(claims.acct) == "0" && text(claims.?idtyp) != "app"`,
				SAN: `uri("https://login.microsoftonline.com", claims.tid, "users", claims.oid)`,
			},
			{
				Name: "application", When: tenant + ` && claims.idtyp == "app" && claims.sub == claims.oid`,
				SAN: `uri("https://login.microsoftonline.com", claims.tid, "servicePrincipals", claims.oid)`,
			},
		},
		Traps: []string{
			"the email claim without xms_edov, which a stranger's tenant can set (nOAuth)",
			"guests: acct must be there and 0",
			"another tenant's tid",
			"groups that were left out because there are more than 200",
		},
	},
	{
		Name: "gitlab", Title: "GitLab", Issuer: host + `(?:/[^?#]*[^/?#])?`, Example: "https://gitlab.corp.example",
		Accept: idToken, Algorithms: []string{"RS256"},
		Rules: []Rule{{
			Name: "pipeline", When: `claims.ref_protected == "true" && has(claims.ci_config_ref_uri)`,
			SAN: gitlabConfig,
			Extensions: []RuleExtension{
				{9, gitlabConfig}, {10, `text(claims.?ci_config_sha)`}, {11, `claims.runner_environment`},
				{12, `uri(issuer.url, path(claims.project_path))`}, {13, `claims.sha`},
				{14, `"refs/" + (text(claims.?ref_type) == "branch" ? "heads/" : "tags/") + claims.ref`},
				{15, `text(claims.project_id)`}, {16, `uri(issuer.url, path(claims.namespace_path))`}, {17, `text(claims.namespace_id)`},
				{18, gitlabConfig}, {19, `text(claims.?ci_config_sha)`}, {20, `claims.pipeline_source`},
				{21, `uri(issuer.url, path(claims.project_path), "-", "jobs", text(claims.job_id))`},
				{22, `text(claims.?project_visibility)`}, {23, `text(claims.?environment)`},
			},
		}},
		Traps: []string{
			"sub, whose form each project may choose",
			"refs that are not protected, on which anybody with push access runs what they like",
			"a branch named x@refs/heads/main",
			"a configuration that does not come from the instance itself",
		},
	},
	{
		Name: "github", Title: "GitHub Actions and GitHub Enterprise Server",
		Issuer:  `https://token\.actions\.githubusercontent\.com(?:/[a-z0-9-]+)?|` + host + `/_services/token`,
		Example: "https://token.actions.githubusercontent.com",
		Accept:  idToken, Algorithms: []string{"RS256"},
		Rules: []Rule{
			githubRule("workflow", `issuer.origin == "https://token.actions.githubusercontent.com"`, `"https://github.com"`),
			githubRule("workflow-server", `issuer.url == issuer.origin + "/_services/token"`, `issuer.origin`),
		},
		Traps: []string{
			"sub, whose form each repository may choose",
			"pull requests, which run what a stranger wrote",
			"our reusable workflow, called by a repository of somebody else",
			"a branch named x@refs/heads/main",
		},
	},
	{
		Name: "jenkins", Title: "Jenkins with the plugin oidc-provider", Issuer: host + `(?:/[^?#]*)?/oidc(?:/job/[^?#]*[^/?#])?`,
		Example: "https://jenkins.corp.example/oidc",
		Accept:  idToken, Algorithms: []string{"RS256"},
		Rules: []Rule{{
			Name: "job", When: `claims.sub.startsWith(issuer.origin + "/")`, SAN: `uri(claims.sub)`,
			Extensions: []RuleExtension{{21, `claims.sub + text(claims.build_number) + "/"`}},
		}},
		Traps: []string{"a subject template that names another server", "jobs outside the prefixes of the issuer, such as a folder of somebody else"},
	},
	{
		Name: "kubernetes", Title: "Kubernetes service accounts", Issuer: host + `(?:/[^?#]*)?`, Example: "https://kubernetes.default.svc.cluster.local",
		Accept: idToken, Algorithms: []string{"RS256", "ES256"},
		Rules: []Rule{{
			Name: "service-account",
			When: `claims.sub == "system:serviceaccount:" + claims["kubernetes.io"].namespace + ":" + claims["kubernetes.io"].serviceaccount.name`,
			SAN: `uri("https://kubernetes.io/namespaces", dns1123(claims["kubernetes.io"].namespace), "serviceaccounts", ` +
				`dns1123(claims["kubernetes.io"].serviceaccount.name))`,
		}},
		Traps: []string{"namespaces and accounts whose names are no DNS names", "tokens without the kubernetes.io claim"},
	},
	{
		Name: "spiffe", Title: "SPIFFE (SPIRE JWT-SVID)", Issuer: host + `(?:/[^?#]*)?`, Example: "https://spire.corp.example",
		Accept: idToken, Algorithms: []string{"ES256", "ES384", "RS256"},
		Rules: []Rule{{Name: "workload", When: `claims.sub.startsWith("spiffe://")`, SAN: `spiffe(claims.sub)`}},
		Traps: []string{"another trust domain", "paths with dots or empty segments"},
	},
	{
		Name: "generic", Title: "Another OpenID provider", Issuer: `https?://[^?#]+`, Example: "https://login.corp.example",
		Accept: idToken, Algorithms: []string{"RS256"},
	},
}

// tenant pins the tenant of Entra ID: that of the token must be the one that the
// issuer, which the configuration names, is for; and the identity is its oid.
const tenant = `claims.tid.matches("^` + guid + `$") && claims.oid.matches("^` + guid + `$") && ` +
	`issuer.url in ["https://login.microsoftonline.com/" + claims.tid + "/v2.0", "https://sts.windows.net/" + claims.tid + "/"]`

// gitlabConfig is the pipeline's definition, which GitLab writes without the
// scheme. It must lie on the instance that issued the token.
const gitlabConfig = `workflow(issuer.url, after(claims.ci_config_ref_uri, issuer.address + "/"))`

// githubRule is Fulcio's, with the server's address for its url. Events other
// than pull_request run the merge of a pull request, too, such as
// pull_request_review; all of them have its ref. pull_request_target has the ref
// of the base and is named for what it is used for.
func githubRule(name, when, base string) Rule {
	signer := `workflow(` + base + `, claims.job_workflow_ref)`
	return Rule{
		Name: name,
		When: when + ` && claims.job_workflow_ref.startsWith(claims.repository_owner + "/") && ` +
			`has(claims.event_name) && !(claims.event_name in ["pull_request", "pull_request_target"]) && ` +
			`has(claims.ref) && !claims.ref.startsWith("refs/pull/")`,
		SAN: signer,
		Extensions: []RuleExtension{
			{2, `claims.event_name`}, {3, `claims.sha`}, {4, `claims.workflow`}, {5, `claims.repository`}, {6, `claims.ref`},
			{9, signer}, {10, `claims.job_workflow_sha`}, {11, `claims.runner_environment`},
			{12, `uri(` + base + `, path(claims.repository))`}, {13, `claims.sha`}, {14, `claims.ref`}, {15, `text(claims.repository_id)`},
			{16, `uri(` + base + `, claims.repository_owner)`}, {17, `text(claims.repository_owner_id)`},
			{18, `workflow(` + base + `, claims.workflow_ref)`}, {19, `claims.workflow_sha`}, {20, `claims.event_name`},
			{21, `uri(` + base + `, path(claims.repository), "actions", "runs", text(claims.run_id), "attempts", text(claims.run_attempt))`},
			{22, `claims.repository_visibility`}, {23, `text(claims.?environment)`},
		},
	}
}
