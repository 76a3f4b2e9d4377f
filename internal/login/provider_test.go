package login

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// claims are those of a token, or the members of a document.
type claims = map[string]any

// fake is an OpenID provider that keeps the rules, except where a test says
// otherwise. It does not sign: nobody here verifies.
type fake struct {
	t      testing.TB
	issuer string
	now    func() time.Time
	// The functions below may change what the provider says; nil leaves it.
	discovery func(claims)
	token     func(claims)
	callback  func(url.Values)
	answer    func(w http.ResponseWriter) bool // of the token endpoint; true means answered
	grant     func(claims)
	secret    string

	mu        sync.Mutex
	authorize url.Values   // the last authorization request
	redeemed  []url.Values // requests to the token endpoint
	device    url.Values   // the last device request
	polls     []time.Time
}

func newFake(t testing.TB) *fake {
	f := &fake{t: t, now: time.Now}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.issuer = s.URL
	return f
}

func (f *fake) config() Config {
	return Config{Issuer: f.issuer, Flow: FlowBrowser, Getenv: none, Clock: f.now, OpenBrowser: visit, Timeout: time.Minute}
}

func none(string) string { return "" }

// visit is a browser whose user has a session already.
func visit(ctx context.Context, address string) error {
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	return nil
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		f.write(w, f.discovery, claims{
			"issuer": f.issuer, "authorization_endpoint": f.issuer + "/authorize", "token_endpoint": f.issuer + "/token",
			"device_authorization_endpoint": f.issuer + "/device",
		})
	case "/authorize":
		f.authorize = r.URL.Query()
		q := url.Values{"code": {"code-1"}, "state": {f.authorize.Get("state")}}
		if f.callback != nil {
			f.callback(q)
		}
		http.Redirect(w, r, f.authorize.Get("redirect_uri")+"?"+q.Encode(), http.StatusFound)
	case "/device":
		_ = r.ParseForm()
		f.device = r.PostForm
		f.write(w, f.grant, claims{
			"device_code": "device-1", "user_code": "WDJB-MJHT", "verification_uri": f.issuer + "/enter",
			"verification_uri_complete": f.issuer + "/enter?user_code=WDJB-MJHT", "expires_in": 600,
		})
	case "/token":
		_ = r.ParseForm()
		f.redeemed, f.polls = append(f.redeemed, r.PostForm), append(f.polls, f.now())
		f.redeem(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) redeem(w http.ResponseWriter, r *http.Request) {
	if f.answer != nil && f.answer(w) {
		return
	}
	id, secret, _ := r.BasicAuth()
	if f.secret != "" && (id != url.QueryEscape("sigstore") || secret != url.QueryEscape(f.secret)) {
		refuse(w, "invalid_client", "")
		return
	}
	asked := f.authorize
	if r.PostForm.Get("grant_type") != "authorization_code" {
		asked = f.device
	} else if r.PostForm.Get("code") != "code-1" || r.PostForm.Get("redirect_uri") != asked.Get("redirect_uri") {
		refuse(w, "invalid_grant", "unknown code")
		return
	}
	if f.secret == "" && challenge(r.PostForm.Get("code_verifier")) != asked.Get("code_challenge") {
		refuse(w, "invalid_grant", "wrong verifier")
		return
	}
	c := f.claims()
	if nonce := asked.Get("nonce"); nonce != "" {
		c["nonce"] = nonce
	}
	if f.token != nil {
		f.token(c)
	}
	f.write(w, nil, claims{"id_token": encode(c), "access_token": "not-for-you", "token_type": "Bearer"})
}

func (f *fake) claims() claims {
	now := f.now().Unix()
	return claims{
		"iss": f.issuer, "sub": "3f0c7e0e", "aud": "sigstore", "iat": now, "exp": now + 300,
		"email": "alice@corp.example", "email_verified": true,
	}
}

func (f *fake) write(w http.ResponseWriter, change func(claims), doc claims) {
	if change != nil {
		change(doc)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(doc); err != nil {
		f.t.Errorf("fake provider: %v", err)
	}
}

func refuse(w http.ResponseWriter, code, description string) {
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"error":%q,"error_description":%q}`, code, description)
}

// encode makes a JWT that no key has seen.
func encode(c claims) string {
	payload, _ := json.Marshal(c)
	return strings.Join([]string{
		base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"1"}`)),
		base64.RawURLEncoding.EncodeToString(payload),
		base64.RawURLEncoding.EncodeToString([]byte("signature")),
	}, ".")
}

// direct brings requests to a handler without a network, so that time can be
// a test's own.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// env is an environment of these variables only.
func env(vars map[string]string) func(string) string {
	vars = maps.Clone(vars)
	return func(name string) string { return vars[name] }
}

// lockedBuffer collects messages while a test reads them.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
