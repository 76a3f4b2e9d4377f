package stack

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// shortForm is what follows an issuer's audiences: more keys, and who may.
func shortForm(more string) string {
	return more + "    allow: all\n    san: email\n    may_issue: {email_domains: [corp.example]}\n"
}

// ask requests a certificate for alice and returns the status and the answer.
func ask(t *testing.T, url, token string) answer {
	t.Helper()
	return post(t, url+"/api/v2/signingCert", token, body(t, newKey(t), "alice@corp.example"))
}

func TestRequiredScopesMustAllBeGranted(t *testing.T) {
	s := newSite(t)
	s.initLog()
	f := s.ruled("127.0.0.1:1", shortForm("    accept: access_token\n    authorized_parties: [cli]\n    required_scopes: [sign, code]\n"))
	if problems := Check(f, time.Now()); len(problems) > 0 {
		t.Fatal(problems)
	}
	url, stop := s.serve(f, Options{})
	defer stop()
	for name, tc := range map[string]struct {
		claims map[string]any
		status int
	}{
		"both":              {map[string]any{"scope": "openid code sign"}, http.StatusOK},
		"both in scp":       {map[string]any{"scp": []string{"sign", "code"}}, http.StatusOK},
		"one":               {map[string]any{"scope": "openid sign"}, http.StatusForbidden},
		"part of a word":    {map[string]any{"scope": "sign codeword"}, http.StatusForbidden},
		"in other capitals": {map[string]any{"scope": "sign Code"}, http.StatusForbidden},
		"none":              {map[string]any{"scope": ""}, http.StatusForbidden},
	} {
		token := s.token(func(c map[string]any) {
			c["azp"] = "cli"
			for k, v := range tc.claims {
				c[k] = v
			}
		})
		if got := ask(t, url, token); got.status != tc.status {
			t.Errorf("%s: status %d, want %d: %s", name, got.status, tc.status, got.body)
		}
	}
}

// Where keys are fetched on schedule only, a token under an unknown key is no
// reason to ask the provider, which it is otherwise.
func TestRefreshOnlyOnSchedule(t *testing.T) {
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]bool{"": true, "    refresh_only_on_schedule: true\n": false} {
		s := newSite(t)
		s.initLog()
		url, stop := s.serve(s.ruled("127.0.0.1:1", shortForm(more)), Options{})
		known := s.token(nil)
		s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: stranger, KeyID: "k2"}}, nil)
		s.must(err)
		before := s.requests.Load()
		if got := ask(t, url, s.token(nil)); got.status != http.StatusBadRequest {
			t.Errorf("with %q: status %d, want 400: %s", more, got.status, got.body)
		}
		if asked := s.requests.Load() > before; asked != want {
			t.Errorf("with %q: the provider was asked: %v, want %v", more, asked, want)
		}
		if got := ask(t, url, known); got.status != http.StatusOK {
			t.Errorf("with %q: a token under a known key: status %d: %s", more, got.status, got.body)
		}
		stop()
	}
}
