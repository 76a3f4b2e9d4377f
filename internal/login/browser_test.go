package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestBrowserLoginYieldsCheckedToken(t *testing.T) {
	f := newFake(t)
	f.discovery = func(d claims) { d["authorization_response_iss_parameter_supported"] = true }
	f.callback = func(q url.Values) { q.Set("iss", f.issuer) }
	messages := new(lockedBuffer)
	cfg := f.config()
	cfg.Messages = messages
	token, err := Acquire(t.Context(), cfg)
	if err != nil {
		t.Fatalf("login: %v", err)
	}
	if token.Issuer() != f.issuer || token.Subject() != "3f0c7e0e" || token.Email() != "alice@corp.example" {
		t.Errorf("token of %s, %s, %s; want alice's of %s", token.Issuer(), token.Subject(), token.Email(), f.issuer)
	}
	q := f.authorize
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "sigstore", "scope": "openid email", "code_challenge_method": "S256",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("authorization request: %s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) != 43 {
			t.Errorf("authorization request: %s is %q, want 256 bits", name, q.Get(name))
		}
	}
	if r, err := url.Parse(q.Get("redirect_uri")); err != nil || r.Hostname() != "127.0.0.1" || r.Path != "/auth/callback" {
		t.Errorf("redirect_uri is %q, want http://127.0.0.1:PORT/auth/callback", q.Get("redirect_uri"))
	}
	for _, secret := range []string{token.Raw(), f.redeemed[0].Get("code_verifier"), "code-1", "not-for-you"} {
		if strings.Contains(messages.String(), secret) {
			t.Errorf("the messages hold the secret %q:\n%s", secret, messages)
		}
	}
	for _, fact := range []string{f.issuer, "3f0c7e0e", "alice@corp.example", "expires"} {
		if !strings.Contains(messages.String(), fact) {
			t.Errorf("the messages do not tell %q:\n%s", fact, messages)
		}
	}
}

// TestBrowserLoginRefuses holds what a hostile or broken provider, or somebody
// else on the machine, may send.
func TestBrowserLoginRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(f *fake)
		want   string
	}{
		"foreign state":    {func(f *fake) { f.callback = func(q url.Values) { q.Set("state", "other") } }, "does not belong to this login"},
		"no state":         {func(f *fake) { f.callback = func(q url.Values) { q.Del("state") } }, "does not belong to this login"},
		"state twice":      {func(f *fake) { f.callback = func(q url.Values) { q.Add("state", q.Get("state")) } }, "state 2 times"},
		"two codes":        {func(f *fake) { f.callback = func(q url.Values) { q.Add("code", "code-2") } }, "code 2 times"},
		"no code":          {func(f *fake) { f.callback = func(q url.Values) { q.Del("code") } }, "neither a code nor an error"},
		"mix-up":           {func(f *fake) { f.callback = func(q url.Values) { q.Set("iss", "https://evil.example") } }, "comes from https://evil.example"},
		"error":            {func(f *fake) { f.callback = func(q url.Values) { q.Set("error", "access_denied") } }, "access_denied"},
		"error with codes": {func(f *fake) { f.callback = func(q url.Values) { q.Set("error", "x\x1b[2J\nok") } }, "x?[2J?ok"},
		"iss promised and absent": {func(f *fake) {
			f.discovery = func(d claims) { d["authorization_response_iss_parameter_supported"] = true }
		}, "which provider it comes from"},
		"other issuer":         {func(f *fake) { f.discovery = func(d claims) { d["issuer"] = f.issuer + "/" } }, "calls itself"},
		"authorize by file":    {func(f *fake) { f.discovery = func(d claims) { d["authorization_endpoint"] = "file:///etc/passwd" } }, "authorization endpoint"},
		"authorize in clear":   {func(f *fake) { f.discovery = func(d claims) { d["authorization_endpoint"] = "http://idp.example/a" } }, "plain http"},
		"token in clear":       {func(f *fake) { f.discovery = func(d claims) { d["token_endpoint"] = "http://idp.example/t" } }, "plain http"},
		"no token endpoint":    {func(f *fake) { f.discovery = func(d claims) { delete(d, "token_endpoint") } }, "token endpoint"},
		"nonce of another":     {func(f *fake) { f.token = func(c claims) { c["nonce"] = "other" } }, "another nonce"},
		"no nonce":             {func(f *fake) { f.token = func(c claims) { delete(c, "nonce") } }, "another nonce"},
		"nonce is no string":   {func(f *fake) { f.token = func(c claims) { c["nonce"] = []string{"x"} } }, "another nonce"},
		"issuer of another":    {func(f *fake) { f.token = func(c claims) { c["iss"] = "https://evil.example" } }, "of issuer https://evil.example"},
		"audience of another":  {func(f *fake) { f.token = func(c claims) { c["aud"] = "other" } }, "not for the client sigstore"},
		"audience is no text":  {func(f *fake) { f.token = func(c claims) { c["aud"] = 7 } }, "no audience"},
		"made for another":     {func(f *fake) { f.token = func(c claims) { c["azp"] = "other" } }, "made for the client other"},
		"expired":              {func(f *fake) { f.token = func(c claims) { c["exp"] = f.now().Unix() } }, "expired at"},
		"no expiry":            {func(f *fake) { f.token = func(c claims) { delete(c, "exp") } }, "no expiry"},
		"expiry is text":       {func(f *fake) { f.token = func(c claims) { c["exp"] = "9999999999" } }, "no expiry"},
		"from the future":      {func(f *fake) { f.token = func(c claims) { c["iat"] = f.now().Add(time.Hour).Unix() } }, "in the future"},
		"no subject":           {func(f *fake) { f.token = func(c claims) { c["sub"] = "" } }, "no subject"},
		"no ID token":          {func(f *fake) { f.answer = says(200, `{"access_token":"a.b.c"}`) }, "no ID token"},
		"encrypted":            {func(f *fake) { f.answer = says(200, `{"id_token":"a.b.c.d.e"}`) }, "encrypted"},
		"shell command":        {func(f *fake) { f.answer = says(200, `{"id_token":"e30.e30.eA\nreboot"}`) }, "characters that no JWT has"},
		"unsigned":             {func(f *fake) { f.answer = says(200, `{"id_token":"eyJhbGciOiJub25lIn0.e30.eA"}`) }, `signed with "none"`},
		"symmetric":            {func(f *fake) { f.answer = says(200, `{"id_token":"eyJhbGciOiJIUzI1NiJ9.e30.eA"}`) }, `signed with "HS256"`},
		"duplicate members":    {func(f *fake) { f.answer = says(200, `{"id_token":"a.b.c","id_token":"d.e.f"}`) }, "twice"},
		"not JSON":             {func(f *fake) { f.answer = says(200, "<html>") }, "not JSON"},
		"redirected":           {func(f *fake) { f.answer = redirects("https://evil.example") }, "status 307"},
		"server error":         {func(f *fake) { f.answer = says(500, "boom") }, "status 500"},
		"endless answer":       {func(f *fake) { f.answer = says(200, strings.Repeat(" ", 2<<20)) }, "longer than"},
		"refused with secrets": {func(f *fake) { f.answer = says(400, `{"error":"invalid_grant"}`) }, "invalid_grant"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			now := time.Now().Truncate(time.Second)
			f.now = func() time.Time { return now }
			test.change(f)
			token, err := Acquire(t.Context(), f.config())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("login: error %v, want one that says %q", err, test.want)
			}
			if token.Raw() != "" {
				t.Errorf("a token was handed out all the same")
			}
			for _, form := range f.redeemed {
				for _, secret := range []string{form.Get("code_verifier"), form.Get("code")} {
					if err != nil && strings.Contains(err.Error(), secret) {
						t.Errorf("the error holds the secret %q: %v", secret, err)
					}
				}
			}
		})
	}
}

