package login

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ci is the token service of CI providers.
type ci struct {
	t        testing.TB
	token    string
	failures int
	status   int
	requests []*http.Request
}

func (c *ci) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	c.requests = append(c.requests, r)
	if c.failures > 0 {
		c.failures--
		w.Header().Set("Location", "https://elsewhere.example")
		w.WriteHeader(c.status)
		return
	}
	member := map[string]string{"/github": "value", "/bk/jobs/job 1/oidc/tokens": "token", "/azure": "oidcToken"}[r.URL.Path]
	fmt.Fprintf(w, `{%q: %q}`, member, c.token)
}

func ciToken(change claims) string {
	c := claims{"iss": "https://ci.example", "sub": "job", "aud": "sigstore", "exp": time.Now().Unix() + 300}
	for name, v := range change {
		c[name] = v
	}
	return encode(c)
}

var (
	gitHubEnv = map[string]string{"GITHUB_ACTIONS": "true", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://ci.example/github?x=1",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner-secret"}
	buildkiteEnv = map[string]string{"BUILDKITE": "true", "BUILDKITE_AGENT_ACCESS_TOKEN": "runner-secret", "BUILDKITE_JOB_ID": "job 1",
		"BUILDKITE_AGENT_ENDPOINT": "https://ci.example/bk"}
	azureEnv = map[string]string{"TF_BUILD": "True", "SYSTEM_OIDCREQUESTURI": "https://ci.example/azure",
		"SYSTEM_ACCESSTOKEN": "runner-secret", "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID": "c-1"}
)

func with(vars map[string]string, more ...string) map[string]string {
	all := make(map[string]string)
	for name, v := range vars {
		all[name] = v
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

func TestAmbientProviders(t *testing.T) {
	for name, test := range map[string]struct {
		env           map[string]string
		authorization string
		query, form   string
	}{
		"GitHub":    {gitHubEnv, "Bearer runner-secret", "audience=codesign&x=1", ""},
		"Buildkite": {buildkiteEnv, "Token runner-secret", "", "audience=codesign"},
		"Azure":     {azureEnv, "Bearer runner-secret", "api-version=7.1&serviceConnectionId=c-1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := &ci{t: t, token: ciToken(claims{"aud": "codesign"}), failures: 2, status: 503}
				messages := new(lockedBuffer)
				token, err := Acquire(t.Context(), Config{
					Audience: "codesign", Getenv: env(test.env), Transport: direct{service}, Messages: messages,
				})
				if err != nil || token.Subject() != "job" {
					t.Fatalf("token %v, error %v; want the job's, at the third attempt", token.Subject(), err)
				}
				if len(service.requests) != 3 {
					t.Errorf("%d requests, want 3", len(service.requests))
				}
				r := service.requests[0]
				if got := r.Header.Get("Authorization"); got != test.authorization {
					t.Errorf("Authorization %q, want %q", got, test.authorization)
				}
				if got := r.URL.Query().Encode(); got != test.query {
					t.Errorf("query %q, want %q", got, test.query)
				}
				if got := r.PostForm.Encode(); got != test.form {
					t.Errorf("form %q, want %q", got, test.form)
				}
				if text := messages.String(); strings.Contains(text, "runner-secret") || strings.Contains(text, token.Raw()) || !strings.Contains(text, name) {
					t.Errorf("the messages must name %s and no secret:\n%s", name, text)
				}
			})
		})
	}
}

// TestDetectedProviderThatFailsIsTheEnd: never somebody else's token, and never a
// browser.
func TestDetectedProviderThatFailsIsTheEnd(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	valid := ciToken(nil)
	for name, test := range map[string]struct {
		env    map[string]string
		status int
		want   string
	}{
		"GitHub without permission":     {with(gitHubEnv, "ACTIONS_ID_TOKEN_REQUEST_URL", "", "BUILDKITE", "true"), 0, "id-token: write"},
		"GitHub in clear":               {with(gitHubEnv, "ACTIONS_ID_TOKEN_REQUEST_URL", "http://ci.example/github"), 0, "plain http"},
		"GitHub redirects":              {gitHubEnv, 302, "status 302"},
		"GitHub refuses":                {gitHubEnv, 403, "status 403"},
		"GitHub is down":                {gitHubEnv, 500, "status 500"},
		"Buildkite without job":         {with(buildkiteEnv, "BUILDKITE_JOB_ID", ""), 0, "BUILDKITE_JOB_ID"},
		"Azure without mapping":         {with(azureEnv, "SYSTEM_ACCESSTOKEN", ""), 0, "System.AccessToken"},
		"Azure without connection":      {with(azureEnv, "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID", ""), 0, "SERVICE_CONNECTION_ID"},
		"Azure login page":              {azureEnv, 203, "status 203"},
		"Jenkins file is empty":         {map[string]string{"ID_TOKEN_FILE": empty}, 0, "is empty"},
		"Jenkins file is absent":        {map[string]string{"ID_TOKEN_FILE": empty + "x", "CI": "true"}, 0, "no such file"},
		"Jenkins without credential":    {map[string]string{"JENKINS_URL": "https://j.example"}, 0, "ID_TOKEN_FILE"},
		"GitLab without id_tokens":      {map[string]string{"GITLAB_CI": "true", "SIGSTORE_ID_TOKEN": " "}, 0, "id_tokens"},
		"some CI":                       {map[string]string{"CI": "true"}, 0, "--token-file"},
		"variable is no token":          {with(gitHubEnv, "SIGSTORE_ID_TOKEN", "x"), 0, "not an ID token"},
		"variable is for another":       {with(gitHubEnv, "SIGSTORE_ID_TOKEN", ciToken(claims{"aud": "vault"})), 0, "is for vault"},
		"variable is of another issuer": {with(gitHubEnv, "SIGSTORE_ID_TOKEN", ciToken(claims{"iss": "https://evil.example"})), 0, "of issuer https://evil.example"},
		"variable has expired":          {with(gitHubEnv, "SIGSTORE_ID_TOKEN", ciToken(claims{"exp": 1})), 0, "expired at"},
		"step-up of a job":              {map[string]string{"SIGSTORE_ID_TOKEN": valid, "acr": "mfa"}, 0, "leave out --max-age and --acr"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := &ci{t: t, token: valid, failures: 9, status: test.status}
				if test.status == 0 {
					service.failures = 0
				}
				cfg := Config{
					Issuer: "https://ci.example", Audience: "sigstore", Getenv: env(test.env), Transport: direct{service},
					Clock: func() time.Time { return time.Now() },
				}
				if acr := test.env["acr"]; acr != "" {
					cfg.ACR = []string{acr}
				}
				token, err := Acquire(t.Context(), cfg)
				if err == nil || !strings.Contains(err.Error(), test.want) || token.Raw() != "" {
					t.Errorf("error %v, want one that says %q, and no token", err, test.want)
				}
				for _, r := range service.requests {
					if r.URL.Path != "/github" && r.URL.Path != "/azure" {
						t.Errorf("asked %s after the provider had failed", r.URL.Path)
					}
				}
				if err != nil && strings.Contains(err.Error(), "runner-secret") {
					t.Errorf("the error holds the runner's secret: %v", err)
				}
			})
		})
	}
}

