package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
)

// clock is a settable clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// serve runs a provider on loopback.
func serve(t testing.TB, now func() time.Time) *Provider {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	p, err := New(Config{Issuer: "http://" + srv.Listener.Addr().String(), Clock: now})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	srv.Config.Handler = p.Handler()
	srv.Start()
	t.Cleanup(srv.Close)
	return p
}

const (
	testVerifier = "a-verifier-of-at-least-forty-three-characters-0123"
	alice        = "alice@demo.mayfly.test"
)

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorizeQuery is a well-formed authorization request, with changes: pairs of
// a key and its value, "" for absent.
func authorizeQuery(changes ...string) string {
	q := url.Values{
		"client_id":             {ClientID},
		"redirect_uri":          {signInRedirect},
		"response_type":         {"code"},
		"scope":                 {"openid email"},
		"state":                 {"the-state"},
		"nonce":                 {"the-nonce"},
		"code_challenge":        {challengeOf(testVerifier)},
		"code_challenge_method": {"S256"},
	}
	for i := 0; i < len(changes); i += 2 {
		if q.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			q.Del(changes[i])
		}
	}
	return q.Encode()
}

func testBrowser(t testing.TB) *browser {
	t.Helper()
	b, err := newBrowser(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *browser) mustGet(t testing.TB, target string) answer {
	t.Helper()
	a, err := b.get(t.Context(), target)
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	return a
}

func (b *browser) mustPost(t testing.TB, target string, f url.Values) answer {
	t.Helper()
	a, err := b.post(t.Context(), target, f)
	if err != nil {
		t.Fatalf("POST %s: %v", target, err)
	}
	return a
}

// openLogin starts a sign-in and returns the filled-in form of its login page.
func openLogin(t testing.TB, p *Provider, b *browser, email, password string) form {
	t.Helper()
	page := b.mustGet(t, p.issuer+authorizePath+"?"+authorizeQuery())
	f, err := parseForm(page, "sign-in")
	if err != nil {
		t.Fatalf("login page: %v\n%s", err, page.body)
	}
	f.fields.Set("email", email)
	f.fields.Set("password", password)
	return f
}

// obtainCode signs alice in and returns her code.
func obtainCode(t testing.TB, p *Provider) string {
	t.Helper()
	b := testBrowser(t)
	f := openLogin(t, p, b, alice, demoPassword)
	code, err := codeFrom(b.mustPost(t, f.action, f.fields), "the-state")
	if err != nil || code == "" {
		t.Fatalf("signing in: code %q, error %v", code, err)
	}
	return code
}

func redeemForm(code, verifier string) url.Values {
	return url.Values{
		"grant_type":    {"authorization_code"},
		"client_id":     {ClientID},
		"redirect_uri":  {signInRedirect},
		"code":          {code},
		"code_verifier": {verifier},
	}
}

// oauthError reads the error code of an OAuth answer.
func oauthError(t testing.TB, a answer) string {
	t.Helper()
	var e struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(a.body, &e); err != nil {
		t.Fatalf("answer %d is not JSON: %v\n%s", a.status, err, a.body)
	}
	return e.Error
}

// verified verifies a token as a relying party would, keys fetched over HTTP.
func verified(t testing.TB, p *Provider, token string, now time.Time) (*gooidc.IDToken, map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	rp, err := gooidc.NewProvider(ctx, p.issuer)
	if err != nil {
		t.Fatalf("discovery by go-oidc: %v", err)
	}
	idToken, err := rp.Verifier(&gooidc.Config{
		ClientID: ClientID, Now: func() time.Time { return now },
	}).Verify(ctx, token)
	if err != nil {
		t.Fatalf("verification by go-oidc: %v", err)
	}
	var claims map[string]any
	if err := idToken.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	return idToken, claims
}

func TestSignInYieldsTokenThatVerifies(t *testing.T) {
	p := serve(t, nil)
	for _, u := range p.Users() {
		token, err := p.SignIn(t.Context(), http.DefaultClient, u.Email)
		if err != nil {
			t.Fatalf("SignIn(%s): %v", u.Email, err)
		}
		idToken, claims := verified(t, p, token, time.Now())
		for claim, want := range map[string]any{
			"iss": p.issuer, "sub": u.Subject, "azp": ClientID, "email": u.Email, "email_verified": true,
		} {
			if claims[claim] != want {
				t.Errorf("token of %s: claim %s = %v, want %v", u.Email, claim, claims[claim], want)
			}
		}
		if len(idToken.Audience) != 1 || idToken.Audience[0] != ClientID {
			t.Errorf("token of %s: aud = %q, want [%q]", u.Email, idToken.Audience, ClientID)
		}
		if life := idToken.Expiry.Sub(idToken.IssuedAt); life < TokenLifetime-time.Second || life > TokenLifetime+time.Second {
			t.Errorf("token of %s: lives %s, want %s", u.Email, life, TokenLifetime)
		}
		if nonce, _ := claims["nonce"].(string); len(nonce) < 22 {
			t.Errorf("token of %s: nonce = %q, want the request's", u.Email, nonce)
		}
	}
}

func TestSignInRefusesUnknownUser(t *testing.T) {
	p := serve(t, nil)
	if token, err := p.SignIn(t.Context(), nil, "eve@demo.mayfly.test"); err == nil {
		t.Errorf("SignIn(eve) = %q, want an error", token)
	}
}

func TestTokenIsStampedByInjectedClock(t *testing.T) {
	for _, now := range []time.Time{
		time.Date(2019, 3, 4, 5, 6, 7, 0, time.UTC),
		time.Date(2041, 3, 4, 5, 6, 7, 0, time.UTC),
	} {
		p := serve(t, func() time.Time { return now })
		token, err := p.SignIn(t.Context(), nil, alice)
		if err != nil {
			t.Fatalf("SignIn at %s: %v", now, err)
		}
		idToken, claims := verified(t, p, token, now)
		if got := idToken.IssuedAt.Sub(now); got < 0 || got > time.Second {
			t.Errorf("clock at %s: iat is %s away", now, got)
		}
		if got := idToken.Expiry.Sub(now); got < TokenLifetime-time.Second || got > TokenLifetime+time.Second {
			t.Errorf("clock at %s: exp is %s away, want %s", now, got, TokenLifetime)
		}
		authTime, _ := claims["auth_time"].(float64)
		if got := int64(authTime) - now.Unix(); got < -1 || got > 1 {
			t.Errorf("clock at %s: auth_time is %d s away", now, got)
		}
	}
}

func TestWrongPasswordGetsThePageAgain(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	for _, c := range []struct{ email, password string }{
		{alice, "wrong"}, {alice, ""}, {"nobody@demo.mayfly.test", demoPassword}, {"", ""},
	} {
		f := openLogin(t, p, b, c.email, c.password)
		a := b.mustPost(t, f.action, f.fields)
		if a.status != http.StatusUnauthorized || !strings.Contains(string(a.body), "Email or password is wrong.") {
			t.Errorf("login as %q with %q: status %d, want 401 and a message\n%s", c.email, c.password, a.status, a.body)
		}
		// The page that comes back must be usable.
		again, err := parseForm(a, "sign-in")
		if err != nil {
			t.Fatalf("page after a wrong password: %v", err)
		}
		again.fields.Set("email", alice)
		again.fields.Set("password", demoPassword)
		if _, err := codeFrom(b.mustPost(t, again.action, again.fields), "the-state"); err != nil {
			t.Errorf("right password after a wrong one: %v", err)
		}
	}
}

func TestSignInEndsAfterTooManyWrongPasswords(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	f := openLogin(t, p, b, alice, "wrong")
	for range maxFailures {
		b.mustPost(t, f.action, f.fields)
	}
	f.fields.Set("password", demoPassword)
	if a := b.mustPost(t, f.action, f.fields); a.status != http.StatusForbidden {
		t.Errorf("right password after %d wrong ones: status %d, want 403", maxFailures, a.status)
	}
}

func TestCodeNeedsItsVerifier(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	for _, verifier := range []string{"", "another-verifier-of-at-least-forty-three-characters", challengeOf(testVerifier)} {
		code := obtainCode(t, p)
		a := b.mustPost(t, p.issuer+exchangePath, redeemForm(code, verifier))
		if a.status != http.StatusBadRequest || strings.Contains(string(a.body), "id_token") {
			t.Errorf("verifier %q: status %d, want 400\n%s", verifier, a.status, a.body)
		}
		// A guess costs the code.
		a = b.mustPost(t, p.issuer+exchangePath, redeemForm(code, testVerifier))
		if got := oauthError(t, a); a.status != http.StatusBadRequest || got != "invalid_grant" {
			t.Errorf("right verifier after %q: status %d, error %q, want 400 invalid_grant", verifier, a.status, got)
		}
	}
}

func TestCodeWorksOnce(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	code := obtainCode(t, p)
	if a := b.mustPost(t, p.issuer+exchangePath, redeemForm(code, testVerifier)); a.status != http.StatusOK {
		t.Fatalf("first redemption: status %d\n%s", a.status, a.body)
	}
	a := b.mustPost(t, p.issuer+exchangePath, redeemForm(code, testVerifier))
	if got := oauthError(t, a); got != "invalid_grant" {
		t.Errorf("second redemption: status %d, error %q, want invalid_grant", a.status, got)
	}
}

func TestCodeIsBoundToClientAndRedirect(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	for key, value := range map[string]string{
		"client_id": "someone-else", "redirect_uri": "http://127.0.0.1:81/auth/callback",
	} {
		f := redeemForm(obtainCode(t, p), testVerifier)
		f.Set(key, value)
		if a := b.mustPost(t, p.issuer+exchangePath, f); a.status == http.StatusOK {
			t.Errorf("redeeming with %s=%s: status 200, want a refusal\n%s", key, value, a.body)
		}
	}
}

func TestAuthorizeRefuses(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	cases := map[string][]string{
		"no PKCE":                 {"code_challenge", "", "code_challenge_method", ""},
		"plain PKCE":              {"code_challenge_method", "plain"},
		"challenge only":          {"code_challenge_method", ""},
		"short challenge":         {"code_challenge", "abc"},
		"unknown client":          {"client_id", "other"},
		"no client":               {"client_id", ""},
		"no redirect":             {"redirect_uri", ""},
		"redirect elsewhere":      {"redirect_uri", "http://example.com/auth/callback"},
		"redirect lookalike":      {"redirect_uri", "http://localhost.example.com/auth/callback"},
		"redirect userinfo":       {"redirect_uri", "http://localhost@example.com/auth/callback"},
		"redirect with user":      {"redirect_uri", "http://x@localhost/auth/callback"},
		"redirect other path":     {"redirect_uri", "http://localhost:1234/other"},
		"redirect with query":     {"redirect_uri", "http://localhost:1234/auth/callback?a=b"},
		"redirect with fragment":  {"redirect_uri", "http://localhost:1234/auth/callback#a"},
		"redirect https":          {"redirect_uri", "https://localhost:1234/auth/callback"},
		"redirect other loopback": {"redirect_uri", "http://127.0.0.2/auth/callback"},
		"redirect IPv6":           {"redirect_uri", "http://[::1]:1234/auth/callback"},
		"redirect escaped":        {"redirect_uri", "http://localhost%2fauth%2fcallback"},
		"out of band":             {"redirect_uri", "urn:ietf:wg:oauth:2.0:oob"},
		"implicit":                {"response_type", "id_token"},
		"implicit with token":     {"response_type", "id_token token"},
		"form post":               {"response_mode", "form_post"},
		"fragment":                {"response_mode", "fragment"},
		"no openid scope":         {"scope", "email"},
		"no scope":                {"scope", ""},
		"silent":                  {"prompt", "none"},
	}
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for name, changes := range cases {
		a := b.mustGet(t, p.issuer+authorizePath+"?"+authorizeQuery(changes...))
		switch {
		case a.location == nil && a.status >= 400:
		case a.location != nil && a.location.Query().Get("error")+a.location.Fragment != "" && atRedirect(a.location):
		default:
			t.Errorf("%s: status %d, Location %v, want a refusal", name, a.status, a.location)
		}
	}
}

func TestAuthorizeTakesEveryLoopbackPort(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	for _, uri := range []string{
		"http://localhost:43211/auth/callback", "http://127.0.0.1:1/auth/callback", "http://127.0.0.1/auth/callback",
		"http://localhost:8080", "http://localhost:8080/", "http://localhost:9/Callback",
	} {
		a := b.mustGet(t, p.issuer+authorizePath+"?"+authorizeQuery("redirect_uri", uri))
		if _, err := parseForm(a, "sign-in"); err != nil {
			t.Errorf("redirect_uri %s: status %d, want the login page\n%s", uri, a.status, a.body)
		}
	}
}

func TestSignInBelongsToTheBrowserThatOpenedIt(t *testing.T) {
	p := serve(t, nil)
	owner, other := testBrowser(t), testBrowser(t)
	f := openLogin(t, p, owner, alice, demoPassword)
	link := p.issuer + loginPath + "?id=" + f.fields.Get("id")
	if a := other.mustGet(t, link); a.status != http.StatusForbidden {
		t.Errorf("login page in a second browser: status %d, want 403", a.status)
	}
	if a := other.mustPost(t, f.action, f.fields); a.status != http.StatusForbidden {
		t.Errorf("login form posted by a second browser: status %d, want 403", a.status)
	}

	// The owner logs in but does not follow the redirect: the other browser must
	// not be able to collect the result.
	owner.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	done := owner.mustPost(t, f.action, f.fields)
	if done.location == nil || done.location.Path != callbackPath {
		t.Fatalf("login: status %d, Location %v, want the callback", done.status, done.location)
	}
	if a := other.mustGet(t, done.location.String()); a.status != http.StatusForbidden {
		t.Errorf("callback in a second browser: status %d, Location %v, want 403", a.status, a.location)
	}
	if a := testBrowser(t).mustGet(t, done.location.String()); a.status != http.StatusForbidden {
		t.Errorf("callback without a cookie: status %d, want 403", a.status)
	}
	if _, err := codeFrom(owner.mustGet(t, done.location.String()), "the-state"); err != nil {
		t.Errorf("callback in the owner's browser: %v", err)
	}
	if a := owner.mustGet(t, done.location.String()); a.status != http.StatusForbidden {
		t.Errorf("callback a second time: status %d, want 403", a.status)
	}
}

func TestCallbackBeforeLoginGivesNoCode(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	f := openLogin(t, p, b, alice, demoPassword)
	a := b.mustGet(t, p.issuer+callbackPath+"?id="+f.fields.Get("id"))
	if _, err := codeFrom(a, "the-state"); err == nil {
		t.Errorf("callback before login: Location %v, want an error", a.location)
	}
}

func TestPendingSignInsExpire(t *testing.T) {
	c := &clock{now: time.Now()}
	p, b := serve(t, c.Now), testBrowser(t)
	f := openLogin(t, p, b, alice, demoPassword)
	c.advance(pendingLifetime)
	if a := b.mustPost(t, f.action, f.fields); a.status != http.StatusForbidden {
		t.Errorf("login after %s: status %d, want 403", pendingLifetime, a.status)
	}
	code := obtainCode(t, p)
	c.advance(codeLifetime)
	if a := b.mustPost(t, p.issuer+exchangePath, redeemForm(code, testVerifier)); a.status != http.StatusBadRequest {
		t.Errorf("code redeemed after %s: status %d, want 400", codeLifetime, a.status)
	}
}

func TestPendingSignInsAreBounded(t *testing.T) {
	c := &clock{now: time.Now()}
	p := serve(t, c.Now)
	ask := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, p.issuer+authorizePath+"?"+authorizeQuery(), http.NoBody)
		p.Handler().ServeHTTP(w, r)
		return w
	}
	for range maxPending {
		ask()
	}
	if loc := ask().Header().Get("Location"); !strings.Contains(loc, "error=server_error") {
		t.Errorf("sign-in %d: Location %s, want server_error", maxPending+1, loc)
	}
	c.advance(pendingLifetime)
	if loc := ask().Header().Get("Location"); !strings.HasPrefix(loc, loginPath) {
		t.Errorf("sign-in after the others expired: Location %s, want the login page", loc)
	}
}
