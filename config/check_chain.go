package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

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
		if !c.hasAuthority(ch.Authority) {
			c.bad(join(at, "authority"), "there is no authority %q; add it under authorities, or correct the name", clip(ch.Authority))
		}
		if ch.Certificates == "" {
			c.bad(join(at, "certificates"), "required; name the PEM file with the issuing certificate first and the root last")
		}
		c.unique(join(at, "cross_signed"), ch.CrossSigned)
		missing := "required until the chain is retired; write key: {file: FILE}, or key: {tokens: [NAME], object: LABEL}"
		if ch.Retired(c.now) {
			missing = ""
		}
		c.key(join(at, "key"), ch.Key, missing)
		c.chainTimes(at, ch)
		c.chainURLs(at, ch)
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

func (c *checker) chainTimes(at string, ch Chain) {
	if ch.PublishFrom.After(ch.Activate) {
		c.bad(join(at, "publish_from"), "clients would meet certificates of a chain they have not heard of; let publish_from precede activate, by min_lead or more")
	}
	c.duration(join(at, "min_lead"), ch.MinLead, time.Minute, 90*day)
	if !ch.Retire.IsZero() && !ch.Retire.After(ch.Activate) {
		c.bad(join(at, "retire"), "the chain would retire before it signs; let retire follow activate")
	}
}

// chainURLs checks what goes into certificates. Plain http is usual there, because
// what is fetched is signed, and a verifier that is to check a certificate before
// it can connect would turn in a circle.
func (c *checker) chainURLs(at string, ch Chain) {
	for key, raw := range map[string]string{"ca_issuers_url": ch.CAIssuersURL, "crl_url": ch.CRLURL} {
		switch {
		case raw == "":
		case len(raw) > maxCertificateURL:
			c.bad(join(at, key), "the URL is longer than %d bytes, and would be in every certificate; shorten it", maxCertificateURL)
		default:
			c.url(join(at, key), raw, "http", "https")
		}
	}
}

// maxCertificateURL bounds what every certificate carries: OpenShift has 8 KiB for
// all of them.
const maxCertificateURL = 256

// authorities checks that every address leads to one authority.
func (c *checker) authorities() {
	names, hosts, prefixes := make(map[string]int), make(map[string]string), make(map[string]string)
	for i, a := range c.file.Authorities {
		at := index("authorities", i)
		c.name("authorities", i, a.Name, names)
		if a.Name == DefaultName {
			c.bad(join(at, "name"), "the authority %s always exists, and is served at every address that no other one claims; remove the entry", DefaultName)
		}
		if len(a.Hosts) == 0 && a.PathPrefix == "" {
			c.bad(at, "write hosts: [NAME] or path_prefix: /NAME, to say where clients find the authority")
		}
		for j, host := range a.Hosts {
			c.authorityHost(index(join(at, "hosts"), j), host, hosts)
		}
		if a.PathPrefix != "" {
			c.pathPrefix(join(at, "path_prefix"), a.PathPrefix, prefixes)
		}
	}
}

func (c *checker) authorityHost(key, host string, seen map[string]string) {
	public, err := url.Parse(c.file.PublicURL)
	first, again := seen[host]
	switch {
	case !isHost(host) || net.ParseIP(host) != nil || host != strings.ToLower(host):
		c.bad(key, "%q is not a host name; write one in lower case, without port", clip(host))
	case again:
		c.bad(key, "%s was given before, in line %d; one host leads to one authority, remove one of them", host, c.file.Line(first))
	case err == nil && strings.EqualFold(public.Hostname(), host):
		c.bad(key, "%s is the host of public_url, where the authority %s is; give this one a host of its own, or a path_prefix", host, DefaultName)
	default:
		seen[host] = key
	}
}

// prefixForm is one segment, so that no prefix lies within another.
var prefixForm = regexp.MustCompile(`^/[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

// reservedPaths are what is served beside authorities, or may be one day. The
// server refuses to start with a prefix that hides a path of its own. gRPC's paths
// have dots, which no prefix has.
var reservedPaths = []string{"/api", "/trust", "/log", "/healthz", "/readyz", "/metrics", "/ct", "/acme", "/debug"}

func (c *checker) pathPrefix(key, prefix string, seen map[string]string) {
	first, again := seen[prefix]
	switch {
	case !prefixForm.MatchString(prefix):
		c.bad(key, "%q is not usable; write a slash and then up to 63 lower-case letters, digits, dashes and underscores, such as /team", clip(prefix))
	case slices.Contains(reservedPaths, prefix):
		c.bad(key, "%s belongs to the service itself; choose another prefix", prefix)
	case again:
		c.bad(key, "%s was given before, in line %d; choose another prefix", prefix, c.file.Line(first))
	default:
		seen[prefix] = key
	}
}

func (c *checker) hasAuthority(name string) bool {
	return name == DefaultName || slices.ContainsFunc(c.file.Authorities, func(a Authority) bool { return a.Name == name })
}
