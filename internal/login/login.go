package login

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// Flow is a way to get a token.
type Flow string

// The flows. FlowAuto takes the ambient one when a CI provider is detected, else
// the browser, or the device flow on a machine that has none.
const (
	FlowAuto              Flow = "auto"
	FlowBrowser           Flow = "browser"
	FlowDevice            Flow = "device"
	FlowAmbient           Flow = "ambient"
	FlowClientCredentials Flow = "client-credentials"
)

// Flows lists them all.
func Flows() []Flow {
	return []Flow{FlowAuto, FlowBrowser, FlowDevice, FlowAmbient, FlowClientCredentials}
}

// DefaultClientID is also the audience that CI providers are asked for when
// nobody says otherwise. It is what Sigstore's clients use.
const DefaultClientID = "sigstore"

const defaultTimeout = 10 * time.Minute

// Config says which token is wanted.
type Config struct {
	// Issuer is the provider's issuer URL, exactly as tokens say it. Required
	// unless Server names it or the token is an ambient one.
	Issuer string
	// Server is the base URL of a Mayfly or Fulcio service, which is asked for
	// issuer and audience; empty means that nobody is asked.
	Server string
	// ClientID is the client at the provider. Default "sigstore".
	ClientID string
	// ClientSecret authenticates a confidential client; empty means a public one.
	ClientSecret string
	// Audience must be in the token. CI providers are asked for it. Default:
	// what Server says, else nothing is demanded beside the client.
	Audience string
	// Scopes are asked for. Default openid and email.
	Scopes []string
	// Flow defaults to FlowAuto.
	Flow Flow
	// MaxAge is how long ago the user may have authenticated, in whole seconds;
	// zero means any time.
	MaxAge time.Duration
	// ACR are the authentication context classes, of which the token must have
	// one; none means any.
	ACR []string
	// TokenFile is a file with an ambient token, looked at before all others.
	TokenFile string
	// Callback is the host and port of the redirect URI: 127.0.0.1, [::1] or
	// localhost, and 0 for any port. Default 127.0.0.1:0.
	Callback string
	// OpenBrowser shows an address to the user; nil means that it is printed.
	OpenBrowser func(ctx context.Context, address string) error
	// Headless says that this machine has no browser.
	Headless bool
	// RootCAs verify provider and service; nil means the system's.
	RootCAs *x509.CertPool
	// Timeout is for everything together. Default 10m.
	Timeout time.Duration
	// Messages receives what the user is to read, and never a token. Nil
	// discards it.
	Messages io.Writer
	// Getenv reads a variable of the environment; nil means os.Getenv.
	Getenv func(string) string
	// Clock is what expiry is measured by; nil means time.Now.
	Clock func() time.Time
	// Transport replaces the network in tests; nil means the network.
	Transport http.RoundTripper
}

func (c Config) withDefaults() (Config, error) {
	if c.ClientID == "" {
		c.ClientID = DefaultClientID
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "email"}
	}
	if c.Flow == "" {
		c.Flow = FlowAuto
	}
	if c.Callback == "" {
		c.Callback = "127.0.0.1:0"
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Messages == nil {
		c.Messages = io.Discard
	}
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c, c.check()
}

