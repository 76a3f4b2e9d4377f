package config

import (
	"net/netip"
	"slices"
	"time"
)

// Issuer is an OpenID provider whose tokens are accepted.
//
// A field marked with the config tag "preset" is zero when the file does not
// say it; its default is then the preset's, or the one told here when the preset
// has none.
type Issuer struct {
	// Name is what metrics and audit records call the issuer. Required, unique.
	Name string `yaml:"name"`
	// Preset is the kind of provider, which brings defaults for the other keys:
	// generic, keycloak, adfs, entra, gitlab, github, jenkins, kubernetes or
	// spiffe; default generic, which brings none.
	Preset string `yaml:"preset"`
	// URL is the issuer, compared byte for byte with the iss claim. Required;
	// https, no query or fragment.
	URL string `yaml:"url"`
	// AcceptedIssuers are further values of iss in tokens of this provider, as
	// AD FS puts another one into access tokens; default the preset's, which has
	// some for access tokens only, else none.
	// Certificates name URL all the same. Nothing is fetched from them.
	AcceptedIssuers []string `yaml:"accepted_issuers,omitempty" config:"preset"`
	// Accept is the kind of token: id_token or access_token; default the
	// preset's, else id_token.
	Accept string `yaml:"accept,omitempty" config:"preset"`
	// Audiences are the accepted members of aud; a token needs one of them.
	// Required.
	Audiences []string `yaml:"audiences"`
	// ExtraAudiences may stand beside an accepted audience in a token; any other
	// further audience is refused. Default the preset's, else none.
	ExtraAudiences []string `yaml:"extra_audiences,omitempty" config:"preset"`
	// AuthorizedParties are the accepted values of azp, the client that the
	// token was made for; default the audiences.
	AuthorizedParties []string `yaml:"authorized_parties,omitempty"`
	// RequiredScopes must all be granted to an access token (scope or scp);
	// default none. Only with accept access_token: ID tokens have no scopes.
	RequiredScopes []string `yaml:"required_scopes,omitempty"`
	// Algorithms are the accepted signature algorithms: RS256, RS384, RS512,
	// PS256, PS384, PS512, ES256, ES384, ES512, EdDSA; default the preset's, else
	// [RS256]. Discovery never widens the list.
	Algorithms []string `yaml:"algorithms,omitempty" config:"preset"`
	// CAFile is a PEM file with the only roots trusted for this provider's TLS
	// certificate; default the system's roots.
	CAFile string `yaml:"ca_file,omitempty" config:"file"`
	// ClientCertificate is a PEM file with the certificate, then intermediates,
	// that we show to the provider, with ClientKey; default none. Both are read
	// again when they change.
	ClientCertificate string `yaml:"client_certificate,omitempty" config:"file"`
	// ClientKey is a PEM file with the private key of ClientCertificate.
	ClientKey string `yaml:"client_key,omitempty" config:"file"`
	// BearerTokenFile holds a token that is sent along when keys are fetched, as
	// Kubernetes demands it; default none. It is read again for each fetch, and
	// goes to the issuer's host, that of JWKSURL and JWKSHosts only.
	BearerTokenFile string `yaml:"bearer_token_file,omitempty" config:"file"`
	// Proxy is the http or https URL of the proxy through which the provider is
	// reached; default what the variables HTTPS_PROXY and NO_PROXY say.
	Proxy string `yaml:"proxy,omitempty"`
	// AllowLoopback are loopback addresses or networks that the provider's names
	// may lead to; default none. A URL that itself names one needs no entry.
	AllowLoopback []netip.Prefix `yaml:"allow_loopback,omitempty"`
	// InsecureHTTP accepts a plain http URL, on a loopback host only; default
	// false. Whoever can answer for that port can issue any identity.
	InsecureHTTP bool `yaml:"insecure_http,omitempty"`
	// JWKSHosts are hosts (host or host:port), beside the issuer's own, from
	// which its keys may be fetched; default none.
	JWKSHosts []string `yaml:"jwks_hosts,omitempty"`
	// JWKSURL is where the keys are; default what the issuer's discovery
	// document says, which is then not asked. Https, or http on a loopback host
	// with InsecureHTTP.
	JWKSURL string `yaml:"jwks_url,omitempty"`
	// JWKSFile holds the keys as a JSON Web Key Set; default none. With it
	// nothing is ever fetched for this issuer, which suits a site without a way
	// to it; keys then change with the file and a reload.
	JWKSFile string `yaml:"jwks_file,omitempty" config:"file"`
	// BlockedKeys are RFC 7638 SHA-256 thumbprints, in base64url, of keys whose
	// tokens are refused although the provider publishes them; default none.
	BlockedKeys []string `yaml:"blocked_keys,omitempty"`
	// AppID is the application's id in Entra ID, asked for in discovery
	// (?appid=), when the application has signing keys of its own; default none.
	AppID string `yaml:"app_id,omitempty"`
	// ClockSkew is the allowance between the provider's clock and ours; default
	// 30s, from 1s to 2m.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// MaxTokenAge is the greatest time since iat; default the preset's, else 1h,
	// from 1m to 24h. 10m is plenty when people log in; pipelines get their token
	// at the start of a job.
	MaxTokenAge time.Duration `yaml:"max_token_age,omitempty" config:"preset"`
	// MaxTokenLifetime is the greatest time from iat to exp; default the
	// preset's, else 24h, from 1m to 168h. A token made for longer is refused
	// even when it is young.
	MaxTokenLifetime time.Duration `yaml:"max_token_lifetime,omitempty" config:"preset"`
	// MaxCertificatesPerToken is how many certificates one token may get from
	// this replica, from 1 to 1000; default none, which is any number.
	MaxCertificatesPerToken int `yaml:"max_certificates_per_token,omitempty"`
	// OneTimeTokens refuses a token that this replica has seen before; default
	// false. It breaks clients that sign twice with one token.
	OneTimeTokens bool `yaml:"one_time_tokens,omitempty"`
	// Refresh is how often the provider's keys are fetched; default 10m, from 1m
	// to 24h.
	Refresh time.Duration `yaml:"refresh"`
	// RefreshOnlyOnSchedule never fetches the keys sooner than Refresh says;
	// default false, which is that a token under an unknown key may cause an
	// earlier fetch, at most twice a minute. With it tokens under a new key are
	// refused until the next one.
	RefreshOnlyOnSchedule bool `yaml:"refresh_only_on_schedule,omitempty"`
	// MaxStale is how long keys stay in use while they cannot be fetched again;
	// default 24h, from twice refresh to 168h. A key that the provider revokes
	// during its own outage is trusted for that long.
	MaxStale time.Duration `yaml:"max_stale"`
	// EmailVerifiedString accepts email_verified as the string "true", which
	// some providers send; default false.
	EmailVerifiedString bool `yaml:"email_verified_string,omitempty"`
	// TrustedClaims are claims that the provider's administrators vouch for in
	// every token although the claim alone does not show it, such as email at a
	// provider without email_verified; default the preset's, else none. Rules may
	// then make names of them without a further condition. Not with allow, which
	// takes nothing but a verified email or the sub.
	TrustedClaims []string `yaml:"trusted_claims,omitempty" config:"preset"`
	// Allow says which identities get a certificate without rules: all, every
	// valid token of this issuer, within may_issue. Required unless there are
	// rules or the preset has one.
	Allow string `yaml:"allow,omitempty"`
	// SAN is what the certificate names when Allow is all: email (the verified
	// email claim) or uri (the sub claim, which must be a URI).
	SAN string `yaml:"san,omitempty"`
	// MayIssue bounds the names that this issuer can vouch for. Required.
	MayIssue MayIssue `yaml:"may_issue"`
	// Rules say who gets which certificate, in this order: the first one that
	// matches decides, and without a match there is no certificate. Default the
	// preset's rule.
	Rules []Rule `yaml:"rules,omitempty"`
}

