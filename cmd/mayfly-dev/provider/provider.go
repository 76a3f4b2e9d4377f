// Package provider is the demo OpenID provider of mayfly-dev: discovery, a real
// login page, authorization code with PKCE and the device flow, for a handful of
// demo users whose password stands on the page.
//
// The protocol is zitadel/oidc's op package; what is here is its storage, kept
// in memory, the pages, and a stricter door in front of it.
//
// Invariants:
//
//   - it serves loopback issuers only, under the issuer's own host name: a
//     provider with public passwords must not be reachable from elsewhere;
//   - the only client is the public client "sigstore", and nothing is handed to
//     it without PKCE (S256) or an approved device code;
//   - a sign-in belongs to the browser that opened its login page; codes work
//     once; everything pending is bounded in number and in time.
//
// It keeps no sessions, has no refresh tokens, no userinfo, no logout and no
// user management. Keys are made at start and die with the process. Nothing of
// it may be linked into mayfly itself.
package provider

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// ClientID is the one client that the provider knows. It is what cosign, gitsign
// and the other clients send when they are not told otherwise.
const ClientID = "sigstore"

// TokenLifetime is how long an ID token lives.
const TokenLifetime = 10 * time.Minute

const (
	maxQuery = 8 << 10  // longest query string; all of it may end up in the store
	maxBody  = 64 << 10 // largest form

	discoveryPath = oidc.DiscoveryEndpoint
	authorizePath = "/authorize"
	callbackPath  = "/authorize/callback"
	exchangePath  = "/oauth/token"
	keysPath      = "/keys"
	deviceAuthz   = "/device_authorization"
	loginPath     = "/login"
	devicePath    = "/device"
	stylePath     = "/style.css"
)

// Config says who the provider is and whom it knows.
type Config struct {
	// Issuer is the issuer URL, http://127.0.0.1:PORT or http://localhost:PORT,
	// without a path. Required.
	Issuer string
	// Users are the accounts. Default: [DemoUsers].
	Users []User
	// Logger gets sign-ins and protocol errors, never a token or a password.
	// Default: none.
	Logger *slog.Logger
	// Clock gives the time that tokens are stamped with. Default: time.Now.
	Clock func() time.Time
}

// Provider is a demo OpenID provider. It is safe for concurrent use and has no
// goroutines of its own.
type Provider struct {
	issuer  string
	host    string // of the issuer, with port
	store   *store
	op      *op.Provider
	log     *slog.Logger
	pages   *pages
	handler http.Handler
}

// New makes the provider and its signing key.
func New(cfg Config) (*Provider, error) {
	issuer, err := loopbackIssuer(cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	users, err := directory(cfg.Users)
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	st, err := newStore(users, cfg.Clock)
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	p := &Provider{issuer: cfg.Issuer, host: issuer.Host, store: st, log: cfg.Logger}
	if p.pages, err = newPages(st, users, cfg.Logger); err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	oc := &op.Config{
		CodeMethodS256: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime:     pendingLifetime,
			PollInterval: 2 * time.Second,
			UserFormPath: devicePath,
			UserCode:     op.UserCodeBase20,
		},
	}
	if _, err := rand.Read(oc.CryptoKey[:]); err != nil {
		return nil, fmt.Errorf("demo provider: making the code key: %w", err)
	}
	// The library allows credentialed cross-origin reads from everywhere unless
	// CORS is taken out; clients of a loopback provider are not web pages.
	p.op, err = op.NewProvider(oc, st, op.StaticIssuer(cfg.Issuer),
		op.WithAllowInsecure(), op.WithCORSOptions(nil), op.WithLogger(cfg.Logger))
	if err != nil {
		return nil, fmt.Errorf("demo provider: %w", err)
	}
	p.handler = p.routes()
	return p, nil
}

// Handler serves the provider. It answers under the issuer's host name only.
func (p *Provider) Handler() http.Handler { return p.handler }

// Users lists the accounts, passwords included: they are public, as the login
// page shows them.
func (p *Provider) Users() []User { return p.store.users.list() }

