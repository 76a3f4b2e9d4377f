package stack

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
)

// ruled is a configuration whose issuer decides by rules.
func (s *site) ruled(address, issuer string) *config.File {
	s.t.Helper()
	f := s.configure(address, "")
	text, err := os.ReadFile(f.Path)
	s.must(err)
	before, after, _ := strings.Cut(string(text), "    allow: all\n")
	_, after, _ = strings.Cut(after, "chains:\n")
	s.write("mayfly.yaml", []byte(before+issuer+"chains:\n"+after))
	f, err = config.Load(f.Path, nil)
	s.must(err)
	return f
}

const twoRules = `    may_issue: {email_domains: [corp.example], uri_prefixes: ["https://ci.corp.example/"]}
    rules:
      - name: developers
        when: '"/code-signers" in claims.groups && claims.acr == "mfa" && claims.email_verified == true'
        san: email(claims.email)
        tests:
          - {token: alice.json, at: 2026-11-22T09:00:00Z, expect: "email:alice@corp.example"}
      - name: pipeline
        when: 'claims.azp == "sigstore" && !has(claims.auth_time) && has(claims.job)'
        san: uri("https://ci.corp.example", claims.job)
        extensions:
          - {name: source_repository_ref, value: claims.ref}
`

func TestRulesDecide(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.write("alice.json", []byte(`{"sub":"alice","email":"alice@corp.example","email_verified":true,"groups":["/code-signers"],"acr":"mfa"}`))
	f := s.ruled("127.0.0.1:1", twoRules)
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Fatal(problems)
	}
	url, stop := s.serve(f, Options{})
	defer stop()
	for _, tc := range []struct {
		name   string
		claims map[string]any
		status int
		want   string // name, or reason
	}{
		{"developer", map[string]any{"groups": []string{"/code-signers"}, "acr": "mfa"}, 200, "alice@corp.example"},
		{"without the group", map[string]any{"groups": []string{"/other"}, "acr": "mfa"}, 403, "policy"},
		{"group of the same name elsewhere", map[string]any{"groups": []string{"/outer/code-signers"}, "acr": "mfa"}, 403, "policy"},
		{"without MFA", map[string]any{"groups": []string{"/code-signers"}, "acr": "1"}, 403, "mfa_required"},
		{"pipeline", map[string]any{"azp": "sigstore", "job": "build", "ref": "refs/heads/main"}, 200, "https://ci.corp.example/build"},
		{"pipeline with a path in its name", map[string]any{"azp": "sigstore", "job": "..", "ref": "x"}, 400, "san_invalid"},
		{"groups left out", map[string]any{"_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": s.issuer.URL}}, "acr": "mfa"}, 403, "groups_overage"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := s.token(func(c map[string]any) {
				for k, v := range tc.claims {
					c[k] = v
				}
			})
			before := s.requests.Load()
			a := post(t, url+"/api/v2/signingCert", token, body(t, newKey(t), "alice"))
			if a.status != tc.status {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			if s.requests.Load() != before {
				t.Error("the provider was asked because of it")
			}
			if a.status != http.StatusOK {
				if code, _ := reason(t, a); code != tc.want {
					t.Errorf("reason %q, want %q", code, tc.want)
				}
				return
			}
			var v struct {
				SignedCertificateEmbeddedSct struct {
					Chain struct{ Certificates []string }
				}
			}
			s.must(json.Unmarshal(a.body, &v))
			cert := s.leaf(v.SignedCertificateEmbeddedSct.Chain.Certificates)
			if got := fmt.Sprint(cert.EmailAddresses, cert.URIs); !strings.Contains(got, tc.want) {
				t.Errorf("names %s, want %q", got, tc.want)
			}
		})
	}
}

func TestCheckRunsTheTestsOfRules(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.write("alice.json", []byte(`{"sub":"alice","email":"alice@corp.example","email_verified":true,"groups":["/code-signers"],"acr":"1"}`))
	problems := Check(s.ruled("127.0.0.1:1", twoRules), time.Now())
	if !hasProblem(problems, "issuers[0].rules[0].tests[0]", "expected email:alice@corp.example") {
		t.Errorf("problems %v, want one at the test that fails", problems)
	}
	s.write("alice.json", []byte(`not JSON`))
	if problems := Check(s.ruled("127.0.0.1:1", twoRules), time.Now()); !hasProblem(problems, "issuers[0].rules[0].tests[0]", "reading the claims") {
		t.Errorf("problems %v, want one at the file that cannot be read", problems)
	}
}

