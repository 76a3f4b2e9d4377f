package provider

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestNewRefusesIssuersThatOthersCouldReach(t *testing.T) {
	for _, issuer := range []string{
		"", "127.0.0.1:80", "http://10.0.0.1:80", "http://0.0.0.0:80", "http://example.com", "https://127.0.0.1:80",
		"http://127.0.0.1:80/path", "http://127.0.0.1:80/", "http://127.0.0.1:80?x", "http://u@127.0.0.1:80",
	} {
		if _, err := New(Config{Issuer: issuer}); err == nil {
			t.Errorf("New with issuer %q: no error, want one", issuer)
		}
	}
}

func TestNewChecksUsers(t *testing.T) {
	const issuer = "http://127.0.0.1:1"
	for name, users := range map[string][]User{
		"no email":         {{Name: "x"}},
		"no domain":        {{Email: "x@"}},
		"same email":       {{Email: "a@b.test", Subject: "1"}, {Email: "a@b.test", Subject: "2"}},
		"same subject":     {{Email: "a@b.test", Subject: "1"}, {Email: "c@b.test", Subject: "1"}},
		"defaulted equals": {{Email: "a@b.test"}, {Email: "a@c.test"}},
	} {
		if _, err := New(Config{Issuer: issuer, Users: users}); err == nil {
			t.Errorf("%s: no error for %v, want one", name, users)
		}
	}
	p, err := New(Config{Issuer: issuer, Users: []User{{Email: "a@b.test"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := User{Email: "a@b.test", Name: "a", Subject: "demo-a", Password: "mayfly"}
	if got := p.Users(); !slices.Equal(got, []User{want}) {
		t.Errorf("defaults: got %+v, want %+v", got, want)
	}
}

// send sends a request with headers and a form.
func send(t testing.TB, method, target string, form url.Values, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestDiscoveryOffersWhatIsServedAndNoMore(t *testing.T) {
	p := serve(t, nil)
	resp := send(t, http.MethodGet, p.issuer+discoveryPath, nil)
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	for key, value := range doc {
		target, ok := value.(string)
		if !ok || key == "issuer" {
			continue
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if resp := send(t, method, target, nil); resp.StatusCode == http.StatusNotFound {
				t.Errorf("discovery has %s = %s, which %s does not find", key, target, method)
			}
		}
	}
	for key, want := range map[string][]any{
		"response_types_supported":              {"code"},
		"grant_types_supported":                 {"authorization_code", "urn:ietf:params:oauth:grant-type:device_code"},
		"code_challenge_methods_supported":      {"S256"},
		"id_token_signing_alg_values_supported": {"RS256"},
		"token_endpoint_auth_methods_supported": {"none"},
	} {
		got, _ := doc[key].([]any)
		if !slices.Equal(got, want) {
			t.Errorf("discovery: %s = %v, want %v", key, got, want)
		}
	}
	for _, path := range []string{"/userinfo", "/oauth/introspect", "/revoke", "/end_session", "/healthz", "/"} {
		if resp := send(t, http.MethodGet, p.issuer+path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: status %d, want 404", path, resp.StatusCode)
		}
	}
}

func TestTokenEndpointRefusesOtherGrants(t *testing.T) {
	p := serve(t, nil)
	for _, grant := range []string{
		"", "password", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer",
		"urn:ietf:params:oauth:grant-type:token-exchange",
	} {
		resp := send(t, http.MethodPost, p.issuer+exchangePath, url.Values{
			"grant_type": {grant}, "client_id": {ClientID}, "assertion": {"e30.e30.x"}, "refresh_token": {"x"},
			"username": {alice}, "password": {demoPassword},
		})
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("grant %q: status %d, want 4xx", grant, resp.StatusCode)
		}
	}
}

func TestUndecodableBasicCredentialsAreRefused(t *testing.T) {
	p := serve(t, nil)
	for _, path := range []string{exchangePath, deviceAuthz} {
		resp := send(t, http.MethodPost, p.issuer+path, url.Values{"grant_type": {"authorization_code"}},
			"Authorization", "Basic JXp6OiV6eg==") // %zz:%zz
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("POST %s: status %d, want 401", path, resp.StatusCode)
		}
	}
}

func TestEveryAnswerCarriesSecurityHeaders(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	login := b.mustGet(t, p.issuer+authorizePath+"?"+authorizeQuery("redirect_uri", "http://localhost:4711/auth/callback"))
	for _, target := range []string{login.url.String(), p.issuer + devicePath, p.issuer + "/nothing", p.issuer + exchangePath, p.issuer + keysPath} {
		h := send(t, http.MethodGet, target, nil, "Origin", "http://evil.example").Header
		for key, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'",
			"X-Content-Type-Options":  "nosniff",
			"X-Frame-Options":         "DENY",
			"Referrer-Policy":         "same-origin",
			"Cache-Control":           "no-store",
		} {
			if got := h.Get(key); !strings.HasPrefix(got, want) {
				t.Errorf("GET %s: %s = %q, want %q", target, key, got, want)
			}
		}
		if got := h.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("GET %s: Access-Control-Allow-Origin = %q, want none", target, got)
		}
	}
	// Browsers hold the redirects after a login to form-action.
	resp := send(t, http.MethodGet, p.issuer+loginPath+"?"+login.url.RawQuery, nil, "Cookie", cookieOf(b, p))
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasSuffix(csp, "form-action 'self' http://localhost:4711") {
		t.Errorf("login page: Content-Security-Policy = %q, want form-action to name the redirect's origin", csp)
	}
}

func cookieOf(b *browser, p *Provider) string {
	u, _ := url.Parse(p.issuer)
	return b.http.Jar.Cookies(u)[0].String()
}

func TestBrowserCookieIsOutOfReachOfScriptsAndOtherSites(t *testing.T) {
	p := serve(t, nil)
	c := send(t, http.MethodGet, p.issuer+devicePath, nil).Cookies()
	if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteLaxMode || len(c[0].Value) < 22 {
		t.Errorf("cookies of a new browser: %v, want one, HttpOnly, SameSite=Lax, unguessable", c)
	}
}

func TestDoorRefusesForeignHostsAndLongQueries(t *testing.T) {
	p := serve(t, nil)
	if resp := send(t, http.MethodGet, p.issuer+discoveryPath, nil, "Host", "rebound.example"); resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("Host: rebound.example: status %d, want 421", resp.StatusCode)
	}
	long := p.issuer + authorizePath + "?" + authorizeQuery("state", strings.Repeat("x", maxQuery))
	if resp := send(t, http.MethodGet, long, nil); resp.StatusCode != http.StatusRequestURITooLong {
		t.Errorf("query of %d bytes: status %d, want 414", len(long), resp.StatusCode)
	}
	padded := redeemForm(obtainCode(t, p), testVerifier)
	padded.Set("zzz", strings.Repeat("x", maxBody)) // encoded last
	if resp := send(t, http.MethodPost, p.issuer+exchangePath, padded); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("good redemption in a body above %d bytes: status %d, want 400", maxBody, resp.StatusCode)
	}
}

