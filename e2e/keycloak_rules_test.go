package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	releaser = "alice@release.example"
	// freshness is how long ago a person may have logged in. It is in the rule
	// below, and the test waits for as long.
	freshness = 30 * time.Second
)

// releaseIssuer demands a group, a second factor and a fresh login of people,
// or roles and the one-time code itself, and names a pipeline by its client.
func releaseIssuer(k *keycloak, p pki) string {
	return fmt.Sprintf(`  - name: release
    preset: keycloak
    url: %[1]s
    audiences: [sigstore, ci-builder]
    ca_file: %[2]s
    may_issue: {email_domains: [release.example], uri_prefixes: ["%[1]s/clients/"]}
    rules:
      - name: people
        when: >-
          claims.email_verified == true && has(claims.auth_time) && !has(claims.client_id) &&
          "/code-signers" in list(claims.groups) && claims.acr == "mfa" && recent(claims.auth_time, now, duration("%[3]s"))
        san: 'email(claims.email)'
      - name: roles
        when: >-
          claims.email_verified == true && has(claims.auth_time) && !has(claims.client_id) &&
          "signer" in list(claims.realm_access.roles) && "releases" in list(claims.resource_access["sigstore"].roles) &&
          "otp" in list(claims.amr)
        san: 'email(claims.email)'
      - name: pipelines
        when: 'claims.client_id == token.azp && !has(claims.auth_time)'
        san: 'uri(issuer.url, "clients", claims.client_id)'
`, k.realm("release"), p.file(rootFile), freshness)
}

// directoryIssuer names the members of one group of a directory. Its tokens live
// as long as the directory may take to be obeyed.
func directoryIssuer(k *keycloak, p pki) string {
	return fmt.Sprintf(`  - name: directory
    preset: keycloak
    url: %s
    audiences: [sigstore]
    ca_file: %s
    clock_skew: 1s
    may_issue: {email_domains: [ad.example]}
    rules:
      - name: people
        when: 'claims.email_verified == true && !has(claims.client_id) && "/code-signers" in list(claims.groups)'
        san: 'email(claims.email)'
`, k.realm("directory"), p.file(rootFile))
}

// rulesDecide goes through a release: who may, and with which login.
func rulesDecide(t *testing.T, k *keycloak, w *world) {
	k.stepUp(t, "release")
	session := filepath.Join(t.TempDir(), "alice.json")
	alice := func(args ...string) (token, pages string) { return w.login(t, k, "alice", session, args...) }

	weak, _ := alice()
	w.refusedByPolicy(t, "a password alone", weak, "mfa_required")

	strong, pages := alice("--acr", "mfa")
	loggedIn := time.Now()
	if !strings.Contains(pages, "second factor") || strings.Contains(pages, "password") {
		t.Errorf("asked for more or less than the second factor: %s", pages)
	}
	w.issuedTo(t, strong, releaser)

	for _, name := range []string{"bob", "mallory"} {
		token, _ := w.login(t, k, name, "", "--acr", "mfa")
		w.refusedByPolicy(t, name+", who is in another group of that name or none", token, "policy")
	}
	w.rolesDecide(t, k)
	w.pipelineOfRelease(t, k)

	// The session stays; what it was made with gets old.
	select {
	case <-time.After(time.Until(loggedIn.Add(freshness + time.Second))):
	case <-t.Context().Done():
	}
	stale, pages := alice("--acr", "mfa")
	if strings.Contains(pages, "page:") {
		t.Fatalf("asked anew; want a session that is old: %s", pages)
	}
	w.refusedByPolicy(t, "a stale session", stale, "auth_too_old")
	fresh, _ := alice("--acr", "mfa", "--max-age", freshness.String())
	w.issuedTo(t, fresh, releaser)
	w.stockClient(t, k, session)
}

