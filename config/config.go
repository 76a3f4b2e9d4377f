package config

import (
	"net/netip"
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
	// Chains are the CA keys with their certificates; at least one of the
	// authority "default" must be active.
	Chains []Chain `yaml:"chains"`
	// Logs are the certificate transparency logs, tried in this order, or the
	// word disabled. Required: there is no certificate without a log unless the
	// operator says so.
	Logs Logs `yaml:"logs"`
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
	// InFlight is how many requests may be worked on at once; default 256, from
	// 1 to 65536.
	InFlight int `yaml:"in_flight"`
	// TokenSize is the longest token accepted; default 16KiB, from 1KiB to
	// 64KiB. Raise it for providers that list hundreds of groups.
	TokenSize Size `yaml:"token_size"`
}

// Profile is a kind of certificate.
type Profile struct {
	// Name is the profile's name. Required, unique.
	Name string `yaml:"name"`
	// Lifetime is the whole validity, from notBefore to notAfter; default 10m,
	// from 1m to 10m.
	Lifetime time.Duration `yaml:"lifetime"`
	// Backdate is the part of Lifetime that lies before the time of issuance,
	// for verifiers whose clocks are behind; default 30s, from 0s to 60s, less
	// than Lifetime.
	Backdate time.Duration `yaml:"backdate"`
	// Keys are the accepted kinds of client keys: ecdsa-p256, ecdsa-p384,
	// ecdsa-p521, rsa-2048, rsa-3072, rsa-4096, ed25519; default all of them.
	Keys []string `yaml:"keys"`
}

// DefaultName is the profile that always exists, and the authority of a chain
// that names none.
const DefaultName = "default"

// Chain is a CA key with its certificates. Of the chains of an authority, the
// one with the latest past Activate signs; the clock alone decides.
type Chain struct {
	// Name is what audit records call the chain. Required, unique.
	Name string `yaml:"name"`
	// Authority is what the chain issues for; default "default". Trust files are
	// per authority.
	Authority string `yaml:"authority"`
	// Certificates is a PEM file: the issuing certificate first, the root last.
	// Required.
	Certificates string `yaml:"certificates" config:"file"`
	// Key is the private key of the issuing certificate. Required until Retire.
	Key Key `yaml:"key,omitempty"`
	// PublishFrom is when the chain enters the trust files; RFC 3339, default at
	// once. Give clients at least 24h between it and Activate.
	PublishFrom time.Time `yaml:"publish_from,omitempty"`
	// Activate is when the chain starts to sign; RFC 3339, default at once.
	Activate time.Time `yaml:"activate,omitempty"`
	// Retire is when the chain stops to sign for good; RFC 3339, default never.
	// It stays in the trust files until its entry is removed.
	Retire time.Time `yaml:"retire,omitempty"`
}

// Active reports that the chain may sign at the given time.
func (c Chain) Active(at time.Time) bool {
	return !at.Before(c.Activate) && !c.Retired(at)
}

// Retired reports that the chain never signs again, so that it needs no key.
func (c Chain) Retired(at time.Time) bool {
	return !c.Retire.IsZero() && !at.Before(c.Retire)
}

// Key names a CA key in a file.
type Key struct {
	// File is a PEM file with the private key: PKCS#8, encrypted or not, P-256,
	// P-384 or RSA. Its permissions must keep others out.
	File string `yaml:"file,omitempty" config:"file"`
	// PassphraseFile holds the passphrase of an encrypted key in its only line;
	// default none, for a key that is not encrypted.
	PassphraseFile string `yaml:"passphrase_file,omitempty" config:"file"`
}

// Log is a certificate transparency log: Embedded or Remote must be given, and
// not both.
type Log struct {
	// Name is what metrics and audit records call the log. Required, unique.
	Name string `yaml:"name"`
	// Embedded is the log in the state directory, made there beforehand by
	// mayfly log init. At most one.
	Embedded *EmbeddedLog `yaml:"embedded,omitempty"`
	// Remote is a log that speaks RFC 6962 over the network.
	Remote *RemoteLog `yaml:"remote,omitempty"`
}

// EmbeddedLog is the log in the state directory.
type EmbeddedLog struct {
	// CheckpointRecord is a file outside the state directory, best on another
	// disk, that keeps the last checkpoint, so that a restored old copy of the
	// log is noticed; default none, which leaves that unnoticed.
	CheckpointRecord string `yaml:"checkpoint_record,omitempty" config:"path"`
}

// RemoteLog is a log that speaks RFC 6962 over the network.
type RemoteLog struct {
	// URL is the log's submission prefix, to which /ct/v1/add-pre-chain is
	// added. Required; https, or http on a loopback host.
	URL string `yaml:"url"`
	// PublicKey is a file with the log's public key, PEM or DER. Required: an SCT
	// is embedded only after it was verified.
	PublicKey string `yaml:"public_key" config:"file"`
	// CAFile is a PEM file with the only roots trusted for the log's TLS
	// certificate; default the system's roots.
	CAFile string `yaml:"ca_file,omitempty" config:"file"`
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