// TestCheckMissesNoFile: a file that is read only when the provider is asked is
// looked for, and a missing one is told once.
func TestCheckMissesNoFile(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.makePKI("Corp", x509.ExtKeyUsageCodeSigning)
	f := s.ruled("127.0.0.1:1", "    bearer_token_file: gone\n    may_issue: {email_domains: [corp.example]}\n    allow: all\n    san: email\n")
	s.must(os.Remove(f.Chains[0].Certificates))
	problems := Check(f, time.Now())
	if len(problems) != 2 || !hasProblem(problems, "issuers[0].bearer_token_file", "gone") || !hasProblem(problems, "chains[0].certificates", "chain.pem") {
		t.Errorf("problems %v, want one for each missing file", problems)
	}
}

func TestCheckNamesRulesThatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct{ rule, want string }{
		"no CEL":             {"when: 'claims.x =='\n        san: email(claims.email)", "Syntax error"},
		"no name":            {"when: 'true'\n        san: claims.email", "san"},
		"unverified address": {"when: 'true'\n        san: email(claims.email)", "email"},
		"absent and negated": {"when: '!(\"x\" in claims.groups) && claims.email_verified == true'\n        san: email(claims.email)", "has("},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.initLog()
			f := s.ruled("127.0.0.1:1", "    may_issue: {email_domains: [corp.example]}\n    rules:\n      - name: r\n        "+tc.rule+"\n")
			if problems := Check(f, time.Now()); !hasProblem(problems, "issuers[0].rules", tc.want) {
				t.Errorf("problems %v, want one at issuers[0].rules that says %q", problems, tc.want)
			}
			if s, err := Open(t.Context(), f, Options{}); err == nil {
				t.Errorf("Open accepts it: %v", s.Close())
			}
		})
	}
}

func TestRuleThatTakesThePresetsNameTakesItsCondition(t *testing.T) {
	s := newSite(t)
	s.initLog()
	s.write("verified.json", []byte(`{"iss":"x","sub":"1","email":"a@corp.example","email_verified":true,"auth_time":1795339815,"team":"x"}`))
	s.write("unverified.json", []byte(`{"iss":"x","sub":"1","email":"a@corp.example","email_verified":false,"auth_time":1795339815,"team":"x"}`))
	f := s.ruled("127.0.0.1:1", `    preset: keycloak
    may_issue: {email_domains: [corp.example]}
    rules:
      - name: team
        when: claims.team == "x"
        tests:
          - {token: verified.json, at: 2026-11-22T09:00:00Z, expect: "email:a@corp.example"}
          - {token: unverified.json, at: 2026-11-22T09:00:00Z, expect: "refuse:policy"}
`)
	f.Issuers[0].URL, f.Issuers[0].InsecureHTTP = "https://kc.corp.example/realms/eng", false
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Error(problems)
	}
}

// Joined with the preset's, a condition that is none by itself could become one,
// and "||" would take the preset's away.
func TestConditionBesideAPresetsIsOneByItself(t *testing.T) {
	is := config.Issuer{
		Name: "spire", Preset: config.PresetSPIFFE, URL: "https://spire.corp.example",
		Audiences: []string{"a"}, MayIssue: config.MayIssue{URIPrefixes: []string{"spiffe://corp.example/"}},
	}
	for when, want := range map[string]bool{
		`"signers" in claims.groups`:      true,
		"has(claims.b)\n|| has(claims.a)": true, // in parentheses of ours
		`true) || (true`:                  false,
		`has(claims.a)) || (true`:         false,
	} {
		is.Rules = []config.Rule{{Name: "r", When: when}}
		p := &plan{file: &config.File{Config: config.Config{Issuers: []config.Issuer{is}}}}
		p.planIssuers()
		if got := len(p.problems) == 0; got != want {
			t.Errorf("when %q: problems %v, want it taken: %v", when, p.problems, want)
		}
	}
}

