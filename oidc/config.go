package oidc

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults and bounds of the configuration.
const (
	defaultClockSkew        = 30 * time.Second
	maxClockSkew            = 2 * time.Minute
	defaultMaxTokenAge      = time.Hour
	defaultMaxTokenLifetime = 24 * time.Hour
	defaultRefresh          = 10 * time.Minute
	minRefresh              = 10 * time.Second
	maxRefresh              = 24 * time.Hour
	defaultMaxStale         = 24 * time.Hour
	defaultMaxTokenBytes    = 16 << 10
	hardMaxTokenBytes       = 64 << 10
	minTokenBytes           = 40
)

// defaultAlgorithms: OpenID Connect Core, Section 15.1, requires every provider
// to support RS256. What a provider advertises never widens the list.
var defaultAlgorithms = []string{"RS256"}

// Issuer is one identity provider whose tokens are accepted. Its slices are not
// to be changed after New.
type Issuer struct {
	// Name identifies the entry in metrics, logs and audit records: letters,
	// digits, dot, hyphen and underscore, at most 64. "unknown" is taken.
	Name string
	// URL is the issuer exactly as its tokens say it in iss, and exactly as its
	// discovery document says it: a trailing slash matters.
	URL string
	// Audiences are the values of aud that mean us; at least one is required.
	Audiences []string
	// ExtraAudiences may stand in aud beside one of ours. A token that also
	// names any other service is refused: that service could replay it here.
	ExtraAudiences []string
	// AuthorizedParties are the clients (azp) whose tokens are accepted; empty
	// means the same as Audiences.
	AuthorizedParties []string
	// Algorithms are the signature algorithms accepted; empty means RS256. Only
	// RS, PS and ES with 256, 384, 512 and EdDSA exist here: symmetric
	// algorithms and "none" cannot be configured.
	Algorithms []string
	// ClockSkew is how far our clock and the issuer's may differ. Default 30s,
	// at most 2m.
	ClockSkew time.Duration
	// MaxTokenAge is how long after iat a token is accepted. Default 1h, which
	// covers most CI jobs that get their token at the start and sign at the end;
	// where only people sign, minutes are better.
	MaxTokenAge time.Duration
	// MaxTokenLifetime is how long after iat a token's exp may lie. Default 24h;
	// an issuer that hands out longer ones is refused until this is raised.
	MaxTokenLifetime time.Duration
	// Refresh is how often keys are fetched: the time in which a withdrawn key
	// stops working. Default 10m, between 10s and 24h. A shorter max-age of the
	// key set's Cache-Control is honoured, down to a minute.
	Refresh time.Duration
	// MaxStale is how long keys keep working while the issuer cannot be
	// reached. Default 24h, at least Refresh.
	MaxStale time.Duration
	// RootCAs verify the issuer's TLS certificate; nil means the system's.
	RootCAs *x509.CertPool
	// AllowInsecureHTTP permits an http URL, on a loopback host only; it is
	// refused with any other URL.
	AllowInsecureHTTP bool
	// JWKSHosts are hosts, "name" or "name:port", that jwks_uri may point to
	// beside the issuer's own. Without port, the default one of the scheme.
	JWKSHosts []string
	// AllowNoKeyID accepts tokens without kid while the issuer publishes exactly
	// one usable key.
	AllowNoKeyID bool
	// EmailVerifiedString also takes the strings "true" and "false" in
	// email_verified, as Amazon Cognito and AD FS claim rules send them.
	EmailVerifiedString bool

	// AcceptedIssuers are further values of iss that mean this provider, at most
	// four. AD FS writes another one into its access tokens. The identity, and so
	// the certificate, has URL whichever the token says. They are names only and
	// never fetched, so http is no weakness here.
	AcceptedIssuers []string
	// Accept is the kind of token that is accepted; empty means [IDToken]. An
	// issuer that accepts [AccessToken] must list its AuthorizedParties.
	Accept TokenKind
	// RequiredScopes must all be granted to an access token (scope or scp).
	RequiredScopes []string

	// JWKSURL is where the key set is, for providers whose discovery document
	// cannot be used. There is then no discovery, and the host of JWKSURL is
	// allowed like one of JWKSHosts.
	JWKSURL string
	// StaticJWKS is a key set given by the operator, for sites without a way to
	// the provider. Nothing is fetched, and the keys never become stale.
	StaticJWKS []byte
	// DiscoveryQuery is added to the discovery URL: "appid=" and the client's id,
	// with which Entra ID names the keys of an application that has its own.
	DiscoveryQuery string
	// ScheduleOnly fetches keys at their schedule and never sooner. Otherwise a
	// token with an unknown key, or a signature that does not verify, may cause
	// an earlier refresh: see the package documentation for how many.
	ScheduleOnly bool
	// ClientCertFile and ClientKeyFile are the certificate and key, in PEM, that
	// we show the provider. They are read for each connection.
	ClientCertFile, ClientKeyFile string
	// BearerTokenFile holds a token that the provider's endpoints ask for, as
	// those of Kubernetes do. It is read for each request and sent to no host
	// but the issuer's own, that of JWKSURL and JWKSHosts.
	BearerTokenFile string
	// Proxy is the http or https proxy to the provider; empty means that of the
	// environment. Names are then resolved by the proxy, and what addresses they
	// may have is the proxy's to decide.
	Proxy string
	// AllowLoopback are loopback addresses or networks that names of the provider
	// may resolve to although its URL names none.
	AllowLoopback []netip.Prefix

	// MaxCertificatesPerToken is how often one token is verified; zero means
	// without limit. OneTime is a limit of one, under a reason of its own. Both
	// hold for one Verifier, that is for one replica since its start.
	MaxCertificatesPerToken int
	OneTime                 bool
}