func (c Config) check() error {
	for name, address := range map[string]string{"issuer": c.Issuer, "server": c.Server} {
		if _, err := endpoint.ParseURL(address); address != "" && err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	stepUp := c.MaxAge != 0 || len(c.ACR) > 0
	switch {
	case !slices.Contains(Flows(), c.Flow):
		return fmt.Errorf("flow %q is not one of %v", c.Flow, Flows())
	case !slices.Contains(c.Scopes, "openid"):
		// OpenID Connect Core, Section 3.1.2.1: "OpenID Connect requests MUST
		// contain the openid scope value."
		return errors.New("the scopes lack openid, without which providers give no ID token")
	case c.MaxAge < 0 || c.MaxAge%time.Second != 0:
		return fmt.Errorf("maximal age %s is not a whole number of seconds", c.MaxAge)
	case c.Timeout < 0:
		return fmt.Errorf("timeout %s is negative", c.Timeout)
	case stepUp && (c.Flow == FlowAmbient || c.Flow == FlowClientCredentials):
		return fmt.Errorf("only people authenticate anew: --max-age and --acr do not go with --flow %s", c.Flow)
	case c.Flow == FlowClientCredentials && c.ClientSecret == "":
		return errors.New("client credentials need a client secret")
	case c.TokenFile != "" && c.Flow != FlowAuto && c.Flow != FlowAmbient:
		return fmt.Errorf("a token file does not go with --flow %s", c.Flow)
	}
	return nil
}

// login is one attempt.
type login struct {
	Config
	http *endpoint.Client
	// services are the issuers that Server accepts; nil without Server.
	services []accepted
}

// Acquire gets a token as cfg says. It ends with ctx.
func Acquire(ctx context.Context, cfg Config) (Token, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Token{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("no token after %s", cfg.Timeout))
	defer cancel()
	l := &login{Config: cfg, http: endpoint.New(endpoint.Config{RootCAs: cfg.RootCAs, Transport: cfg.Transport})}
	t, err := l.acquire(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			return Token{}, fmt.Errorf("logging in: %w", cause)
		}
		return Token{}, err
	}
	for _, line := range t.facts(l.Clock()) {
		l.say("%s", line)
	}
	return t, nil
}

func (l *login) acquire(ctx context.Context) (Token, error) {
	if l.Server != "" {
		var err error
		if l.services, err = l.ask(ctx); err != nil {
			return Token{}, fmt.Errorf("asking %s which issuers it accepts: %w", l.Server, err)
		}
	}
	if l.Flow == FlowAuto || l.Flow == FlowAmbient {
		p, err := l.detect()
		if err != nil {
			return Token{}, err
		}
		if p != nil {
			return l.ambient(ctx, *p)
		}
		if l.Flow == FlowAmbient {
			return Token{}, errors.New("no CI provider was detected: SIGSTORE_ID_TOKEN is empty, and nothing of " +
				"GitHub, Buildkite, Azure DevOps, Jenkins or Kubernetes is there")
		}
	}
	if err := l.chooseIssuer(); err != nil {
		return Token{}, err
	}
	pr, err := l.discover(ctx)
	if err != nil {
		return Token{}, fmt.Errorf("asking the provider about itself: %w", err)
	}
	return l.interactive(ctx, pr)
}

func (l *login) interactive(ctx context.Context, pr *provider) (Token, error) {
	flow := l.Flow
	if flow == FlowAuto {
		flow = FlowBrowser
		if l.Headless && pr.device != "" {
			flow = FlowDevice
		}
	}
	l.say("mayfly: logging in at %s as client %s (flow %s)", l.Issuer, l.ClientID, flow)
	switch flow {
	case FlowDevice:
		return l.device(ctx, pr)
	case FlowClientCredentials:
		return l.clientCredentials(ctx, pr)
	default:
		return l.browser(ctx, pr)
	}
}

func (l *login) expected() expected {
	return expected{issuer: l.Issuer, clientID: l.ClientID, audience: l.Audience, acr: l.ACR, maxAge: l.MaxAge}
}

func (l *login) say(format string, args ...any) {
	fmt.Fprintf(l.Messages, format+"\n", args...)
}

// random returns 43 characters. RFC 7636, Section 7.1: "The client SHOULD create
// a "code_verifier" with a minimum of 256 bits of entropy."
func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// stepUp asks for a fresh or stronger authentication.
func (l *login) stepUp(pr *provider) map[string]string {
	p := make(map[string]string)
	if l.MaxAge != 0 {
		p["max_age"] = fmt.Sprintf("%d", int64(l.MaxAge/time.Second))
	}
	if len(l.ACR) > 0 {
		// OpenID Connect Core, Section 5.5.1.1: as an essential claim the
		// provider must meet it or fail; acr_values is a wish.
		p["acr_values"] = strings.Join(l.ACR, " ")
		if pr.claimsParameter {
			p["claims"] = essentialACR(l.ACR)
		}
	}
	return p
}
