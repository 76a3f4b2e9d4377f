package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

func loadImported(t testing.TB, text string) (*config.File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mayfly.yaml")
	if err := os.WriteFile(path, []byte(aroundIssuers+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path, nil)
}

func imported(t testing.TB, text []byte) (string, map[string]config.Issuer) {
	t.Helper()
	out, err := importFulcio(text)
	if err != nil {
		t.Fatalf("importing: %v, from:\n%s", err, text)
	}
	f, err := loadImported(t, out)
	if err != nil {
		t.Fatalf("what was imported does not load: %v\n%s", err, out)
	}
	byURL := make(map[string]config.Issuer)
	for _, is := range f.Issuers {
		byURL[is.URL] = is
	}
	return out, byURL
}

func fixture(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/fulcio/identity.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rulesOf are the rules of an issuer, as the service takes them.
func rulesOf(is config.Issuer) policy.Issuer {
	row := policy.Issuer{
		Name: is.Name, SAN: ca.SANKind(is.SAN), TrustedClaims: is.TrustedClaims, EmailDomains: is.MayIssue.EmailDomains,
		URIPrefixes: is.MayIssue.URIPrefixes, UsernameDomains: is.MayIssue.UsernameDomains,
	}
	for _, r := range is.Rules {
		made := policy.Rule{Name: r.Name, When: cmp.Or(r.When, "true"), SAN: r.SAN}
		for _, x := range r.Extensions {
			n, _ := config.ExtensionNumber(x.Name)
			made.Extensions = append(made.Extensions, policy.RuleExtension{Number: n, Value: x.Value})
		}
		row.Rules = append(row.Rules, made)
	}
	return row
}

// decide puts claims, in JSON, to the rules of an imported issuer.
func decide(t *testing.T, is config.Issuer, claims string) (ca.Decision, error) {
	t.Helper()
	p, err := policy.New([]policy.Issuer{rulesOf(is)})
	if err != nil {
		t.Fatalf("%s: the imported rules are refused: %v", is.URL, err)
	}
	id := ca.Identity{IssuerName: is.Name, Issuer: is.URL}
	d := json.NewDecoder(strings.NewReader(claims))
	d.UseNumber()
	if err := d.Decode(&id.Claims); err != nil {
		t.Fatalf("claims %s: %v", claims, err)
	}
	id.Subject, _ = id.Claims["sub"].(string)
	return p.Decide(context.Background(), ca.Request{Identity: id, Time: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)})
}

const (
	gitlabClaims = `{"sub":"project_path:group/app:ref_type:branch:ref:main","ci_config_ref_uri":"gitlab.corp.example/group/app//.gitlab-ci.yml@refs/heads/main",
		"ci_config_sha":"c0","runner_environment":"self-hosted","project_path":"group/app","sha":"5a","ref_type":"branch","ref":"main","project_id":"17",
		"namespace_path":"group","namespace_id":"4","pipeline_source":"push","job_id":"302","project_visibility":"private"%s}`
	githubClaims = `{"sub":"repo:octo/app:ref:refs/heads/main","event_name":"push","sha":"5a","workflow":"CI","repository":"octo/app","ref":"refs/heads/main",
		"job_workflow_ref":"octo/app/.github/workflows/ci.yml@refs/heads/main","job_workflow_sha":"6b","runner_environment":"github-hosted","repository_id":"1",
		"repository_owner":"octo","repository_owner_id":"2","workflow_ref":"octo/app/.github/workflows/top.yml@refs/heads/main","workflow_sha":"7c",
		"run_id":"77","run_attempt":"1","repository_visibility":"public","url":"https://evil.example"}`
)

// What Fulcio 1.8 writes into certificates for these tokens, by its templates and
// the code of its types.
func TestImportedIssuersNameTheSameAsFulcio(t *testing.T) {
	_, issuers := imported(t, fixture(t))
	gitlab := map[int]string{
		9: "https://gitlab.corp.example/group/app//.gitlab-ci.yml@refs/heads/main", 10: "c0", 11: "self-hosted",
		12: "https://gitlab.corp.example/group/app", 13: "5a", 14: "refs/heads/main", 15: "17", 16: "https://gitlab.corp.example/group", 17: "4",
		18: "https://gitlab.corp.example/group/app//.gitlab-ci.yml@refs/heads/main", 19: "c0", 20: "push",
		21: "https://gitlab.corp.example/group/app/-/jobs/302", 22: "private",
	}
	production := make(map[int]string)
	for n, v := range gitlab {
		production[n] = v
	}
	production[14], production[23] = "refs/tags/main", "prod"
	for _, tt := range []struct {
		name, issuer, claims, san string
		extensions                map[int]string
	}{
		{"username", "https://users.corp.example", `{"sub":"alice"}`, "alice!corp.example", nil},
		{"uri", "https://jenkins.corp.example/oidc", `{"sub":"https://jenkins.corp.example/job/app/"}`, "https://jenkins.corp.example/job/app/", nil},
		{"spiffe", "https://spire.corp.example", `{"sub":"spiffe://prod.corp.example/ns/a/sa/b"}`, "spiffe://prod.corp.example/ns/a/sa/b", nil},
		{"kubernetes", "https://oidc.k8s.corp.example", `{"sub":"system:serviceaccount:a:b","kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b","uid":"u"}}}`,
			"https://kubernetes.io/namespaces/a/serviceaccounts/b", nil},
		{"GitLab branch", "https://gitlab.corp.example", fmt.Sprintf(gitlabClaims, ""), gitlab[9], gitlab},
		{"GitLab tag with an environment", "https://gitlab.corp.example",
			strings.Replace(fmt.Sprintf(gitlabClaims, `,"environment":"prod"`), `"branch"`, `"tag"`, 1), gitlab[9], production},
		{"GitHub", "https://token.actions.githubusercontent.com", githubClaims, "https://github.com/octo/app/.github/workflows/ci.yml@refs/heads/main", map[int]string{
			2: "push", 3: "5a", 4: "CI", 5: "octo/app", 6: "refs/heads/main", 9: "https://github.com/octo/app/.github/workflows/ci.yml@refs/heads/main",
			10: "6b", 11: "github-hosted", 12: "https://github.com/octo/app", 13: "5a", 14: "refs/heads/main", 15: "1", 16: "https://github.com/octo", 17: "2",
			18: "https://github.com/octo/app/.github/workflows/top.yml@refs/heads/main", 19: "7c", 20: "push",
			21: "https://github.com/octo/app/actions/runs/77/attempts/1", 22: "public"}},
		{"Buildkite, with a number", "https://agent.buildkite.com", `{"sub":"organization:acme:pipeline:app","organization_slug":"acme","pipeline_slug":"app","build_number":1234567890,"job_id":"0184","build_commit":"5a"}`,
			"https://buildkite.com/acme/app", map[int]string{13: "5a", 21: "https://buildkite.com/acme/app/builds/1234567890#0184"}},
		{"claims with odd names", "https://ci.corp.example", `{"sub":"x","ci.corp.example/pipeline-id":"p","ci.corp.example/vcs-ref":"main","ci.corp.example/project-id":"q","account":"a","pipeline":7,"trigger":"t"}`,
			"https://ci.corp.example/api/projects/q/a:7", map[int]string{14: "main", 18: "https://ci.corp.example/api/pipeline/p/config"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			is, ok := issuers[tt.issuer]
			if !ok {
				t.Fatalf("got no entry for %s", tt.issuer)
			}
			d, err := decide(t, is, tt.claims)
			if err != nil {
				t.Fatalf("claims %s: got error %v", tt.claims, err)
			}
			got := make(map[int]string)
			for _, x := range d.Extensions {
				got[x.Number] = x.Value
			}
			if tt.extensions == nil {
				tt.extensions = make(map[int]string)
			}
			if diff := gocmp.Diff(tt.extensions, got); d.SAN.String() != tt.san || diff != "" {
				t.Errorf("claims %s: got name %s, want %s; extensions (-want +got):\n%s", tt.claims, d.SAN, tt.san, diff)
			}
		})
	}
}

// A preset that does not know the issuer's URL would make the entry useless.
func TestImportedPresetsKnowTheirIssuers(t *testing.T) {
	_, issuers := imported(t, fixture(t))
	_, other := imported(t, []byte("oidc-issuers:\n  https://ci.corp.example/github: {client-id: sigstore, type: github-workflow}\n"))
	for url, is := range other {
		issuers[url] = is
	}
	presets := 0
	for url, is := range issuers {
		row, ok := policy.Preset(is.Preset)
		if !ok {
			t.Errorf("%s: there is no preset %q", url, is.Preset)
		} else if err := row.CheckIssuer(url); err != nil {
			t.Errorf("%s: preset %s: %v", url, is.Preset, err)
		}
		if is.Preset != config.PresetGeneric {
			presets++
		}
	}
	if presets != 4 {
		t.Errorf("got %d issuers with a preset, want GitLab, GitHub, Kubernetes and SPIFFE", presets)
	}
}

// What Fulcio certifies and should not must not come along.
func TestImportedIssuersRefuse(t *testing.T) {
	_, issuers := imported(t, fixture(t))
	for _, tt := range []struct{ name, issuer, claims string }{
		{"service account without Kubernetes", "https://oidc.k8s.corp.example", `{"sub":"x"}`},
		{"namespace that climbs", "https://oidc.k8s.corp.example", `{"sub":"x","kubernetes.io":{"namespace":"a/../../b","serviceaccount":{"name":"b"}}}`},
		{"another trust domain", "https://spire.corp.example", `{"sub":"spiffe://evil.example/a"}`},
		{"user with a domain", "https://users.corp.example", `{"sub":"alice!evil.example"}`},
		{"pipeline of another GitLab", "https://gitlab.corp.example", strings.Replace(fmt.Sprintf(gitlabClaims, ""), "gitlab.corp.example/group", "gitlab.com/group", 1)},
		{"branch that looks like main", "https://gitlab.corp.example", strings.Replace(fmt.Sprintf(gitlabClaims, ""), "@refs/heads/main", "@refs/heads/x@refs/heads/main", 1)},
		{"no kind of ref", "https://gitlab.corp.example", strings.Replace(fmt.Sprintf(gitlabClaims, ""), `"ref_type"`, `"ref_typo"`, 1)},
		{"slash in a slug", "https://agent.buildkite.com", `{"sub":"x","organization_slug":"acme/app","pipeline_slug":"b","build_number":1,"job_id":"0","build_commit":"5a"}`},
		{"extension without its claim", "https://agent.buildkite.com", `{"sub":"x","organization_slug":"acme","pipeline_slug":"b","build_number":1,"job_id":"0"}`},
		{"mail address before the domains were filled in", "https://keycloak.corp.example/realms/eng", `{"sub":"x","email":"alice@corp.example","email_verified":true}`},
	} {
		d, err := decide(t, issuers[tt.issuer], tt.claims)
		if r, ok := errors.AsType[*ca.Refusal](err); !ok {
			t.Errorf("%s: %s: got %+v, error %v, want a refusal", tt.name, tt.claims, d.SAN, r)
		}
	}
}

func TestImportSaysWhatIsLeftToDo(t *testing.T) {
	out, issuers := imported(t, fixture(t))
	flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "#", "")), " ")
	for _, want := range []string{
		`Fulcio has no key "grafana" and ignored it`,
		`the key "colour" is unknown`,
		"TODO by you: replace keycloak-corp-example.invalid by the domains",
		"(skip-email-verification); Mayfly does not",
		"Fulcio writes the claim $.federated_claims.connector_id into certificates as their issuer",
		"put the certificate under ca-cert into a file",
		`extension-templates.build-colour" of the ci-provider buildkite is unknown`,
		"write the extension build_trigger, which Fulcio makes of {{ .trigger | urlquery }}",
		"https://lost.corp.example was not imported: its ci-provider \"nowhere\" is not in ci-issuer-metadata",
		"http://plain.corp.example was not imported: its URL is not https",
		`https://future.corp.example was not imported: its type "passkey" cannot be translated`,
		"Fulcio takes every issuer that matches https://oidc.eks.*.amazonaws.com/id/* (type kubernetes, audience sigstore)",
		`url is always "https://gitlab.corp.example" here. In Fulcio a claim of that name would replace it.`,
		"Our people it@corp.example",
		"anybody in the world can have a token of agent.buildkite.com: narrow uri_prefixes, which are as wide as in Fulcio, to what is yours, " +
			`such as https://buildkite.com/ORGANIZATION/, and let a rule ask for it, such as when: 'claims.organization_slug == "ORGANIZATION"'.`,
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("got nothing like %q in:\n%s", want, out)
		}
	}
	for _, not := range []string{"BEGIN CERTIFICATE", `"define"`} {
		if strings.Contains(out, not) {
			t.Errorf("got %s, which is of no use to anybody, in:\n%s", not, out)
		}
	}
	if len(issuers) != 11 {
		t.Errorf("got %d issuers, want the 11 that can be translated", len(issuers))
	}
	for url := range issuers {
		if strings.Contains(url, "*") {
			t.Errorf("got the wildcard %s as an issuer", url)
		}
	}
}

