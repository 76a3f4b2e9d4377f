package config

import (
	"net/url"
	"path/filepath"
	"time"
)

func (c *checker) logs() {
	logs := c.file.Logs
	if !logs.Disabled && len(logs.List) == 0 {
		c.bad("logs", "required; list at least one log, or write the word %s to issue certificates that stock clients refuse", logsDisabled)
	}
	names := make(map[string]int)
	embedded := -1
	for i, l := range logs.List {
		at := index("logs", i)
		c.name("logs", i, l.Name, names)
		switch {
		case l.Embedded != nil && l.Remote != nil:
			c.bad(at, "a log is either embedded or remote; make two entries of it")
		case l.Embedded == nil && l.Remote == nil:
			c.bad(at, "write embedded: {} for the log in the state directory, or remote: {url: URL, public_key: FILE}")
		}
		if l.Embedded != nil {
			c.embedded(join(at, "embedded"), *l.Embedded)
			if embedded >= 0 {
				c.bad(join(at, "embedded"), "the log in line %d is embedded too, and the state directory holds one; remove one of them", c.file.Line(index("logs", embedded)))
			} else {
				embedded = i
			}
		}
		if l.Remote != nil {
			c.remote(join(at, "remote"), *l.Remote)
		}
	}
	c.trustedLogs()
	c.logAudit()
}

// logAlone refuses what a log alone would not look at.
func (c *checker) logAlone() {
	const useless = "this is the configuration of a log alone, without issuers and chains, which has no use for it; remove it, or add them"
	for key, given := range map[string]int{
		"profiles": len(c.file.Profiles) - 1, "authorities": len(c.file.Authorities), "trusted_logs": len(c.file.TrustedLogs),
		"timestamp_authorities": len(c.file.TimestampAuthorities), "log_audit.journals": len(c.file.LogAudit.Journals),
	} {
		if given > 0 {
			c.bad(key, "%s", useless)
		}
	}
	for i, l := range c.file.Logs.List {
		if l.Remote != nil {
			c.bad(index("logs", i), "%s", useless)
		}
	}
}

func (c *checker) embedded(at string, e EmbeddedLog) {
	if e.CheckpointRecord != "" && c.inState(e.CheckpointRecord) {
		c.bad(join(at, "checkpoint_record"), "a copy of the state directory would hold this file too, and restoring it would go unnoticed; name a file elsewhere, best on another disk")
	}
	if e.Key != nil {
		c.key(join(at, "key"), *e.Key, "write key: {file: FILE}, or key: {tokens: [NAME], object: LABEL}; or remove it for a key that is made with the log")
	}
	if e.Submission != nil {
		c.submission(join(at, "submission"), *e.Submission)
	}
}

// inState reports that a path lies within the state directory.
func (c *checker) inState(path string) bool {
	if c.file.State == "" {
		return false
	}
	rel, err := filepath.Rel(c.file.State, path)
	return err == nil && filepath.IsLocal(rel)
}

func (c *checker) submission(at string, s LogSubmission) {
	if s.Address == "" {
		c.bad(join(at, "address"), "required; write host:port of a listener for submitters only")
	} else {
		c.address(join(at, "address"), s.Address)
	}
	for _, taken := range []string{c.file.Listen.Address, c.file.Metrics} {
		if s.Address != "" && s.Address == taken && !portOpen(taken) {
			c.bad(join(at, "address"), "%s is taken by the service or its metrics; give submission another port", clip(taken))
		}
	}
	if s.TLS.Certificate == "" {
		c.bad(join(at, "tls.certificate"), "required; name the PEM file with the listener's certificate, without which no submitter could be told from another")
	}
	if s.TLS.Key == "" {
		c.bad(join(at, "tls.key"), "required; name the PEM file with the key of the listener's certificate")
	}
	if s.ClientCA == "" {
		c.bad(join(at, "client_ca"), "required; name the PEM file with the roots of the submitters' client certificates")
	}
	if len(s.Issuers) == 0 {
		c.bad(join(at, "issuers"), "required; list the PEM files with the issuing certificates whose certificates the log takes")
	}
	c.unique(join(at, "issuers"), s.Issuers)
}

func (c *checker) remote(at string, r RemoteLog) {
	c.serviceURL(join(at, "url"), r.URL, func(u *url.URL) { c.notInTheClear(join(at, "url"), u) })
	if r.PublicKey == "" {
		c.bad(join(at, "public_key"), "required; name the file with the log's public key, without which its answers cannot be verified")
	}
	switch cert, key := join(at, "client_certificate"), join(at, "client_key"); {
	case r.ClientCertificate != "" && r.ClientKey == "":
		c.bad(key, "wanted with client_certificate; name the PEM file with its key")
	case r.ClientCertificate == "" && r.ClientKey != "":
		c.bad(cert, "wanted with client_key; name the PEM file with the certificate")
	}
	c.duration(join(at, "timeout"), r.Timeout, 500*time.Millisecond, maxLogTimeout)
	if key := join(at, "monitoring_url"); r.MonitoringURL != "" {
		if u := c.url(key, r.MonitoringURL, "https", "http"); u != nil {
			c.notInTheClear(key, u)
		}
	}
}

// maxLogTimeout leaves time for the rest of a request: npm's client gives up after
// five seconds.
const maxLogTimeout = 2500 * time.Millisecond

func (c *checker) notInTheClear(key string, u *url.URL) {
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		c.bad(key, "plain http is accepted on a loopback host only; use https")
	}
}

func (c *checker) trustedLogs() {
	names := make(map[string]int)
	for i, l := range c.file.TrustedLogs {
		at := index("trusted_logs", i)
		c.name("trusted_logs", i, l.Name, names)
		for j, own := range c.file.Logs.List {
			if l.Name != "" && own.Name == l.Name {
				c.bad(join(at, "name"), "the log in line %d has this name too; rename one of them, or remove this entry if it is the same log, which is trusted anyway", c.file.Line(index("logs", j)))
			}
		}
		c.serviceURL(join(at, "url"), l.URL, func(*url.URL) {})
		if l.PublicKey == "" {
			c.bad(join(at, "public_key"), "required; name the file with the log's public key")
		}
		if l.From.IsZero() {
			c.bad(join(at, "from"), "required; write since when the log gives SCTs, in RFC 3339: clients refuse a log without it")
		} else if !l.Until.IsZero() && !l.Until.After(l.From) {
			c.bad(join(at, "until"), "the log would end before it starts; let until follow from")
		}
	}
}

func (c *checker) logAudit() {
	a := c.file.LogAudit
	c.unique("log_audit.journals", a.Journals)
	for i, dir := range a.Journals {
		if dir != "" && c.inState(dir) {
			c.bad(index("log_audit.journals", i), "this service's own journal is looked at anyway, and its state directory is for nothing else; name a directory elsewhere")
		}
	}
	c.duration("log_audit.interval", a.Interval, 5*time.Second, 10*time.Minute)
}
