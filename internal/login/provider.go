package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// provider is what a discovery document says and a login needs.
type provider struct {
	authorize, token, device string
	// alwaysIssuer says that every authorization response names the issuer.
	alwaysIssuer bool
	// claimsParameter says that the provider reads the claims parameter.
	claimsParameter bool
	// basic says that the client secret goes into the Authorization header.
	basic bool
}

func (l *login) discover(ctx context.Context) (*provider, error) {
	a, err := l.http.Get(ctx, strings.TrimSuffix(l.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK {
		return nil, fmt.Errorf("the discovery document of %s: status %d; mayfly issuer probe says more", l.Issuer, a.Status)
	}
	doc, err := endpoint.Object(a.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the discovery document: %w", err)
	}
	// OpenID Connect Discovery, Section 4.3: "The issuer value returned MUST be
	// identical to the Issuer URL that was used as the prefix".
	if got := endpoint.Text(doc, "issuer"); got != l.Issuer {
		return nil, fmt.Errorf("the provider calls itself %s, not %s; give --issuer exactly as it says", endpoint.Plain(got, 200), l.Issuer)
	}
	p := &provider{
		authorize: endpoint.Text(doc, "authorization_endpoint"),
		token:     endpoint.Text(doc, "token_endpoint"),
		device:    endpoint.Text(doc, "device_authorization_endpoint"),
	}
	p.alwaysIssuer, _ = doc["authorization_response_iss_parameter_supported"].(bool)
	p.claimsParameter, _ = doc["claims_parameter_supported"].(bool)
	// OpenID Connect Discovery, Section 3: "If omitted, the default is
	// client_secret_basic".
	const methods = "token_endpoint_auth_methods_supported"
	p.basic = doc[methods] == nil || endpoint.Offers(doc, methods, "client_secret_basic")
	if _, err := endpoint.ParseURL(p.token); err != nil {
		return nil, fmt.Errorf("token endpoint of the provider: %w", err)
	}
	return p, nil
}

// oauthError is an error response (RFC 6749, Sections 4.1.2.1 and 5.2).
type oauthError struct{ code, description string }

func (e *oauthError) Error() string {
	text := "the provider refused: " + e.code
	if e.description != "" {
		text += " (" + e.description + ")"
	}
	return text
}

func newOAuthError(code, description string) *oauthError {
	return &oauthError{endpoint.Plain(code, 80), endpoint.Plain(description, 300)}
}

// post sends a form of the client to an endpoint of the provider and returns the
// object that it answers with.
func (l *login) post(ctx context.Context, pr *provider, address string, form url.Values) (map[string]any, error) {
	header := make(http.Header)
	form.Set("client_id", l.ClientID)
	if l.ClientSecret != "" && pr.basic {
		// RFC 6749, Section 2.3.1: both are form-encoded before they go into
		// the header.
		r := http.Request{Header: header}
		r.SetBasicAuth(url.QueryEscape(l.ClientID), url.QueryEscape(l.ClientSecret))
		form.Del("client_id")
	} else if l.ClientSecret != "" {
		form.Set("client_secret", l.ClientSecret)
	}
	a, err := l.http.PostForm(ctx, address, form, header)
	if err != nil {
		return nil, err
	}
	answer, err := endpoint.Object(a.Body)
	if code := endpoint.Text(answer, "error"); err == nil && code != "" {
		return nil, newOAuthError(code, endpoint.Text(answer, "error_description"))
	}
	if a.Status != http.StatusOK {
		return nil, &statusError{a.Status}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the provider's answer: %w", err)
	}
	return answer, nil
}

// statusError is an answer that is no OAuth error either.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the provider answered with status %d", e.status)
}

// redeem asks the token endpoint and checks what comes.
func (l *login) redeem(ctx context.Context, pr *provider, form url.Values, want expected) (Token, error) {
	answer, err := l.post(ctx, pr, pr.token, form)
	if err != nil {
		return Token{}, err
	}
	raw := endpoint.Text(answer, "id_token")
	if raw == "" {
		return Token{}, errors.New("the provider gave no ID token; is this an OpenID Connect client, and was openid among the scopes?")
	}
	t, err := parseToken(raw)
	if err != nil {
		return Token{}, err
	}
	return t, t.check(want, l.Clock())
}

// clientCredentials is the grant of RFC 6749, Section 4.4. Some providers, such
// as Keycloak, add an ID token for the client itself when openid is asked for.
func (l *login) clientCredentials(ctx context.Context, pr *provider) (Token, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {strings.Join(l.Scopes, " ")}}
	t, err := l.redeem(ctx, pr, form, l.expected())
	if err != nil {
		return Token{}, fmt.Errorf("getting a token by client credentials: %w", err)
	}
	return t, nil
}

func essentialACR(values []string) string {
	type acr struct {
		Essential bool     `json:"essential"`
		Values    []string `json:"values"`
	}
	text, _ := json.Marshal(map[string]map[string]acr{"id_token": {"acr": {Essential: true, Values: values}}}) // strings only
	return string(text)
}