// What a configuration is refused for is not imported, and the reason is told.
func TestImportAsksTheConfigurationItself(t *testing.T) {
	out, issuers := imported(t, []byte(`
oidc-issuers:
  https://good.example: {client-id: sigstore, type: email}
  http://localhost:8080: {client-id: sigstore, type: email}
  https://a.example:0: {client-id: sigstore, type: email}
  https://b_c.example: {client-id: sigstore, type: email}
  https://d.example/ä: {client-id: sigstore, type: email}
  https://e.example: {client-id: sigstore, type: ci-provider, ci-provider: long}
  https://g.example/\h: {client-id: sigstore, type: email}
ci-issuer-metadata:
  long: {subject-alternative-name-template: "https://f.example/{{.x}}", extension-templates: {build-trigger: "{{.x}}`+strings.Repeat("y", 5000)+`"}}
`))
	if len(issuers) != 2 || !issuers["http://localhost:8080"].InsecureHTTP {
		t.Errorf("got %d issuers, want the good one and the one on loopback, from:\n%s", len(issuers), out)
	}
	flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "#", "")), " ")
	for _, want := range []string{
		"https://a.example:0 was not imported: url: the port", "https://b_c.example was not imported: url:",
		"https://e.example was not imported: rules[0].extensions[0].value: the expression is longer",
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("got nothing like %q in:\n%s", want, out)
		}
	}
}