func says(status int, body string) func(http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

func redirects(to string) func(http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
}

func TestStepUpIsAskedForAndChecked(t *testing.T) {
	for name, test := range map[string]struct {
		change func(f *fake, c claims)
		want   string // empty: the token is handed out
	}{
		"as asked":             {func(f *fake, c claims) { c["acr"], c["auth_time"] = "gold", f.now().Unix()-10 }, ""},
		"within the skew":      {func(f *fake, c claims) { c["acr"], c["auth_time"] = "mfa", f.now().Unix()-319 }, ""},
		"lower level":          {func(f *fake, c claims) { c["acr"], c["auth_time"] = "1", f.now().Unix() }, `acr "1", want mfa, gold`},
		"no level":             {func(f *fake, c claims) { c["auth_time"] = f.now().Unix() }, `acr ""`},
		"level in a list":      {func(f *fake, c claims) { c["acr"], c["auth_time"] = []string{"mfa"}, f.now().Unix() }, `acr ""`},
		"old session":          {func(f *fake, c claims) { c["acr"], c["auth_time"] = "mfa", f.now().Unix()-332 }, "ignored max_age"},
		"no time":              {func(_ *fake, c claims) { c["acr"] = "mfa" }, "auth_time"},
		"time is not a number": {func(_ *fake, c claims) { c["acr"], c["auth_time"] = "mfa", "now" }, "auth_time"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			now := time.Now()
			f.now = func() time.Time { return now }
			f.discovery = func(d claims) { d["claims_parameter_supported"] = true }
			f.token = func(c claims) { test.change(f, c) }
			cfg := f.config()
			cfg.MaxAge, cfg.ACR = 5*time.Minute, []string{"mfa", "gold"}
			_, err := Acquire(t.Context(), cfg)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("login: error %v, want %q", err, test.want)
			}
			for name, want := range map[string]string{
				"max_age": "300", "acr_values": "mfa gold",
				"claims": `{"id_token":{"acr":{"essential":true,"values":["mfa","gold"]}}}`,
			} {
				if got := f.authorize.Get(name); got != want {
					t.Errorf("authorization request: %s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestCallbackAnswersOnce: whatever else knocks at the port changes nothing, and
// nothing that came with a request is shown.
func TestCallbackAnswersOnce(t *testing.T) {
	c, err := listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if !strings.HasPrefix(c.redirect, "http://localhost:") {
		t.Fatalf("redirect URI %q, want the host that was configured", c.redirect)
	}
	for _, knock := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/", "", 404},
		{"GET", "/favicon.ico", "", 404},
		{"GET", "/auth/callback/?state=x", "", 404},
		{"POST", callbackPath + "?state=x", "", 405},
		{"HEAD", callbackPath + "?state=x", "", 405},
		{"GET", callbackPath + "?state=rebound", "evil.example", 404},
		{"GET", callbackPath + "?state=<b>s", "", 200},
		{"GET", callbackPath + "?state=again", "", 410},
	} {
		req, err := http.NewRequestWithContext(t.Context(), knock.method, "http://"+c.host+knock.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = knock.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", knock.method, knock.path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != knock.want {
			t.Errorf("%s %s for host %q: status %d, want %d", knock.method, knock.path, knock.host, resp.StatusCode, knock.want)
		}
		if strings.Contains(string(body), "<b>") || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: the page shows what was sent, or may be kept: %q %v", knock.method, knock.path, body, resp.Header)
		}
	}
	q, err := c.wait(t.Context())
	if err != nil || q.Get("state") != "<b>s" {
		t.Errorf("the answer is %v, error %v; want that of the first proper request", q, err)
	}
}

func TestCallbackTakesBothLoopbackAddressesOrNone(t *testing.T) {
	c, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if other, err := listen(t.Context(), c.host); err == nil {
		other.close()
		t.Errorf("a second login listens at %s too", c.host)
	}
	_, port, err := net.SplitHostPort(c.host)
	if err != nil {
		t.Fatal(err)
	}
	if ln, err := net.Listen("tcp", net.JoinHostPort("::1", port)); err == nil {
		ln.Close()
		t.Errorf("another program can listen at port %s of ::1", port)
	}
	for _, bad := range []string{"0.0.0.0:0", "192.0.2.1:0", "corp.example:0", "127.0.0.1", ":0", ""} {
		if other, err := listen(t.Context(), bad); err == nil {
			other.close()
			t.Errorf("callback %q: no error, want one", bad)
		}
	}
}

func TestLoginEndsWithItsContext(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cfg := f.config()
	shown := ""
	cfg.OpenBrowser = func(_ context.Context, address string) error {
		shown = address
		cancel(errors.New("the user pressed Ctrl-C"))
		return nil
	}
	if _, err := Acquire(ctx, cfg); err == nil || !strings.Contains(err.Error(), "Ctrl-C") {
		t.Errorf("cancelled login: error %v, want the cause", err)
	}
	u, err := url.Parse(shown)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := (&http.Client{Timeout: time.Minute}).Get(u.Query().Get("redirect_uri")); err == nil {
		resp.Body.Close()
		t.Errorf("after the login, its callback still answers with %d", resp.StatusCode)
	}
	cfg.OpenBrowser, cfg.Timeout = nil, time.Millisecond
	if _, err := Acquire(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no token after 1ms") {
		t.Errorf("login past its deadline: error %v, want one that says so", err)
	}
}

func TestABrowserThatDoesNotOpenIsNoEnd(t *testing.T) {
	f := newFake(t)
	cfg := f.config()
	cfg.OpenBrowser = func(ctx context.Context, address string) error {
		_ = visit(ctx, address) // the user does it by hand
		return errors.New("there is no xdg-open")
	}
	if _, err := Acquire(t.Context(), cfg); err != nil {
		t.Errorf("login: %v", err)
	}
}

func TestClientCredentials(t *testing.T) {
	f := newFake(t)
	f.secret = "p&ss: wörd"
	cfg := f.config()
	cfg.Flow, cfg.ClientSecret = FlowClientCredentials, f.secret
	token, err := Acquire(t.Context(), cfg)
	if err != nil || token.Subject() == "" {
		t.Fatalf("client credentials: %v, %v", token, err)
	}
	cfg.ClientSecret = "wrong"
	if _, err := Acquire(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "invalid_client") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong secret: error %v, want invalid_client, without the secret", err)
	}
}

// TestProviderBehindPrivateCA: stock clients cannot be told of its roots.
func TestProviderBehindPrivateCA(t *testing.T) {
	f := &fake{t: t, now: time.Now, secret: "s"}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	f.issuer = server.URL
	cfg := f.config()
	cfg.Flow, cfg.ClientSecret = FlowClientCredentials, f.secret
	if _, err := Acquire(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "certificate") || len(f.redeemed) != 0 {
		t.Errorf("unknown root: error %v, %d requests; want a refusal", err, len(f.redeemed))
	}
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(server.Certificate())
	if _, err := Acquire(t.Context(), cfg); err != nil {
		t.Errorf("known root: %v", err)
	}
}

// TestOldTLSIsRefused: what is sent may be a secret.
func TestOldTLSIsRefused(t *testing.T) {
	f := &fake{t: t, now: time.Now}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	server.StartTLS()
	defer server.Close()
	f.issuer = server.URL
	cfg := f.config()
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(server.Certificate())
	if _, err := Acquire(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("TLS 1.1: error %v, want a refusal", err)
	}
}
