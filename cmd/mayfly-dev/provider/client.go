package provider

import (
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// client is the public client "sigstore": a program on the user's machine, so
// that it keeps no secret and proves itself with PKCE (RFC 8252, Section 8.4).
type client struct {
	clock func() time.Time
}

// RedirectURIs lists the paths that clients listen on: cosign, gitsign and
// sigstore-python, sigstore-java, and the ones that use none. The library takes
// a loopback URI of any port when the path is one of these. RFC 8252, Section
// 7.3: "The authorization server MUST allow any port to be specified at the time
// of the request for loopback IP redirect URIs".
func (client) RedirectURIs() []string {
	return []string{
		"http://localhost/auth/callback", "http://localhost/Callback", "http://localhost/", "http://localhost",
	}
}

// loopbackRedirect returns the origin of a redirect URI that was matched by the
// library, or false for hosts that the library lets pass and we do not: it takes
// any loopback address, credentials and fragments in the URI, and https.
func loopbackRedirect(uri string) (origin string, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Fragment != "" || u.RawQuery != "" {
		return "", false
	}
	if h := u.Hostname(); h != "localhost" && h != "127.0.0.1" {
		return "", false
	}
	return "http://" + u.Host, true
}

func (client) GetID() string                       { return ClientID }
func (client) PostLogoutRedirectURIs() []string    { return nil }
func (client) ApplicationType() op.ApplicationType { return op.ApplicationTypeNative }
func (client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodNone }
func (client) ResponseTypes() []oidc.ResponseType  { return []oidc.ResponseType{oidc.ResponseTypeCode} }
func (client) LoginURL(id string) string           { return loginPath + "?id=" + url.QueryEscape(id) }
func (client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }
func (client) DevMode() bool                       { return false }
func (client) IsScopeAllowed(string) bool          { return false }

// GrantTypes leaves out refresh tokens: a demo identity is fetched anew.
func (client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeDeviceCode}
}

// IDTokenUserinfoClaimsAssertion puts the email into the ID token, where signing
// clients look for it; there is no userinfo endpoint.
func (client) IDTokenUserinfoClaimsAssertion() bool { return true }

func (client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return same }
func (client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return same }

func same(scopes []string) []string { return scopes }

// The library stamps tokens from the machine's clock: iat is now - skew, exp is
// now + skew + lifetime, auth_time is the sign-in - skew. The three functions
// below turn these into the injected clock's readings; with time.Now as the
// clock they come to zero and [TokenLifetime].

// ClockSkew is how far the injected clock is behind the machine's.
func (c client) ClockSkew() time.Duration { return behind(c.clock) }

// IDTokenLifetime is TokenLifetime, less the skew that is added to it and that
// which the injected clock is behind.
func (c client) IDTokenLifetime() time.Duration { return TokenLifetime - 2*behind(c.clock) }

// skewed prepares a time of the injected clock for the library to subtract the
// skew from.
func skewed(t time.Time, clock func() time.Time) time.Time { return t.Add(behind(clock)) }

func behind(clock func() time.Time) time.Duration { return time.Until(clock()) * -1 }