// Fulcio reads JSON too, with other names for the keys.
func TestImportReadsJSON(t *testing.T) {
	out, issuers := imported(t, []byte(`{"OIDCIssuers":{"https://a.example":{"IssuerURL":"https://a.example","ClientID":"sigstore","Type":"ci-provider","CIProvider":"p"}},
		"CIIssuerMetadata":{"p":{"DefaultTemplateValues":{"u":"https://p.example"},"ExtensionTemplates":{"BuildSignerURI":"{{.u}}/{{.x}}"},"SubjectAlternativeNameTemplate":"{{.u}}/{{.x}}"}}}`))
	d, err := decide(t, issuers["https://a.example"], `{"sub":"s","x":"y"}`)
	if err != nil || d.SAN.String() != "https://p.example/y" || len(d.Extensions) != 1 || d.Extensions[0].Number != 9 {
		t.Errorf("got %v, extensions %v, error %v, want https://p.example/y with extension 9, from:\n%s", d.SAN, d.Extensions, err, out)
	}
}

// Names that two issuers would vouch for go to neither.
func TestImportSeparatesIssuers(t *testing.T) {
	out, issuers := imported(t, []byte(`
oidc-issuers:
  https://one.example: {client-id: sigstore, type: kubernetes}
  https://two.example: {client-id: sigstore, type: kubernetes}
  https://three.example: {client-id: sigstore, type: username, subject-domain: example.com}
  https://four.example/a: {client-id: sigstore, type: username, subject-domain: example.com}
  https://four.example/b: {client-id: other, type: uri, subject-domain: "https://four.example"}
  https://four.example/b/: {client-id: other, type: uri, subject-domain: "https://four.example"}
`))
	for url, is := range issuers {
		if strings.HasSuffix(url, "/b") {
			continue
		}
		if all := fmt.Sprint(is.MayIssue); !strings.Contains(all, ".invalid") || strings.Contains(all, "kubernetes.io") || strings.Contains(all, "example.com") {
			t.Errorf("%s: got names %s, want a placeholder", url, all)
		}
	}
	if len(issuers) != 5 || !strings.Contains(out, "it is the same as https://four.example/b") {
		t.Errorf("got %d issuers, want 5 and a word about the sixth, from:\n%s", len(issuers), out)
	}
}

