package config

import (
	"slices"
	"time"
)

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

// EmbeddedLog is the log in the state directory, with all its shards.
type EmbeddedLog struct {
	// CheckpointRecord is a file outside the state directory, best on another
	// disk, that keeps the last checkpoint, so that a restored old copy of the
	// log is noticed; default none, which leaves that unnoticed. Shards after the
	// first have each a file of their own, with a dash and the shard behind.
	CheckpointRecord string `yaml:"checkpoint_record,omitempty" config:"path"`
	// Key is an ECDSA P-256 key, in a file or on tokens, for the shard that is made
	// next; a shard remembers where its key is. Default a file log.key in each
	// shard's directory, made with it.
	Key *Key `yaml:"key,omitempty"`
	// Submission lets others submit to the log; default off.
	Submission *LogSubmission `yaml:"submission,omitempty"`
}

// LogAlone reports that the configuration is of a log without a certificate
// authority: it names no issuers and no chains, and others may submit to its log.
func (c *Config) LogAlone() bool {
	return len(c.Issuers) == 0 && len(c.Chains) == 0 &&
		slices.ContainsFunc(c.Logs.List, func(l Log) bool { return l.Embedded != nil && l.Embedded.Submission != nil })
}

// LogSubmission is RFC 6962 submission to the embedded log by other replicas, or
// by another CA: on a listener of its own, and only with a client certificate.
type LogSubmission struct {
	// Address is host:port. Required; not that of the service.
	Address string `yaml:"address"`
	// TLS is the listener's certificate. Required. The files are read again when
	// they change.
	TLS TLS `yaml:"tls,omitempty"`
	// ClientCA is a PEM file with the roots of client certificates. Required. Whoever
	// has a certificate under one of them may submit.
	ClientCA string `yaml:"client_ca" config:"file"`
	// Issuers are PEM files with the issuing certificates whose certificates are
	// taken, and no others. Required.
	Issuers []string `yaml:"issuers" config:"file"`
	// PerClient is how often one client certificate may submit; default 6000/min.
	PerClient Rate `yaml:"per_client"`
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
	// ClientCertificate is a PEM file with the certificate that the log wants of
	// its submitters, and its intermediates; default none. Only the origin of URL
	// gets to see it.
	ClientCertificate string `yaml:"client_certificate,omitempty" config:"file"`
	// ClientKey is a PEM file with the private key of ClientCertificate.
	ClientKey string `yaml:"client_key,omitempty" config:"file"`
	// TokenFile holds a bearer token that the log wants of its submitters in its
	// only line; default none. It is read again when it changes, and sent to the
	// origin of URL only.
	TokenFile string `yaml:"token_file,omitempty" config:"file"`
	// Timeout is how long a submission may take in all, retries included; default
	// 2.5s, from 500ms to 2.5s: clients wait five seconds for all of a request.
	Timeout time.Duration `yaml:"timeout"`
	// MonitoringURL is where the tiles of a static-ct log are read; default none,
	// which means that the log is read at URL, as RFC 6962 says.
	MonitoringURL string `yaml:"monitoring_url,omitempty"`
}

// TrustedLog is a log whose SCTs clients shall accept, although this service does
// not submit to it: replicas that each have a log of their own name each other's,
// so that all publish the same trust files.
type TrustedLog struct {
	// Name tells the log from others in messages. Required, unique among these and
	// Logs.
	Name string `yaml:"name"`
	// URL is what the log is called in the trust files: for the log of another
	// replica, what that replica writes there. Required; http or https. Nothing is
	// fetched from it.
	URL string `yaml:"url"`
	// PublicKey is a file with the log's public key, PEM or DER: P-256. Required.
	PublicKey string `yaml:"public_key" config:"file"`
	// From is since when the log gives SCTs; RFC 3339. Required, since clients
	// refuse a log without it.
	From time.Time `yaml:"from"`
	// Until is when it gave its last one; RFC 3339, default still going on.
	Until time.Time `yaml:"until,omitempty"`
}

// AuditLog is the comparison of what is in the logs with what was issued. An entry
// that no journal knows is a certificate that was made behind the back of Mayfly.
type AuditLog struct {
	// Journals are directories with copies of other replicas' audit journals, which
	// something outside of Mayfly keeps up to date; default none. This service's own
	// journal need not be among them.
	Journals []string `yaml:"journals,omitempty" config:"path"`
	// Interval is how often the logs are read; default 30s, from 5s to 10m.
	Interval time.Duration `yaml:"interval"`
}