// The presets, which are rows of a table in package policy. PresetGeneric brings
// no defaults.
const (
	PresetGeneric    = "generic"
	PresetKeycloak   = "keycloak"
	PresetADFS       = "adfs"
	PresetEntra      = "entra"
	PresetGitLab     = "gitlab"
	PresetGitHub     = "github"
	PresetJenkins    = "jenkins"
	PresetKubernetes = "kubernetes"
	PresetSPIFFE     = "spiffe"
)

// Values of Issuer.Accept.
const (
	AcceptIDToken     = "id_token"
	AcceptAccessToken = "access_token"
)

// Values of Issuer.Allow and Issuer.SAN.
const (
	AllowAll = "all"
	SANEmail = "email"
	SANURI   = "uri"
)

// MayIssue bounds the names that an issuer can vouch for; one list at least must
// have an entry. What two issuers could both vouch for is an error: a verifier
// who trusts a name would have to trust the weaker of them.
type MayIssue struct {
	// EmailDomains are the domains of email addresses, in lower case. An entry
	// matches exactly; "*.corp.example" matches every domain below corp.example
	// but not corp.example itself. Required for san email.
	EmailDomains []string `yaml:"email_domains,omitempty"`
	// UsernameDomains are what may follow the exclamation mark of user names
	// such as alice!corp.example, in lower case; an entry matches exactly.
	UsernameDomains []string `yaml:"username_domains,omitempty"`
	// URIPrefixes are what URI names start with: absolute https or spiffe URIs
	// that end in a slash, so that no prefix ends inside a name. Required for
	// san uri.
	URIPrefixes []string `yaml:"uri_prefixes,omitempty"`
}