func TestFormsTakePostsFromOwnPagesOnly(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	login := openLogin(t, p, b, alice, demoPassword)
	_, _, page := startDevice(t, p)
	device, err := parseForm(b.mustGet(t, page), "sign-in")
	if err != nil {
		t.Fatal(err)
	}
	device.fields.Set("email", alice)
	device.fields.Set("password", demoPassword)
	cookie := cookieOf(b, p)
	for _, f := range []form{login, device} {
		noToken, otherToken := maps.Clone(f.fields), maps.Clone(f.fields)
		noToken.Del("token")
		otherToken.Set("token", strings.Repeat("A", 43))
		for name, resp := range map[string]*http.Response{
			"other site":   send(t, http.MethodPost, f.action, f.fields, "Cookie", cookie, "Sec-Fetch-Site", "cross-site"),
			"same site":    send(t, http.MethodPost, f.action, f.fields, "Cookie", cookie, "Sec-Fetch-Site", "same-site"),
			"other origin": send(t, http.MethodPost, f.action, f.fields, "Cookie", cookie, "Origin", "http://evil.example"),
			"no token":     send(t, http.MethodPost, f.action, noToken, "Cookie", cookie),
			"other token":  send(t, http.MethodPost, f.action, otherToken, "Cookie", cookie),
			"no cookie":    send(t, http.MethodPost, f.action, f.fields),
		} {
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s posted with %s: status %d, want 403", f.action, name, resp.StatusCode)
			}
		}
		own := send(t, http.MethodPost, f.action, f.fields, "Cookie", cookie, "Sec-Fetch-Site", "same-origin", "Origin", p.issuer)
		if own.StatusCode >= 400 {
			t.Errorf("%s posted from the page itself: status %d, want success", f.action, own.StatusCode)
		}
	}
}

func TestPagesEscapeWhatComesIn(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	const hostile = `"><script>alert(1)</script>`
	for _, target := range []string{
		p.issuer + devicePath + "?user_code=" + url.QueryEscape(hostile),
		p.issuer + loginPath + "?id=" + url.QueryEscape(hostile),
		p.issuer + authorizePath + "?" + authorizeQuery("login_hint", hostile),
	} {
		if a := b.mustGet(t, target); strings.Contains(string(a.body), "<script") {
			t.Errorf("GET %s: markup came back unescaped\n%s", target, a.body)
		}
	}
}