func TestTemplatesThatCannotBeTranslated(t *testing.T) {
	for _, san := range []string{
		"", "{{.x}}", "claim", "https://{{.host}}/a", "https://ci.{{.host}}/a", "http://ci.example/{{.x}}", "https://ci.example", "https://ci.example/",
		"https://ci.example/{{.x", "https://ci.example/{{.x | html}}", "https://ci.example/{{- .x -}}", "https://ci.example/{{.x}}#{{.y}}", "https://ci.example/{{.x}}@{{.y}}",
		"https://ci.example/{{.x}}//{{.y}}", "https://ci.example/{{.x}}/", "https://ci.example//{{.x}}", "https://ci.example/{{.optional}}",
		`https://ci.example/{{if eq .a "b"}}c{{else}}d{{end}}`, `https://ci.example/{{if .a}}c{{end}}`, `https://ci.example/{{if eq .a "b"}}c`,
		`https://ci.example/{{range .a}}{{.}}{{end}}`, "https://ci.example/a/b/c/d/e/f/{{.x}}/g/h/i/j/k/l/m/n", "https://ci.example/\n/{{.x}}", "https://ci.\u202eexample/{{.x}}",
	} {
		p := fulcioProvider{san: san, defaults: map[string]string{"optional": ""}}
		e := translate(fulcioIssuer{url: "https://ci.example", audience: "a", kind: fulcioCI, provider: "p"}, map[string]fulcioProvider{"p": p}, make(map[string]bool))
		if e.refused == "" {
			t.Errorf("template %q: got %s within %q, want it refused", san, e.rule.SAN, e.may.URIPrefixes)
		}
	}
}

