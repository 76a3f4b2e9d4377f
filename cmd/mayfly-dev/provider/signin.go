package provider

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

const (
	// signInTimeout bounds a whole programmatic sign-in.
	signInTimeout = 30 * time.Second
	// maxAnswer bounds what is read of any one answer.
	maxAnswer = 1 << 20
	// signInRedirect is where a programmatic sign-in is sent to in the end. It is
	// recognized and never requested, so that no listener is needed.
	signInRedirect = "http://127.0.0.1/auth/callback"
)

// SignIn gets an ID token for the user with this email as a client and a browser
// would: authorization code with PKCE over HTTP, through the login page. It
// knows no way in that they do not have. The transport of client is used (nil
// means http.DefaultClient); its cookies and redirect policy are not.
func (p *Provider) SignIn(ctx context.Context, client *http.Client, email string) (idToken string, err error) {
	u, ok := p.store.users.byEmail(email)
	if !ok {
		return "", fmt.Errorf("signing in at %s: no user %q", p.issuer, email)
	}
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	b, err := newBrowser(client)
	if err != nil {
		return "", fmt.Errorf("signing in at %s: %w", p.issuer, err)
	}
	token, err := b.signIn(ctx, p.issuer, u)
	if err != nil {
		return "", fmt.Errorf("signing in at %s as %s: %w", p.issuer, email, err)
	}
	return token, nil
}

// browser is an HTTP client with cookies that stops at signInRedirect.
type browser struct{ http *http.Client }

func newBrowser(c *http.Client) (*browser, error) {
	if c == nil {
		c = http.DefaultClient
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("making a cookie jar: %w", err)
	}
	return &browser{http: &http.Client{
		Transport: c.Transport,
		Timeout:   c.Timeout,
		Jar:       jar,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if atRedirect(r.URL) {
				return http.ErrUseLastResponse
			}
			if len(via) > 5 {
				return errors.New("too many redirects")
			}
			return nil
		},
	}}, nil
}

func atRedirect(u *url.URL) bool {
	return u.Scheme+"://"+u.Host+u.Path == signInRedirect
}

func (b *browser) signIn(ctx context.Context, issuer string, u User) (string, error) {
	doc, err := b.discover(ctx, issuer)
	if err != nil {
		return "", err
	}
	verifier, state, nonce := rand.Text()+rand.Text(), rand.Text(), rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	page, err := b.get(ctx, doc.Authorization+"?"+url.Values{
		"client_id":             {ClientID},
		"redirect_uri":          {signInRedirect},
		"response_type":         {"code"},
		"scope":                 {"openid email"},
		"state":                 {state},
		"nonce":                 {nonce},
		"code_challenge":        {base64.RawURLEncoding.EncodeToString(challenge[:])},
		"code_challenge_method": {"S256"},
	}.Encode())
	if err != nil {
		return "", fmt.Errorf("opening the login page: %w", err)
	}
	form, err := parseForm(page, "sign-in")
	if err != nil {
		return "", fmt.Errorf("reading the login page: %w", err)
	}
	form.fields.Set("email", u.Email)
	form.fields.Set("password", u.Password)
	done, err := b.post(ctx, form.action, form.fields)
	if err != nil {
		return "", fmt.Errorf("sending the login form: %w", err)
	}
	code, err := codeFrom(done, state)
	if err != nil {
		return "", err
	}
	return b.redeem(ctx, doc.Token, code, verifier, nonce)
}

// endpoints is what a sign-in needs of the discovery document.
type endpoints struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Challenges    []string `json:"code_challenge_methods_supported"`
}

func (b *browser) discover(ctx context.Context, issuer string) (endpoints, error) {
	a, err := b.get(ctx, issuer+discoveryPath)
	if err != nil {
		return endpoints{}, fmt.Errorf("fetching the discovery document: %w", err)
	}
	var doc endpoints
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return endpoints{}, fmt.Errorf("reading the discovery document: %w", err)
	}
	// OpenID Connect Discovery 1.0, Section 4.3: "The issuer value returned MUST
	// be identical to the Issuer URL" that was asked for.
	if doc.Issuer != issuer {
		return endpoints{}, fmt.Errorf("discovery document is of issuer %q", doc.Issuer)
	}
	return doc, nil
}

// codeFrom reads the authorization response.
func codeFrom(a answer, state string) (string, error) {
	if a.location == nil || !atRedirect(a.location) {
		return "", fmt.Errorf("login was not accepted: status %d", a.status)
	}
	q := a.location.Query()
	if e := q.Get("error"); e != "" {
		return "", fmt.Errorf("login was refused: %s: %s", e, q.Get("error_description"))
	}
	if q.Get("state") != state {
		return "", errors.New("authorization response has another request's state")
	}
	return q.Get("code"), nil
}

func (b *browser) redeem(ctx context.Context, endpoint, code, verifier, nonce string) (string, error) {
	a, err := b.post(ctx, endpoint, url.Values{
		"grant_type":    {"authorization_code"},
		"client_id":     {ClientID},
		"redirect_uri":  {signInRedirect},
		"code":          {code},
		"code_verifier": {verifier},
	})
	if err != nil {
		return "", fmt.Errorf("redeeming the code: %w", err)
	}
	var tokens struct {
		IDToken string `json:"id_token"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal(a.body, &tokens); err != nil {
		return "", fmt.Errorf("reading the token answer: %w", err)
	}
	if a.status != http.StatusOK || tokens.IDToken == "" {
		return "", fmt.Errorf("redeeming the code: status %d, error %q", a.status, tokens.Error)
	}
	if err := checkNonce(tokens.IDToken, nonce); err != nil {
		return "", fmt.Errorf("checking the ID token: %w", err)
	}
	return tokens.IDToken, nil
}

// checkNonce makes sure that the token answers this sign-in. It does not verify
// the signature: whoever takes the token does.
func checkNonce(token, want string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return fmt.Errorf("decoding payload: %w", err)
	}
	var claims struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return fmt.Errorf("decoding claims: %w", err)
	}
	if claims.Nonce != want {
		return errors.New("nonce is of another sign-in")
	}
	return nil
}

// answer is an HTTP answer, read.
type answer struct {
	status   int
	url      *url.URL // that gave the answer
	location *url.URL // of a redirect that was not followed
	body     []byte
}

func (b *browser) get(ctx context.Context, target string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return answer{}, fmt.Errorf("making the request: %w", err)
	}
	return b.do(r)
}

func (b *browser) post(ctx context.Context, target string, form url.Values) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, fmt.Errorf("making the request: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (b *browser) do(r *http.Request) (answer, error) {
	resp, err := b.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode, url: resp.Request.URL}
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	if loc, err := resp.Location(); err == nil {
		a.location = loc
	}
	return a, nil
}

// form is an HTML form as a browser would submit it.
type form struct {
	action string
	fields url.Values
}

// parseForm finds the form with an id in a page.
func parseForm(page answer, id string) (form, error) {
	root, err := html.Parse(strings.NewReader(string(page.body)))
	if err != nil {
		return form{}, fmt.Errorf("parsing HTML: %w", err)
	}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || attr(n, "id") != id {
			continue
		}
		action, err := page.url.Parse(attr(n, "action"))
		if err != nil {
			return form{}, fmt.Errorf("form action: %w", err)
		}
		f := form{action: action.String(), fields: url.Values{}}
		for in := range n.Descendants() {
			if in.Type == html.ElementNode && in.Data == "input" {
				f.fields.Set(attr(in, "name"), attr(in, "value"))
			}
		}
		return f, nil
	}
	return form{}, fmt.Errorf("no form %q in an answer with status %d", id, page.status)
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}