// login runs mayfly login while a person is at the browser, and returns the
// token and the pages that the person saw.
func (w *world) login(t testing.TB, k *keycloak, user, session string, args ...string) (token, pages string) {
	t.Helper()
	dir := t.TempDir()
	path, shown := opener(t, dir)
	output := filepath.Join(dir, "token")
	c := command{dir: dir, env: append(w.offline(), "PATH="+path+":"+os.Getenv("PATH"), "DISPLAY=:0")}
	client := background(t, c, program(t, "E2E_MAYFLY"), append([]string{"login", "--issuer", k.realm("release"),
		"--ca-file", w.pki.file(rootFile), "--flow", "browser", "--output", output}, args...)...)
	address := strings.TrimSpace(client.awaitFile(t, shown, addressLine))
	query, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	pages, err = browse(t, w.pki, login{
		URL: address, User: user, Password: passwordOf(user), OTP: oneTimeCode(time.Now()), Cookies: session,
		End: query.Query().Get("redirect_uri"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := client.result(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, pages)
	}
	return string(readFile(t, output)), pages
}

func (w *world) refusedByPolicy(t testing.TB, what, token, reason string) {
	t.Helper()
	got, err := w.requestAs(t, token)
	if err != nil {
		t.Fatal(err)
	}
	if got.status != http.StatusForbidden || got.reason() != reason {
		t.Errorf("answer to %s is %v, want 403 %s\n%s", what, got, reason, payloadOf(t, token))
	}
}

// issuedTo demands a certificate for an address or a URI, and nothing else.
func (w *world) issuedTo(t testing.TB, token, name string) {
	t.Helper()
	got, err := w.requestAs(t, token)
	if err != nil || got.chain == nil {
		t.Errorf("no certificate for %s: %v, %v\n%s", name, got, err, payloadOf(t, token))
		return
	}
	leaf := got.chain[0]
	w.checkLeaf(t, leaf)
	names := leaf.EmailAddresses
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if len(names) != 1 || names[0] != name {
		t.Errorf("certificate is for %q, want %q alone", names, name)
	}
}

// pipelineOfRelease has the pipeline log in with its secret, by mayfly login.
func (w *world) pipelineOfRelease(t testing.TB, k *keycloak) {
	t.Helper()
	dir := t.TempDir()
	secret, output := writeFile(t, filepath.Join(dir, "secret"), "the builder's secret"), filepath.Join(dir, "token")
	command{dir: dir, env: w.offline()}.must(t, program(t, "E2E_MAYFLY"), "login", "--issuer", k.realm("release"),
		"--ca-file", w.pki.file(rootFile), "--flow", "client-credentials", "--client-id", "ci-builder",
		"--client-secret-file", secret, "--scope", "openid", "--audience", "ci-builder", "--output", output)
	w.issuedTo(t, string(readFile(t, output)), k.realm("release")+"/clients/ci-builder")
}

// level configures a level of authentication, which lasts for some seconds.
func level(n int, seconds string) map[string]any {
	return map[string]any{
		"alias":  fmt.Sprintf("level %d", n),
		"config": map[string]string{"loa-condition-level": fmt.Sprint(n), "loa-max-age": seconds},
	}
}

// reference is what amr calls a way to log in, and for how many seconds.
func reference(method string) map[string]any {
	return map[string]any{
		"alias":  "amr " + method,
		"config": map[string]string{"default.reference.value": method, "default.reference.maxAge": "36000"},
	}
}

// stepUp gives a realm the login of Keycloak's own guide: a password for the
// first level and a one-time code for the second, both kept for the session.
func (k *keycloak) stepUp(t testing.TB, realm string) {
	t.Helper()
	flows := realm + "/authentication/flows"
	k.admin(t, http.MethodPost, flows, map[string]any{"alias": "step-up", "providerId": "basic-flow", "topLevel": true, "builtIn": false}, nil)
	step := func(flow, kind string, body map[string]any) {
		k.admin(t, http.MethodPost, flows+"/"+flow+"/executions/"+kind, body, nil)
	}
	subflow := func(flow, alias string) {
		step(flow, "flow", map[string]any{"alias": alias, "type": "basic-flow", "provider": "registration-page-form"})
	}
	step("step-up", "execution", map[string]any{"provider": "auth-cookie"})
	subflow("step-up", "levels")
	methods := map[string]string{"auth-username-password-form": "pwd", "auth-otp-form": "otp"}
	for level, form := range []string{"auth-username-password-form", "auth-otp-form"} {
		alias := fmt.Sprintf("level-%d", level+1)
		subflow("levels", alias)
		step(alias, "execution", map[string]any{"provider": "conditional-level-of-authentication"})
		step(alias, "execution", map[string]any{"provider": form})
	}
	var executions []map[string]any
	k.admin(t, http.MethodGet, flows+"/step-up/executions", nil, &executions)
	conditions := 0
	for _, e := range executions {
		e["requirement"] = "REQUIRED"
		switch name := fmt.Sprint(e["displayName"]); {
		case e["providerId"] == "auth-cookie" || name == "levels":
			e["requirement"] = "ALTERNATIVE"
		case strings.HasPrefix(name, "level-"):
			e["requirement"] = "CONDITIONAL"
		}
		k.admin(t, http.MethodPut, flows+"/step-up/executions", e, nil)
		if method, ok := methods[fmt.Sprint(e["providerId"])]; ok {
			k.admin(t, http.MethodPost, fmt.Sprintf("%s/authentication/executions/%v/config", realm, e["id"]), reference(method), nil)
		}
		if e["providerId"] == "conditional-level-of-authentication" {
			conditions++
			k.admin(t, http.MethodPost, fmt.Sprintf("%s/authentication/executions/%v/config", realm, e["id"]), level(conditions, "36000"), nil)
		}
	}
	if conditions != 2 {
		text, _ := json.Marshal(executions)
		t.Fatalf("flow has %d levels: %s", conditions, text)
	}
	k.admin(t, http.MethodPut, realm, map[string]any{"browserFlow": "step-up"}, nil)
}

// stockClient has cosign sign as it is, on a session that is old. It can ask
// neither for a level nor for a fresh login; so the provider's administrator
// sets the level for the client and has the second factor asked for each time,
// which counts as a login. The rule still decides.
func (w *world) stockClient(t *testing.T, k *keycloak, session string) {
	t.Helper()
	var clients []struct{ ID string }
	k.admin(t, http.MethodGet, "release/clients?clientId=sigstore", nil, &clients)
	var executions []struct {
		ProviderID string `json:"providerId"`
		Config     string `json:"authenticationConfig"`
	}
	k.admin(t, http.MethodGet, "release/authentication/flows/step-up/executions", nil, &executions)
	last := ""
	for _, e := range executions {
		if e.ProviderID == "conditional-level-of-authentication" {
			last = e.Config
		}
	}
	if len(clients) != 1 || last == "" {
		t.Fatalf("realm has clients %v and steps %v; want one, and two levels", clients, executions)
	}
	always := level(2, "0")
	always["id"] = last
	k.admin(t, http.MethodPut, "release/authentication/config/"+last, always, nil)
	k.admin(t, http.MethodPut, "release/clients/"+clients[0].ID, map[string]any{
		"clientId": "sigstore", "attributes": map[string]string{"default.acr.values": "mfa"},
	}, nil)
	bundle := signWith(t, w, k.realm("release"), "normal", addressLine, func(address string) {
		if pages := answerLogin(t, w, address, "alice", session); strings.Contains(pages, "password") {
			t.Errorf("asked for the password again: %s", pages)
		}
	})
	checkSigned(t, w, bundle, releaser, k.realm("release"))
}
