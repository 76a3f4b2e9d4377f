package config

import (
	"net/url"
	"path/filepath"
	"time"
)

// maxLifetime is the promise of the whole product, and what verifiers' policies
// are written for.
const maxLifetime = 10 * time.Minute

func (c *checker) profiles() {
	names := make(map[string]int)
	for i, p := range c.file.Profiles {
		at := index("profiles", i)
		c.name("profiles", i, p.Name, names)
		c.duration(join(at, "lifetime"), p.Lifetime, time.Minute, maxLifetime)
		c.duration(join(at, "backdate"), p.Backdate, 0, time.Minute)
		if p.Backdate >= p.Lifetime && p.Backdate <= time.Minute {
			c.bad(join(at, "backdate"), "the certificate would be expired when it is issued; make backdate shorter than lifetime")
		}
		// RFC 5280, Section 4.1.2.5.2: GeneralizedTime "MUST NOT include
		// fractional seconds", and neither can UTCTime.
		if p.Lifetime%time.Second != 0 {
			c.bad(join(at, "lifetime"), "certificates know whole seconds only; write whole seconds")
		}
		if p.Backdate%time.Second != 0 {
			c.bad(join(at, "backdate"), "certificates know whole seconds only; write whole seconds")
		}
		c.words(join(at, "keys"), p.Keys, keyKinds)
	}
}

func (c *checker) chains() {
	if len(c.file.Chains) == 0 {
		c.bad("chains", "required; list at least one CA key with its certificates")
		return
	}
	type start struct {
		authority string
		activate  time.Time
	}
	names, starts := make(map[string]int), make(map[start]int)
	active := false
	for i, ch := range c.file.Chains {
		at := index("chains", i)
		c.name("chains", i, ch.Name, names)
		if !nameForm.MatchString(ch.Authority) {
			c.bad(join(at, "authority"), "%q is not usable; write lower-case letters, digits, dots, dashes and underscores, or remove the key", clip(ch.Authority))
		}
		if ch.Certificates == "" {
			c.bad(join(at, "certificates"), "required; name the PEM file with the issuing certificate first and the root last")
		}
		c.chainKey(at, ch)
		c.chainTimes(at, ch)
		s := start{ch.Authority, ch.Activate}
		if first, again := starts[s]; again {
			c.bad(join(at, "activate"), "the chain in line %d of the same authority starts at the same time; give each its own activate, so that it is clear which one signs",
				c.file.Line(index("chains", first)))
		} else {
			starts[s] = i
		}
		active = active || (ch.Authority == DefaultName && ch.Active(c.now))
	}
	if !active {
		c.bad("chains", "no chain of the authority %q is active now; let one have a past activate and no past retire", DefaultName)
	}
}

func (c *checker) chainKey(at string, ch Chain) {
	switch {
	case ch.Key.File != "" || ch.Retired(c.now):
	case ch.Key.PassphraseFile != "":
		c.bad(join(at, "key.file"), "required with key.passphrase_file; name the PEM file with the private key")
	default:
		c.bad(join(at, "key"), "required until the chain is retired; write key: {file: FILE}")
	}
	if ch.Key.File != "" && ch.Key.File == ch.Key.PassphraseFile {
		c.bad(join(at, "key.passphrase_file"), "this is the key file itself; name the file that holds the passphrase")
	}
}

func (c *checker) chainTimes(at string, ch Chain) {
	if ch.PublishFrom.After(ch.Activate) {
		c.bad(join(at, "publish_from"), "clients would meet certificates of a chain they have not heard of; let publish_from precede activate, best by 24h or more")
	}
	if !ch.Retire.IsZero() && !ch.Retire.After(ch.Activate) {
		c.bad(join(at, "retire"), "the chain would retire before it signs; let retire follow activate")
	}
}

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
}

func (c *checker) embedded(at string, e EmbeddedLog) {
	if e.CheckpointRecord == "" || c.file.State == "" {
		return
	}
	rel, err := filepath.Rel(c.file.State, e.CheckpointRecord)
	if err == nil && filepath.IsLocal(rel) {
		c.bad(join(at, "checkpoint_record"), "a copy of the state directory would hold this file too, and restoring it would go unnoticed; name a file elsewhere, best on another disk")
	}
}

func (c *checker) remote(at string, r RemoteLog) {
	c.serviceURL(join(at, "url"), r.URL, func(u *url.URL) {
		if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			c.bad(join(at, "url"), "plain http is accepted on a loopback host only; use https")
		}
	})
	if r.PublicKey == "" {
		c.bad(join(at, "public_key"), "required; name the file with the log's public key, without which its answers cannot be verified")
	}
}

func (c *checker) timestampAuthorities() {
	urls := make(map[string]int)
	for i, t := range c.file.TimestampAuthorities {
		at := index("timestamp_authorities", i)
		c.serviceURL(join(at, "url"), t.URL, func(u *url.URL) {
			same := canonicalURL(u)
			if first, again := urls[same]; again {
				c.bad(join(at, "url"), "the entry in line %d has the same URL; remove one of them", c.file.Line(index("timestamp_authorities", first)))
				return
			}
			urls[same] = i
		})
		if t.Certificates == "" {
			c.bad(join(at, "certificates"), "required; name the PEM file with the authority's chain, signing certificate first")
		}
	}
}

// serviceURL checks a required http or https URL, and then what more there is to
// check about it.
func (c *checker) serviceURL(key, raw string, more func(*url.URL)) {
	if raw == "" {
		c.bad(key, "required; write the URL of the service")
		return
	}
	if u := c.url(key, raw, "https", "http"); u != nil {
		more(u)
	}
}
