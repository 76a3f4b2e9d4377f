package config

import (
	"net/netip"
	"path/filepath"
	"time"
)

// Config is the whole configuration: as decoded, with defaults applied and paths
// made absolute.
type Config struct {
	// Listen is where clients reach the service.
	Listen Listen `yaml:"listen"`
	// PublicURL is the https URL under which clients reach the service; it goes
	// into signing_config.json and into the URLs of the embedded log. Required.
	// No trailing slash, query or fragment. Plain http is accepted only for a
	// loopback host together with listen.plaintext.
	PublicURL string `yaml:"public_url"`
	// Metrics is the address of the Prometheus endpoint, host:port; default
	// empty, which switches it off. It has no authentication: bind it to an
	// internal interface.
	Metrics string `yaml:"metrics,omitempty"`
	// State is the directory of the journal, the embedded log and caches. One
	// process owns it. Required.
	State string `yaml:"state" config:"path"`
	// Admin is how administrators reach the running service.
	Admin Admin `yaml:"admin,omitempty"`
	// Shutdown is how long requests in flight may take to finish once the
	// service was told to stop; default 15s, from 1s to 5m.
	Shutdown time.Duration `yaml:"shutdown"`
	// Logging is what the service says about itself on standard error.
	Logging Logging `yaml:"logging"`
	// Limits bound what clients may ask for.
	Limits Limits `yaml:"limits"`
	// Issuers are the OpenID providers whose tokens are accepted; at least one.
	// No token of any other provider is looked at.
	Issuers []Issuer `yaml:"issuers"`
	// Profiles are the kinds of certificate. A profile named "default" always
	// exists; it is added when the list does not have it.
	Profiles []Profile `yaml:"profiles"`
	// Authorities are what certificates can be issued from besides the authority
	// "default", which always exists and is served at every address that no other
	// one claims.
	Authorities []Authority `yaml:"authorities,omitempty"`
	// Tokens are PKCS#11 tokens, such as HSMs, that hold CA keys.
	Tokens []Token `yaml:"tokens,omitempty"`
	// Chains are the CA keys with their certificates; at least one of the
	// authority "default" must be active.
	Chains []Chain `yaml:"chains"`
	// Logs are the certificate transparency logs, tried in this order, or the
	// word disabled. Required: there is no certificate without a log unless the
	// operator says so.
	Logs Logs `yaml:"logs"`
	// TrustedLogs are logs that this service does not submit to and that are in its
	// trust files all the same: those of other replicas.
	TrustedLogs []TrustedLog `yaml:"trusted_logs,omitempty"`
	// LogAudit is the comparison of what is in the logs with what was issued.
	LogAudit AuditLog `yaml:"log_audit"`
	// TimestampAuthorities are RFC 3161 services that clients are told about in
	// trusted_root.json and signing_config.json. Mayfly never calls them.
	TimestampAuthorities []TimestampAuthority `yaml:"timestamp_authorities,omitempty"`
}

// Listen is where clients reach the service: REST, gRPC, trust files and the
// embedded log's read path share one address. TLS or Plaintext must be given,
// and not both.
type Listen struct {
	// Address is host:port; default ":8443", all interfaces.
	Address string `yaml:"address"`
	// TLS is the server certificate. The files are read again when they change.
	TLS TLS `yaml:"tls,omitempty"`
	// Plaintext serves without TLS, for use behind a proxy that terminates it;
	// default false. Tokens then travel in the clear between proxy and service.
	Plaintext bool `yaml:"plaintext,omitempty"`
	// TrustedProxies are the addresses (CIDR or IP) of proxies whose forwarded
	// client addresses count for limits and audit; default none.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies,omitempty"`
}

// TLS names the files of the server certificate.
type TLS struct {
	// Certificate is a PEM file: server certificate first, then intermediates.
	Certificate string `yaml:"certificate,omitempty" config:"file"`
	// Key is a PEM file with the certificate's private key.
	Key string `yaml:"key,omitempty" config:"file"`
}

// Logging says how much is logged and how.
type Logging struct {
	// Level is the least severe level that is logged: debug, info, warn or
	// error; default info.
	Level string `yaml:"level"`
	// Format is json or text; default json.
	Format string `yaml:"format"`
}

// Limits bound what clients may ask for. What is over a limit is answered with
// 429 or 503 and a Retry-After.
type Limits struct {
	// PerIdentity is how often one verified identity may ask; default 60/min.
	PerIdentity Rate `yaml:"per_identity"`
	// PerAddress is how often one client address may ask; default 600/min.
	// Behind a proxy it needs listen.trusted_proxies to mean anything.
	PerAddress Rate `yaml:"per_address"`
	// InFlight is how many requests with a verified token may be worked on at
	// once; default 256, from 1 to 65536.
	InFlight int `yaml:"in_flight"`
	// TokenSize is the longest token accepted; default 16KiB, from 1KiB to
	// 64KiB. Raise it for providers that list hundreds of groups.
	TokenSize Size `yaml:"token_size"`
}

// Admin is how administrators reach the running service.
type Admin struct {
	// Socket is the Unix socket for mayfly freeze, reload and the like; default
	// admin.sock in the state directory. It is made with mode 0600, in a directory
	// that must exist.
	Socket string `yaml:"socket,omitempty" config:"path"`
}

// AdminSocket is the socket for administrators, default applied.
func (c *Config) AdminSocket() string {
	if c.Admin.Socket != "" {
		return c.Admin.Socket
	}
	return filepath.Join(c.State, "admin.sock")
}

// TimestampAuthority is an RFC 3161 service that clients are told about.
type TimestampAuthority struct {
	// URL is where clients send timestamp requests. Required; http or https, for
	// the answers are signed.
	URL string `yaml:"url"`
	// Certificates is a PEM file with the authority's chain: the signing
	// certificate first, the root last. Required.
	Certificates string `yaml:"certificates" config:"file"`
}
