package provider

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// startDevice asks for a device code.
func startDevice(t testing.TB, p *Provider) (deviceCode, userCode, page string) {
	t.Helper()
	a := testBrowser(t).mustPost(t, p.issuer+deviceAuthz, url.Values{
		// What cosign sends, PKCE parameters included.
		"client_id": {ClientID}, "scope": {"openid email"},
		"code_challenge": {challengeOf(testVerifier)}, "code_challenge_method": {"S256"},
	})
	var d struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
		Complete   string `json:"verification_uri_complete"`
		ExpiresIn  int    `json:"expires_in"`
		Interval   int    `json:"interval"`
	}
	if err := json.Unmarshal(a.body, &d); err != nil || d.DeviceCode == "" || d.Interval <= 0 || d.ExpiresIn <= 0 {
		t.Fatalf("device authorization: status %d, error %v\n%s", a.status, err, a.body)
	}
	return d.DeviceCode, d.UserCode, d.Complete
}

func poll(t testing.TB, p *Provider, deviceCode string) answer {
	t.Helper()
	return testBrowser(t).mustPost(t, p.issuer+exchangePath, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {ClientID}, "device_code": {deviceCode},
	})
}

// approvePage fills in the device page.
func approvePage(t testing.TB, b *browser, page, password string) answer {
	t.Helper()
	f, err := parseForm(b.mustGet(t, page), "sign-in")
	if err != nil {
		t.Fatalf("device page: %v", err)
	}
	f.fields.Set("email", alice)
	f.fields.Set("password", password)
	return b.mustPost(t, f.action, f.fields)
}

func TestDeviceFlowYieldsTokenOnce(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	deviceCode, _, page := startDevice(t, p)
	if got := oauthError(t, poll(t, p, deviceCode)); got != "authorization_pending" {
		t.Errorf("poll before approval: error %q, want authorization_pending", got)
	}
	if a := approvePage(t, b, page, "wrong"); a.status != http.StatusUnauthorized {
		t.Errorf("approval with a wrong password: status %d, want 401", a.status)
	}
	if got := oauthError(t, poll(t, p, deviceCode)); got != "authorization_pending" {
		t.Errorf("poll after a wrong password: error %q, want authorization_pending", got)
	}
	if a := approvePage(t, b, page, demoPassword); a.status != http.StatusOK || !strings.Contains(string(a.body), alice) {
		t.Fatalf("approval: status %d, want 200 and a page naming %s\n%s", a.status, alice, a.body)
	}
	a := poll(t, p, deviceCode)
	var tokens struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal(a.body, &tokens); err != nil || tokens.IDToken == "" {
		t.Fatalf("poll after approval: status %d, error %v\n%s", a.status, err, a.body)
	}
	_, claims := verified(t, p, tokens.IDToken, time.Now())
	if claims["email"] != alice || claims["email_verified"] != true || claims["sub"] != "demo-alice" {
		t.Errorf("claims of the device's token: %v, want alice's", claims)
	}
	if got := oauthError(t, poll(t, p, deviceCode)); got != "access_denied" {
		t.Errorf("poll after the token was handed out: error %q, want access_denied", got)
	}
}

func TestUserCodeForgivesCaseAndPunctuation(t *testing.T) {
	p, b := serve(t, nil), testBrowser(t)
	_, userCode, _ := startDevice(t, p)
	typed := strings.ToLower(strings.ReplaceAll(userCode, "-", " "))
	if a := approvePage(t, b, p.issuer+devicePath+"?user_code="+url.QueryEscape(typed), demoPassword); a.status != http.StatusOK {
		t.Errorf("user code %s typed as %q: status %d, want 200", userCode, typed, a.status)
	}
}

func TestDevicePageRefusesUnknownSpentAndExpiredCodes(t *testing.T) {
	c := &clock{now: time.Now()}
	p, b := serve(t, c.Now), testBrowser(t)
	try := func(name, page string) {
		t.Helper()
		if a := approvePage(t, b, page, demoPassword); a.status != http.StatusBadRequest {
			t.Errorf("%s code: status %d, want 400", name, a.status)
		}
	}
	startDevice(t, p)
	try("unknown", p.issuer+devicePath+"?user_code=BBBB-BBBB")
	try("empty", p.issuer+devicePath)
	_, _, page := startDevice(t, p)
	if a := approvePage(t, b, page, demoPassword); a.status != http.StatusOK {
		t.Fatalf("approval: status %d, want 200", a.status)
	}
	try("spent", page)
	deviceCode, _, page := startDevice(t, p)
	c.advance(pendingLifetime)
	try("expired", page)
	if got := oauthError(t, poll(t, p, deviceCode)); got != "access_denied" {
		t.Errorf("poll with an expired code: error %q, want access_denied", got)
	}
}

func TestPendingDeviceCodesAreBounded(t *testing.T) {
	c := &clock{now: time.Now()}
	p := serve(t, c.Now)
	ask := func() int {
		form := url.Values{"client_id": {ClientID}, "scope": {"openid"}}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+deviceAuthz, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for range maxPending {
		ask()
	}
	if got := ask(); got < 400 {
		t.Errorf("device code %d: status %d, want a refusal", maxPending+1, got)
	}
	c.advance(pendingLifetime)
	if got := ask(); got != http.StatusOK {
		t.Errorf("device code after the others expired: status %d, want 200", got)
	}
}

func TestDeviceCodeOfAnotherClientIsRefused(t *testing.T) {
	p := serve(t, nil)
	a := testBrowser(t).mustPost(t, p.issuer+deviceAuthz, url.Values{"client_id": {"other"}, "scope": {"openid"}})
	if a.status != http.StatusUnauthorized {
		t.Errorf("device authorization for another client: status %d, want 401\n%s", a.status, a.body)
	}
}