// TestAmbientOrder: the first that is there wins, and what a person put there
// comes first.
func TestAmbientOrder(t *testing.T) {
	dir := t.TempDir()
	file := func(name, subject string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(ciToken(claims{"sub": subject})+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	was := kubernetesTokenFile
	t.Cleanup(func() { kubernetesTokenFile = was })
	kubernetesTokenFile = file("kubernetes", "kubernetes")
	vars := with(nil, "CI", "true", "GITLAB_CI", "true", "JENKINS_URL", "https://j.example")
	check := func(cfg Config, want string) {
		t.Helper()
		cfg.Getenv = env(vars)
		cfg.Flow = FlowAmbient
		token, err := Acquire(t.Context(), cfg)
		if err != nil || token.Subject() != want || strings.HasSuffix(token.Raw(), "\n") {
			t.Errorf("token of %q, error %v; want that of %s", token.Subject(), err, want)
		}
	}
	check(Config{}, "kubernetes")
	vars["ID_TOKEN_FILE"] = file("jenkins", "jenkins")
	check(Config{}, "jenkins")
	for name, v := range gitHubEnv {
		vars[name] = v
	}
	check(Config{Transport: direct{&ci{t: t, token: ciToken(claims{"sub": "github"})}}}, "github")
	vars["SIGSTORE_ID_TOKEN"] = ciToken(claims{"sub": "variable"}) + "\n"
	check(Config{}, "variable")
	check(Config{TokenFile: file("named", "named")}, "named")
}

func TestAmbientFlowWithoutAnyProvider(t *testing.T) {
	_, err := Acquire(t.Context(), Config{Flow: FlowAmbient, Getenv: none})
	if err == nil || !strings.Contains(err.Error(), "no CI provider was detected") {
		t.Errorf("error %v, want that nothing was detected", err)
	}
}

// TestServiceNamesIssuerAndAudience: --server instead of two addresses to copy.
func TestServiceNamesIssuerAndAudience(t *testing.T) {
	const one, two = `{"issuerUrl":"https://ci.example","audience":"codesign"}`, `{"issuerUrl":"https://kc.example","audience":"people"}`
	for name, test := range map[string]struct {
		answer   string
		change   func(*Config)
		audience string // that was asked for
		want     string // of the error
	}{
		"one issuer":           {`{"issuers":[` + one + `]}`, nil, "codesign", ""},
		"choice by issuer":     {`{"issuers":[` + one + `,` + two + `]}`, func(c *Config) { c.Issuer = "https://ci.example" }, "codesign", ""},
		"choice by audience":   {`{"issuers":[` + one + `,` + two + `]}`, func(c *Config) { c.Audience = "codesign" }, "codesign", ""},
		"several audiences":    {`{"issuers":[` + one + `,` + two + `]}`, nil, "", "another audience for each issuer"},
		"issuer not accepted":  {`{"issuers":[` + two + `]}`, func(c *Config) { c.Audience = "codesign" }, "codesign", "does not accept tokens of https://ci.example"},
		"unknown issuer asked": {`{"issuers":[` + two + `]}`, func(c *Config) { c.Flow, c.Issuer = FlowBrowser, "https://ci.example" }, "", "does not accept"},
		"several to log in at": {`{"issuers":[` + one + `,` + two + `]}`, func(c *Config) { c.Flow = FlowBrowser }, "", "choose one with --issuer"},
		"patterns only":        {`{"issuers":[{"wildcardIssuerUrl":"https://*.example"}]}`, nil, "", "names no issuer"},
		"not a service":        {`<html>`, nil, "", "not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			service := &ci{t: t, token: ciToken(claims{"aud": "codesign"})}
			mux := http.NewServeMux()
			mux.Handle("/github", service)
			mux.HandleFunc("/base/api/v2/configuration", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, test.answer) })
			cfg := Config{Server: "https://ca.example/base/", Getenv: env(gitHubEnv), Transport: direct{mux}}
			if test.change != nil {
				test.change(&cfg)
			}
			_, err := Acquire(t.Context(), cfg)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			asked := ""
			for _, r := range service.requests {
				asked = r.URL.Query().Get("audience")
			}
			if asked != test.audience {
				t.Errorf("asked for the audience %q, want %q", asked, test.audience)
			}
		})
	}
}
