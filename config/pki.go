package config

import "time"

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
	// Policies are the certificate policies (RFC 5280, Section 4.2.1.4) that
	// certificates name, as object identifiers; default none.
	Policies []string `yaml:"policies,omitempty"`
	// NoRevAvail says in certificates that nobody publishes their revocation
	// (RFC 9608); default false. Not together with a chain's CRLURL.
	NoRevAvail bool `yaml:"no_rev_avail,omitempty"`
}

// DefaultName is the profile that always exists, and the authority of a chain
// that names none.
const DefaultName = "default"

// Authority is a CA of its own within the service, such as that of a tenant: it
// has its own chains and trust files, and those who trust it trust no other.
// Hosts or PathPrefix must be given, or both.
type Authority struct {
	// Name is what chains and rules call the authority. Required, unique; not
	// default, which always exists.
	Name string `yaml:"name"`
	// Hosts are host names, in lower case and without port, under which clients
	// reach the authority; the server certificate must hold them. Default none.
	Hosts []string `yaml:"hosts,omitempty"`
	// PathPrefix is a path under which clients reach the authority at every
	// host, such as /team: its API is then below /team/api. Default none. gRPC
	// has no place for it and needs Hosts.
	PathPrefix string `yaml:"path_prefix,omitempty"`
}

// Token is a PKCS#11 token: an HSM, a partition of one, or a software token.
// What Mayfly is to use is found by URI, or by Label, Serial, Manufacturer and
// Model, all of those given; exactly one token must match.
type Token struct {
	// Name is what keys, metrics and logs call the token. Required, unique.
	Name string `yaml:"name"`
	// Module is the vendor's PKCS#11 library, by absolute path. Required. It
	// becomes part of the process: nobody but root may be able to change it.
	Module string `yaml:"module" config:"module"`
	// URI is an RFC 7512 URI such as pkcs11:token=mayfly;serial=1234, in place of
	// the four keys below.
	URI string `yaml:"uri,omitempty"`
	// Label is the token's label.
	Label string `yaml:"label,omitempty"`
	// Serial is the token's serial number.
	Serial string `yaml:"serial,omitempty"`
	// Manufacturer is the token's manufacturer.
	Manufacturer string `yaml:"manufacturer,omitempty"`
	// Model is the token's model.
	Model string `yaml:"model,omitempty"`
	// PINFile holds the PIN of the token's user in its only line. Required. It is
	// read again whenever Mayfly logs in again.
	PINFile string `yaml:"pin_file" config:"file"`
	// MaxSessions is how many sessions, and so signatures at once, Mayfly uses;
	// default 8, from 2 to 1024. Some tokens allow 16 to all their users together.
	MaxSessions int `yaml:"max_sessions"`
}

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
	// CrossSigned are PEM files with further paths for the same issuing key and
	// subject, for verifiers who trust another root; default none. They are in the
	// trust files right after Certificates.
	CrossSigned []string `yaml:"cross_signed,omitempty" config:"file"`
	// Key is the private key of the issuing certificate. Required until Retire.
	Key Key `yaml:"key,omitempty"`
	// PublishFrom is when the chain enters the trust files; RFC 3339, default at
	// once. Give clients at least MinLead between it and Activate.
	PublishFrom time.Time `yaml:"publish_from,omitempty"`
	// Activate is when the chain starts to sign; RFC 3339, default at once.
	Activate time.Time `yaml:"activate,omitempty"`
	// Retire is when the chain stops to sign for good; RFC 3339, default never.
	// It stays in the trust files until its entry is removed.
	Retire time.Time `yaml:"retire,omitempty"`
	// MinLead is how long the chain must have been in the trust files before it
	// signs; default 24h, from 1m to 2160h. A reload that would let it sign sooner
	// is refused. Clients who keep trust files for longer need more.
	MinLead time.Duration `yaml:"min_lead"`
	// Emergency lets the chain sign sooner than MinLead; default false. Clients
	// with older trust files will refuse its certificates: it is for the day on
	// which the old key must not sign once more.
	Emergency bool `yaml:"emergency,omitempty"`
	// CAIssuersURL is where the issuing certificate can be fetched, for the
	// authority information access of certificates; default none.
	CAIssuersURL string `yaml:"ca_issuers_url,omitempty"`
	// CRLURL is where the issuing CA's revocation list can be fetched, for the
	// distribution point of certificates; default none. Mayfly revokes nothing and
	// makes no list.
	CRLURL string `yaml:"crl_url,omitempty"`
}

// Active reports that the chain may sign at the given time.
func (c Chain) Active(at time.Time) bool {
	return !at.Before(c.Activate) && !c.Retired(at)
}

// Retired reports that the chain never signs again, so that it needs no key.
func (c Chain) Retired(at time.Time) bool {
	return !c.Retire.IsZero() && !at.Before(c.Retire)
}

// Key names a key, of a chain or of the embedded log: in a file, or by its object
// on one or more tokens.
type Key struct {
	// File is a PEM file with the private key: PKCS#8, encrypted or not; P-256, or
	// for a chain also P-384 or RSA. Its permissions must keep others out.
	File string `yaml:"file,omitempty" config:"file"`
	// PassphraseFile holds the passphrase of an encrypted key in its only line;
	// default none, for a key that is not encrypted.
	PassphraseFile string `yaml:"passphrase_file,omitempty" config:"file"`
	// Tokens are names of tokens that hold the key, the preferred one first: the
	// same key on each. Another one signs while those before it cannot.
	Tokens []string `yaml:"tokens,omitempty"`
	// Object is the key's label (CKA_LABEL) on the tokens.
	Object string `yaml:"object,omitempty"`
	// ID is the key's id (CKA_ID) on the tokens, in hexadecimal.
	ID string `yaml:"id,omitempty"`
	// URI is an RFC 7512 URI such as pkcs11:object=mayfly;id=%01, in place of
	// Object and ID.
	URI string `yaml:"uri,omitempty"`
	// AllowExtractable accepts a key that its token would hand out, or does not
	// keep secret; default false.
	AllowExtractable bool `yaml:"allow_extractable,omitempty"`
}

// Given reports that the key is named at all; that of a retired chain need not
// be.
func (k Key) Given() bool { return k.File != "" || len(k.Tokens) > 0 }