// routes lists every door. The library's router has more of them (introspection,
// revocation, logout, JWT profile grants); what is not named here does not exist.
func (p *Provider) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+discoveryPath, p.serveDiscovery)
	mux.Handle("GET "+keysPath, p.op)
	mux.Handle("GET "+authorizePath, p.op)
	mux.Handle("POST "+authorizePath, p.op)
	mux.Handle("GET "+callbackPath, p.sameBrowser(p.op))
	mux.Handle("POST "+exchangePath, decodableBasic(p.op))
	mux.Handle("POST "+deviceAuthz, p.op)

	// Forms take posts from our own pages alone; the hidden token in them is
	// the second lock, for browsers that send neither Sec-Fetch-Site nor Origin.
	own := http.NewCrossOriginProtection()
	mux.HandleFunc("GET "+loginPath, p.pages.showLogin)
	mux.Handle("POST "+loginPath, own.Handler(http.HandlerFunc(p.pages.doLogin)))
	mux.HandleFunc("GET "+devicePath, p.pages.showDevice)
	mux.Handle("POST "+devicePath, own.Handler(http.HandlerFunc(p.pages.doDevice)))
	mux.HandleFunc("GET "+stylePath, p.pages.serveStyle)
	return p.door(mux)
}

// door bounds requests and sets the headers that every answer carries.
func (p *Provider) door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy(""))
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// Not "no-referrer": under it browsers post forms with "Origin: null".
		h.Set("Referrer-Policy", "same-origin")
		// RFC 6749, Section 5.1: "The authorization server MUST include the HTTP
		// "Cache-Control" response header field with a value of "no-store"".
		h.Set("Cache-Control", "no-store")
		// A page elsewhere that points its own name at 127.0.0.1 (DNS rebinding)
		// arrives with that name.
		if r.Host != p.host {
			http.Error(w, "this provider answers as "+p.host+" only", http.StatusMisdirectedRequest)
			return
		}
		if len(r.URL.RawQuery) > maxQuery {
			http.Error(w, "query too long", http.StatusRequestURITooLong)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// sameBrowser lets a browser fetch only the result of a sign-in whose login page
// it opened. Without it, whoever started a sign-in could have somebody else
// complete it by sending the login link, and collect the code.
func (p *Provider) sameBrowser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.store.ownedBy(r.URL.Query().Get("id"), browserOf(r)) {
			http.Error(w, "this sign-in has expired or was started in another browser", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// decodableBasic refuses Basic credentials that are not form-encoded as RFC 6749,
// Section 2.3.1 wants them: the library's code exchange answers those and then
// carries on with a nil request, which panics.
func decodableBasic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, secret, ok := r.BasicAuth(); ok {
			_, errID := url.QueryUnescape(id)
			_, errSecret := url.QueryUnescape(secret)
			if err := errors.Join(errID, errSecret); err != nil {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write([]byte(`{"error":"invalid_client"}` + "\n"))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// serveDiscovery tells the truth: the library's own document offers flows and
// endpoints that are closed here.
func (p *Provider) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	ctx := op.ContextWithIssuer(r.Context(), p.issuer)
	d := op.CreateDiscoveryConfig(ctx, p.op, p.store)
	d.IntrospectionEndpoint, d.IntrospectionEndpointAuthMethodsSupported = "", nil
	d.IntrospectionEndpointAuthSigningAlgValuesSupported = nil
	d.RevocationEndpoint, d.RevocationEndpointAuthMethodsSupported = "", nil
	d.RevocationEndpointAuthSigningAlgValuesSupported = nil
	d.UserinfoEndpoint, d.EndSessionEndpoint = "", ""
	d.ResponseTypesSupported = []string{string(oidc.ResponseTypeCode)}
	d.ResponseModesSupported = []string{string(oidc.ResponseModeQuery)}
	d.GrantTypesSupported = []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeDeviceCode}
	d.TokenEndpointAuthMethodsSupported = []oidc.AuthMethod{oidc.AuthMethodNone}
	d.ScopesSupported = []string{oidc.ScopeOpenID, oidc.ScopeEmail, oidc.ScopeProfile}
	d.ClaimsSupported = []string{"iss", "sub", "aud", "azp", "exp", "iat", "auth_time", "nonce", "at_hash", "amr",
		"email", "email_verified", "name"}
	op.Discover(w, d)
}

// contentPolicy is the Content-Security-Policy. formTarget is the origin that a
// form's answer may redirect to besides our own: browsers apply form-action to
// the redirects after a submission too.
func contentPolicy(formTarget string) string {
	const base = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
	if formTarget == "" {
		return base
	}
	return base + " " + formTarget
}

// loopbackIssuer parses an issuer and refuses one that others could reach.
func loopbackIssuer(issuer string) (*url.URL, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("parsing issuer: %w", err)
	}
	if u.Scheme != "http" || !isLoopback(u.Hostname()) || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer %q is not of the form http://127.0.0.1:PORT", issuer)
	}
	return u, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