// FuzzImportFulcio holds that whatever a file says, what is printed is a
// configuration, and nothing of the file has become a part of it that no code
// here put there.
func FuzzImportFulcio(f *testing.F) {
	f.Add(fixture(f))
	f.Add([]byte("oidc-issuers:\n  https://a.example: {client-id: s, type: email, description: \"x\\n  - name: evil\", contact: \"\\u2028- evil\"}\n"))
	f.Add([]byte(`{"OIDCIssuers":{"https://a.example":{"ClientID":"a'b","Type":"username","SubjectDomain":"a.example"}}}`))
	f.Add([]byte("oidc-issuers:\n  https://a.example: {client-id: s, type: ci-provider, ci-provider: p}\nci-issuer-metadata:\n  p: {subject-alternative-name-template: \"https://a/{{.x}}\", extension-templates: {build-trigger: \"'{{.a}}\\n\"}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := importFulcio(text)
		if err != nil {
			return
		}
		entries := strings.Count(out, "\n  - name: ")
		if entries == 0 {
			return
		}
		file, err := loadImported(t, out)
		if err != nil {
			t.Fatalf("what was imported does not load: %v\n%s\nfrom:\n%q", err, out, text)
		}
		if len(file.Issuers) != entries {
			t.Errorf("got %d issuers, want %d, from:\n%s", len(file.Issuers), entries, out)
		}
	})
}

// Each service for everybody is warned of in its own words, and an organization's
// own provider is not.
func TestImportWarnsOfIssuersForEverybody(t *testing.T) {
	for url, tc := range map[string]struct{ fields, want string }{
		"https://token.actions.githubusercontent.com": {"type: github-workflow", `such as https://github.com/ORGANIZATION/, and let a rule ask for it, such as when: 'claims.repository_owner == "ORGANIZATION"'.`},
		"https://gitlab.com":                          {"type: gitlab-pipeline", `such as https://gitlab.com/ORGANIZATION/, and let a rule ask for it, such as when: 'claims.namespace_path == "ORGANIZATION"'.`},
		"https://accounts.google.com":                 {"type: email", `list no domain under may_issue in which others have addresses, and let a rule ask for it, such as when: 'claims.hd == "ORGANIZATION"'.`},
		"https://oauth2.sigstore.dev/auth":            {"type: email", "list no domain under may_issue in which others have addresses."},
		"https://keycloak.corp.example/realms/eng":    {"type: email", ""},
		"https://gitlab.corp.example":                 {"type: gitlab-pipeline", ""},
	} {
		out, _ := imported(t, []byte("oidc-issuers:\n  "+url+": {client-id: sigstore, "+tc.fields+"}\n"))
		flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "#", "")), " ")
		if warned := strings.Contains(flat, "anybody in the world"); warned != (tc.want != "") || !strings.Contains(flat, tc.want) {
			t.Errorf("%s: warned: %v, want %q in:\n%s", url, warned, tc.want, out)
		}
	}
}
