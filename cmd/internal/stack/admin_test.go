package stack

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/freeze"
)

// admin asks the administration socket of the site's service.
func (s *site) admin(method string, e any) (status int, answer string) {
	s.t.Helper()
	data, err := json.Marshal(e)
	s.must(err)
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://mayfly/v1/freeze", bytes.NewReader(data))
	s.must(err)
	resp, err := AdminClient(s.socket()).Do(req)
	s.must(err)
	defer func() { s.must(resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	s.must(err)
	return resp.StatusCode, string(text)
}

func TestFreezeStopsTheNextRequestAndSurvivesARestart(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	ask := func(url string) answer {
		return post(t, url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice"))
	}
	if a := ask(r.url); a.status != http.StatusOK {
		t.Fatalf("before: %d %s", a.status, a.body)
	}
	alice := freeze.Entry{Kind: freeze.Identity, Value: "alice@corp.example", Note: "laptop stolen"}
	if status, text := s.admin(http.MethodPost, alice); status != http.StatusOK {
		t.Fatalf("freezing: %d %s", status, text)
	}
	a := ask(r.url)
	if code, message := reason(t, a); a.status != http.StatusForbidden || code != "frozen" || strings.Contains(message, "laptop") {
		t.Errorf("frozen: %d %q %q; the client must not read the note", a.status, code, message)
	}
	s.must(r.stop())
	r = s.run("")
	if a := ask(r.url); a.status != http.StatusForbidden {
		t.Errorf("after a restart: %d", a.status)
	}
	if status, text := s.admin(http.MethodDelete, alice); status != http.StatusOK {
		t.Fatalf("thawing: %d %s", status, text)
	}
	if a := ask(r.url); a.status != http.StatusOK {
		t.Errorf("thawed: %d %s", a.status, a.body)
	}
	if status, _ := s.admin(http.MethodDelete, alice); status != http.StatusConflict {
		t.Errorf("thawing twice: %d", status)
	}
	s.must(r.stop())
	journal := s.journal()
	for _, want := range []string{`"kind":"freeze"`, `"kind":"unfreeze"`, `laptop stolen`, `"frozen"`} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal has no %s", want)
		}
	}
}

// A reload keeps what is frozen, and says when a new name takes an issuer out of it.
func TestFreezeOutlastsReloads(t *testing.T) {
	s := newSite(t)
	s.initLog()
	log := new(lockedBuffer)
	r := s.reloading(Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	reload := func(oldnew ...string) {
		t.Helper()
		s.edit(oldnew...)
		_, err := r.Reload(t.Context(), "test")
		s.must(err)
		if code, _ := reason(t, ask(t, r.url, s.token(nil))); code != "frozen" {
			t.Errorf("with %q: %q, want frozen", oldnew, code)
		}
	}
	for _, e := range []freeze.Entry{{Kind: freeze.Identity, Value: "alice@corp.example"}, {Kind: freeze.Issuer, Value: "people"}} {
		if status, text := s.admin(http.MethodPost, e); status != http.StatusOK {
			t.Fatalf("freezing: %d %s", status, text)
		}
	}
	const warning = "if it was renamed, freeze it by its new name"
	reload("audiences: [sigstore]", "audiences: [sigstore, ci]")
	reload("name: people", "name: staff") // alice stays frozen
	s.must(r.stop())
	if !strings.Contains(log.buf.String(), warning) {
		t.Errorf("the log does not say that the frozen issuer has another name:\n%s", log.buf.String())
	}
}

// In the night of a theft, a slip in the issuer's name must not read "frozen".
func TestFreezeRefusesAnIssuerThatThereIsNot(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	for name, e := range map[string]freeze.Entry{
		"issuer":             {Kind: freeze.Issuer, Value: "poeple"},
		"issuer by its URL":  {Kind: freeze.Issuer, Value: s.issuer.URL},
		"issuer in capitals": {Kind: freeze.Issuer, Value: "People"},
		"identity at it":     {Kind: freeze.Identity, Value: "alice@corp.example", Issuer: "poeple"},
	} {
		status, text := s.admin(http.MethodPost, e)
		if status != http.StatusConflict || !strings.Contains(text, "people") {
			t.Errorf("%s: %d %s, want 409 and the names of the issuers", name, status, text)
		}
	}
	if status, text := s.admin(http.MethodPost, freeze.Entry{Kind: freeze.Issuer, Value: "people"}); status != http.StatusOK {
		t.Errorf("the issuer itself: %d %s", status, text)
	}
	if a := post(t, r.url+"/api/v2/signingCert", s.token(nil), body(t, newKey(t), "alice")); a.status != http.StatusForbidden {
		t.Errorf("a token of the frozen issuer: %d %s", a.status, a.body)
	}
	s.must(r.stop())
}

func TestAdminSocketIsForItsOwnerOnly(t *testing.T) {
	s := newSite(t)
	s.initLog()
	state := filepath.Join(s.dir, "state")
	s.must(os.WriteFile(s.socket(), nil, 0o666)) // left behind, and open to all
	r := s.run("")
	info, err := os.Stat(s.socket())
	s.must(err)
	if info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("mode %v, want a socket with 0600", info.Mode())
	}
	leftovers, err := filepath.Glob(filepath.Join(state, ".admin-*"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left behind: %v, %v", leftovers, err)
	}
	for name, e := range map[string]any{
		"unknown kind": freeze.Entry{Kind: "group", Value: "x"}, "unknown member": map[string]string{"kind": "issuer", "value": "x", "until": "2030"}, "no object": "x",
	} {
		if status, _ := s.admin(http.MethodPost, e); status < 400 {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if a := post(t, r.url+"/v1/freeze", "", []byte(`{"kind":"issuer","value":"people"}`)); a.status != http.StatusNotFound {
		t.Errorf("the public port answers administrators: %d", a.status)
	}
}

func TestExplainTellsTokenAndPolicyApart(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.run("")
	ask := func(token string) (e Explanation) {
		data, err := json.Marshal(map[string]string{"token": token})
		s.must(err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://mayfly/v1/explain", bytes.NewReader(data))
		s.must(err)
		resp, err := AdminClient(s.socket()).Do(req)
		s.must(err)
		defer func() { s.must(resp.Body.Close()) }()
		text, err := io.ReadAll(resp.Body)
		s.must(err)
		if strings.Contains(string(text), "eyJ") {
			t.Errorf("the answer holds a piece of the token: %s", text)
		}
		s.must(json.Unmarshal(text, &e))
		return e
	}
	if e := ask(s.token(nil)); e.Policy == nil || !e.Policy.Allowed || e.Policy.SAN != "alice@corp.example" || !e.Verified {
		t.Errorf("a good token: %+v", e)
	}
	if e := ask(s.token(func(c map[string]any) { c["email"] = "a@evil.example" })); e.Policy == nil || e.Policy.Allowed || e.Policy.Reason != "san_not_allowed" {
		t.Errorf("a name of others: %+v", e)
	}
	if e := ask(s.token(func(c map[string]any) { c["aud"] = "other" })); e.Policy != nil || e.TokenReason != "aud" {
		t.Errorf("a token for others: %+v", e)
	}
	// Whoever has frozen somebody looks here whether it worked.
	if status, text := s.admin(http.MethodPost, freeze.Entry{Kind: freeze.Identity, Value: "alice@corp.example", Note: "laptop stolen"}); status != http.StatusOK {
		t.Fatalf("freezing: %d %s", status, text)
	}
	if e := ask(s.token(nil)); e.Allowed() || e.Policy == nil || !e.Policy.Allowed || !strings.Contains(e.String(), "laptop stolen") {
		t.Errorf("a good token of somebody frozen: %+v, want policy's yes, and the freeze", e)
	}
	if e := ask(s.token(func(c map[string]any) { c["sub"], c["email"] = "bob", "bob@corp.example" })); !e.Allowed() {
		t.Errorf("a good token of somebody else: %+v", e)
	}
	s.must(r.stop())
	if got := s.report(); got.Intents != 1 { // that of the self-test
		t.Error("explaining left an intent in the journal")
	}
}