// TokenKind is a kind of token.
type TokenKind string

// The kinds of token. Tokens of workloads (Kubernetes, GitLab, SPIFFE) are ID
// tokens in this respect: they are not made for calling an API.
const (
	IDToken     TokenKind = "id_token"
	AccessToken TokenKind = "access_token"
)

// Config configures a [Verifier].
type Config struct {
	Issuers []Issuer
	// BlockedKeys are RFC 7638 SHA-256 thumbprints, in base64url, of keys that
	// verify nothing, whoever publishes them: a provider whose key was stolen may
	// take its time to withdraw it.
	BlockedKeys []string
	// CacheDir is where the last good keys of each issuer are kept, so that a
	// restart during an outage of the provider has keys. It is made if missing,
	// for its owner alone, because whoever can write to it can make tokens. Empty
	// means that nothing is kept.
	CacheDir string
	// MaxTokenBytes bounds the length of a token. Default 16384, at most 65536;
	// a token of Entra ID with 200 groups has about 10 KB.
	MaxTokenBytes int
	// Previous is the Verifier that this one follows when the configuration is
	// reloaded; nil at a start. What was remembered of tokens that were used is
	// shared with it, or a reload would make every one of them new.
	Previous *Verifier
	// Clock is what tokens and key ages are measured by; nil means time.Now.
	Clock func() time.Time
	// Logger receives key set changes and refresh failures; nil discards them.
	Logger *slog.Logger
	// Registerer receives the package's metrics; nil means none.
	Registerer prometheus.Registerer
}

// withDefaults returns a checked copy with every optional field filled.
func (c Config) withDefaults() (Config, error) {
	if c.MaxTokenBytes == 0 {
		c.MaxTokenBytes = defaultMaxTokenBytes
	}
	if c.MaxTokenBytes < minTokenBytes || c.MaxTokenBytes > hardMaxTokenBytes {
		return c, fmt.Errorf("oidc: token limit of %d bytes is not between %d and %d",
			c.MaxTokenBytes, minTokenBytes, hardMaxTokenBytes)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.Issuers) == 0 {
		return c, errors.New("oidc: no issuer configured")
	}
	c.Issuers = slices.Clone(c.Issuers)
	names, urls := make(map[string]bool), make(map[string]string)
	for i := range c.Issuers {
		is := &c.Issuers[i]
		if err := is.fill(); err != nil {
			return c, fmt.Errorf("oidc: issuer %q: %w", is.Name, err)
		}
		if names[is.Name] {
			return c, fmt.Errorf("oidc: issuer %q: name used twice", is.Name)
		}
		names[is.Name] = true
		// Two spellings of one issuer would be two identities for one person,
		// and which rules apply would hang on a slash.
		for _, raw := range append([]string{is.URL}, is.AcceptedIssuers...) {
			norm, err := normalURL(raw)
			if err != nil {
				return c, fmt.Errorf("oidc: issuer %q: %w", is.Name, err)
			}
			if other, dup := urls[norm]; dup {
				return c, fmt.Errorf("oidc: issuer %q: URL %q is the same as one of %q", is.Name, raw, other)
			}
			urls[norm] = is.Name
		}
	}
	for _, thumbprint := range c.BlockedKeys {
		if err := checkThumbprint(thumbprint); err != nil {
			return c, fmt.Errorf("oidc: blocked key: %w", err)
		}
	}
	return c, nil
}

