package config

import (
	"net/url"
	"path/filepath"
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