// Rule says who gets a certificate, and what it says about them. The expressions
// are CEL; docs/policy.md tells what they can use.
type Rule struct {
	// Name is what certificates' audit records and refusals call the rule.
	// Required, unique in its issuer.
	Name string `yaml:"name"`
	// When is the condition, an expression that is true or false; default none,
	// which is always true. A claim that the token does not have is no match.
	When string `yaml:"when,omitempty" config:"expression"`
	// SAN is what the certificate names, an expression such as
	// email(claims.email). Required with the preset generic, else by default that
	// of the preset's first rule, whose condition must then hold as well.
	SAN string `yaml:"san,omitempty" config:"expression"`
	// Extensions are what else the certificate says; default those of the
	// preset's first rule when SAN is too, else none.
	Extensions []Extension `yaml:"extensions,omitempty"`
	// Profile is the name of the certificate profile; default "default".
	Profile string `yaml:"profile"`
	// Authority is what the certificate is issued from, as the chains name it;
	// default "default".
	Authority string `yaml:"authority"`
	// Tests are what config check holds the rules to.
	Tests []RuleTest `yaml:"tests,omitempty"`
}

// Extension is one statement of a certificate, in the terms of Fulcio.
type Extension struct {
	// Name is one of ExtensionNames, such as source_repository_uri. Required,
	// unique in its rule.
	Name string `yaml:"name"`
	// Value is an expression that is a text. Required. The certificate does not
	// have the extension when the text is empty.
	Value string `yaml:"value" config:"expression"`
}

// RuleTest is a set of claims, and what the rules of the issuer answer to it.
type RuleTest struct {
	// Token is a file with the claims of a token as a JSON object. It holds no
	// token. Required.
	Token string `yaml:"token" config:"file"`
	// At is when the request is made; RFC 3339. Required, so that the test does
	// not turn out differently tomorrow.
	At time.Time `yaml:"at"`
	// Expect is the name in the certificate with its kind, such as
	// email:alice@corp.example, uri:https://ci.corp.example/a or
	// username:alice!corp.example, that this rule gives; or refuse, or
	// refuse:REASON with the reason that clients are told. Required.
	Expect string `yaml:"expect"`
}

// Refuse starts a RuleTest.Expect that is not a name.
const Refuse = "refuse"

// statement is what a certificate can say below 1.3.6.1.4.1.57264.1, and the last
// number of its object identifier.
type statement struct {
	name   string
	number int
}

// Numbers 1, 8 and 24 tell issuer and subject, which cannot be chosen; 7 is a
// kind of name.
var statements = []statement{
	{"github_workflow_trigger", 2},
	{"github_workflow_sha", 3},
	{"github_workflow_name", 4},
	{"github_workflow_repository", 5},
	{"github_workflow_ref", 6},
	{"build_signer_uri", 9},
	{"build_signer_digest", 10},
	{"runner_environment", 11},
	{"source_repository_uri", 12},
	{"source_repository_digest", 13},
	{"source_repository_ref", 14},
	{"source_repository_identifier", 15},
	{"source_repository_owner_uri", 16},
	{"source_repository_owner_identifier", 17},
	{"build_config_uri", 18},
	{"build_config_digest", 19},
	{"build_trigger", 20},
	{"run_invocation_uri", 21},
	{"source_repository_visibility_at_signing", 22},
	{"deployment_environment", 23},
}

// ExtensionNames lists the values of Extension.Name in the order of their
// numbers.
func ExtensionNames() []string {
	names := make([]string, len(statements))
	for i, s := range statements {
		names[i] = s.name
	}
	return names
}

// ExtensionNumber returns the last number of the extension's object identifier,
// 1.3.6.1.4.1.57264.1.N, and whether there is an extension of that name.
func ExtensionNumber(name string) (int, bool) {
	i := slices.IndexFunc(statements, func(s statement) bool { return s.name == name })
	if i < 0 {
		return 0, false
	}
	return statements[i].number, true
}