func (is *Issuer) fill() error {
	if err := checkName(is.Name); err != nil {
		return err
	}
	if err := is.checkURL(); err != nil {
		return err
	}
	if len(is.Audiences) == 0 {
		return errors.New("no audience")
	}
	for _, list := range [][]string{is.Audiences, is.ExtraAudiences, is.AuthorizedParties, is.RequiredScopes} {
		if slices.Contains(list, "") {
			return errors.New("empty string among audiences, authorized parties or scopes")
		}
	}
	if err := is.fillKind(); err != nil {
		return err
	}
	if len(is.Algorithms) == 0 {
		is.Algorithms = defaultAlgorithms
	}
	for _, alg := range is.Algorithms {
		if _, ok := algorithms[alg]; !ok {
			return fmt.Errorf("algorithm %q is not one of ours", alg)
		}
	}
	for _, h := range is.JWKSHosts {
		if u, err := url.Parse("https://" + h); err != nil || h == "" || u.Host != h || u.Hostname() == "" {
			return fmt.Errorf("host %q is not of the form name or name:port", h)
		}
	}
	for _, p := range is.AllowLoopback {
		if !p.IsValid() {
			return errors.New("a loopback network is none")
		}
	}
	if err := is.checkKeySource(); err != nil {
		return err
	}
	return is.fillDurations()
}

func (is *Issuer) fillKind() error {
	switch {
	case is.MaxCertificatesPerToken < 0:
		return errors.New("negative number of certificates per token")
	case is.Accept == "" || is.Accept == IDToken:
		if len(is.RequiredScopes) > 0 {
			return errors.New("scopes are required, but ID tokens have none")
		}
		is.Accept = IDToken
	case is.Accept != AccessToken:
		return fmt.Errorf("token kind %.40q is not %q or %q", is.Accept, IDToken, AccessToken)
	case len(is.AuthorizedParties) == 0:
		// An access token is for the API, whose name says nothing about the
		// client: without a list, every client of the provider could ask.
		return errors.New("access tokens are accepted, but no authorized party is named")
	}
	if len(is.AuthorizedParties) == 0 {
		is.AuthorizedParties = is.Audiences
	}
	return nil
}

func (is *Issuer) fillDurations() error {
	for _, d := range []struct {
		name          string
		value         *time.Duration
		zero, min, at time.Duration
	}{
		{"clock skew", &is.ClockSkew, defaultClockSkew, time.Second, maxClockSkew},
		{"maximal token age", &is.MaxTokenAge, defaultMaxTokenAge, time.Second, 366 * 24 * time.Hour},
		{"maximal token lifetime", &is.MaxTokenLifetime, defaultMaxTokenLifetime, time.Second, 366 * 24 * time.Hour},
		{"refresh", &is.Refresh, defaultRefresh, minRefresh, maxRefresh},
		{"maximal staleness", &is.MaxStale, max(defaultMaxStale, is.Refresh), minRefresh, 366 * 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.zero
		}
		if *d.value < d.min || *d.value > d.at {
			return fmt.Errorf("%s of %v is not between %v and %v", d.name, *d.value, d.min, d.at)
		}
	}
	if is.MaxStale < is.Refresh {
		return fmt.Errorf("maximal staleness of %v is below the refresh of %v", is.MaxStale, is.Refresh)
	}
	return nil
}

// checkName keeps metric labels and log lines tame.
func checkName(name string) error {
	if name == "" || len(name) > 64 || name == unknownIssuer {
		return errors.New("name is empty, longer than 64 or reserved")
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && !strings.ContainsRune("._-", rune(c)) {
			return fmt.Errorf("name contains %q", c)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
