package login

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTokenNeverShowsItselfUnasked(t *testing.T) {
	token, err := parseToken(ciToken(nil))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("login", "token", token)
	for _, text := range []string{
		fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), fmt.Sprint(&token), log.String(),
	} {
		if strings.Contains(text, token.Raw()) || strings.Contains(text, "eyJ") {
			t.Errorf("the token shows itself: %s", text)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no provider":            {Flow: FlowBrowser},
		"provider in clear":      {Issuer: "http://idp.example"},
		"service in clear":       {Server: "http://ca.example"},
		"not a URL":              {Issuer: "idp.example"},
		"flow":                   {Flow: "password"},
		"scopes":                 {Scopes: []string{"email"}},
		"age in fractions":       {MaxAge: time.Millisecond},
		"negative age":           {MaxAge: -time.Second},
		"negative timeout":       {Timeout: -1},
		"fresh login of a job":   {Flow: FlowAmbient, MaxAge: time.Second},
		"client without secret":  {Flow: FlowClientCredentials},
		"file for another flow":  {Flow: FlowDevice, TokenFile: "x"},
		"credentials in the URL": {Issuer: "https://user:password@idp.example"},
	} {
		cfg.Getenv = none
		cfg.Transport = direct{} // a request would panic
		if _, err := Acquire(t.Context(), cfg); err == nil || strings.Contains(err.Error(), "password@") {
			t.Errorf("%s: error %v, want one", name, err)
		}
	}
}

func TestFactsWarn(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		change claims
		want   string
	}{
		"soon over":           {claims{"exp": now.Unix() + 20}, "expires very soon"},
		"email not verified":  {claims{"email": "a@corp.example"}, "email_verified"},
		"verified as text":    {claims{"email": "a@corp.example", "email_verified": "true"}, "email_verified"},
		"subject of escapes":  {claims{"sub": "a\x1b]0;x\x07b"}, "a?]0;x?b"},
		"audience in a list":  {claims{"aud": []string{"a", "b"}}, "a, b"},
		"verified: no reason": {claims{"email": "a@corp.example", "email_verified": true}, ""},
	} {
		token, err := parseToken(ciToken(test.change))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(token.facts(now), "\n")
		if !strings.Contains(text, test.want) || test.want == "" && strings.Contains(text, "warning") {
			t.Errorf("%s: facts\n%s\nwant %q", name, text, test.want)
		}
	}
}

// FuzzParseToken: whatever is taken for a token can stand in a shell command and
// in a header, and shows nothing that a terminal would obey.
func FuzzParseToken(f *testing.F) {
	f.Add(ciToken(nil))
	f.Add(ciToken(claims{"sub": "\x1b[2J", "aud": []string{"a", "b"}}))
	f.Add("a.b.c.d.e")
	f.Add("eyJhbGciOiJub25lIn0.e30.eA")
	f.Fuzz(func(t *testing.T, raw string) {
		token, err := parseToken(raw)
		if err != nil {
			return
		}
		for _, c := range raw {
			if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", c) {
				t.Errorf("token %q accepted with %q", raw, c)
			}
		}
		for _, line := range token.facts(time.Unix(0, 0)) {
			if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
				t.Errorf("token %q: the facts hold %q", raw, line[i])
			}
		}
	})
}