func TestPresetsAreLaidUnderTheConfiguration(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.ruled("127.0.0.1:1", "    preset: keycloak\n    may_issue: {email_domains: [corp.example]}\n")
	if problems := Check(f, time.Now()); !hasProblem(problems, "issuers[0].url", "/realms/") {
		t.Errorf("problems %v, want one about a URL that is no realm's", problems)
	}
	f.Issuers[0].URL, f.Issuers[0].InsecureHTTP = "https://kc.corp.example/realms/eng", false
	p := newPlan(t.Context(), f, planning{now: time.Now(), open: keys.OpenOffline})
	defer p.close()
	if len(p.problems) > 0 {
		t.Fatal(p.problems)
	}
	if is := p.issuers[0]; is.MaxTokenAge != 10*time.Minute || len(is.Algorithms) != 3 || is.Accept != "id_token" {
		t.Errorf("age %v, algorithms %v, accepts %q: want the preset's", is.MaxTokenAge, is.Algorithms, is.Accept)
	}
	f.Issuers[0].MaxTokenAge, f.Issuers[0].Algorithms = time.Hour, []string{"RS256"}
	p = newPlan(t.Context(), f, planning{now: time.Now(), open: keys.OpenOffline})
	defer p.close()
	if is := p.issuers[0]; is.MaxTokenAge != time.Hour || len(is.Algorithms) != 1 {
		t.Errorf("age %v, algorithms %v: want the configuration's", is.MaxTokenAge, is.Algorithms)
	}
}

// TestOneTimeTokenIsUsedUpByACertificateOnly: a refusal or an outage gives it
// back.
func TestOneTimeTokenIsUsedUpByACertificateOnly(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.ruled("127.0.0.1:1", "    allow: all\n    san: email\n    one_time_tokens: true\n    may_issue: {email_domains: [corp.example]}\n")
	url, stop := s.serve(f, Options{})
	defer stop()
	token := s.token(func(c map[string]any) { c["jti"] = "once" })
	ask := func(message string) (int, string) {
		a := post(t, url+"/api/v2/signingCert", token, body(t, newKey(t), message))
		if a.status == http.StatusOK {
			return a.status, ""
		}
		code, _ := reason(t, a)
		return a.status, code
	}
	if status, code := ask("mallory"); code != "proof_invalid" {
		t.Fatalf("wrong proof: %d %q", status, code)
	}
	if status, code := ask("alice"); status != http.StatusOK {
		t.Fatalf("after a refusal: %d %q, want a certificate", status, code)
	}
	if status, code := ask("alice"); code != "token_reused" {
		t.Errorf("after a certificate: %d %q, want token_reused", status, code)
	}
}

// Before anything was signed there is no certificate to have been had, whatever
// it is that failed: after an outage of the journal the same token must do.
func TestOneTimeTokenOutlivesAnOutageOfTheJournal(t *testing.T) {
	s := newSite(t)
	s.initLog()
	rule := "    allow: all\n    san: email\n    one_time_tokens: true\n    may_issue: {email_domains: [corp.example]}\n"
	stack, err := Open(t.Context(), s.ruled("127.0.0.1:1", rule), Options{})
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	verifier := stack.current.Load().verifier
	go func() { verifier.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = stack.Close() // says that the journal is closed
	})
	s.awaitKeys(stack)
	s.must(stack.journal.Close(ctx))

	token := s.token(func(c map[string]any) { c["jti"] = "once" })
	req := httptest.NewRequest(http.MethodPost, "/api/v2/signingCert", bytes.NewReader(body(t, newKey(t), "alice")))
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	stack.server.Handler().ServeHTTP(w, req)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "audit_unavailable") {
		t.Fatalf("without a journal: %d %s, want 503 audit_unavailable", w.Code, w.Body)
	}
	if _, err := verifier.Verify(ctx, token); err != nil {
		t.Errorf("the token is used up without a certificate: %v", err)
	}
}

// Whoever waits for a reload, or has a say in when there is one, must not get a
// second certificate for a token that is good for one.
func TestReloadForgetsNoUsedToken(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	s.edit("allow: all", "one_time_tokens: true\n    allow: all")
	_, err := r.Reload(t.Context(), "test")
	s.must(err)
	token := s.token(func(c map[string]any) { c["jti"] = "once" })
	if a := ask(t, r.url, token); a.status != http.StatusOK {
		t.Fatalf("the first certificate: %d %s", a.status, a.body)
	}
	before := r.current.Load().verifier
	s.edit("audiences: [sigstore]", "audiences: [sigstore, ci]")
	_, err = r.Reload(t.Context(), "test")
	s.must(err)
	if r.current.Load().verifier == before {
		t.Fatal("the token layer was not made anew, so that this test says nothing")
	}
	if a := ask(t, r.url, token); a.status == http.StatusOK {
		t.Error("after a reload the same token got a second certificate")
	} else if code, _ := reason(t, a); code != "token_reused" {
		t.Errorf("after a reload: %d %q, want token_reused", a.status, code)
	}
}
