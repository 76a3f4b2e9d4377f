package config

import (
	"regexp"
	"strings"
)

// mayIssue checks the names that an issuer can vouch for, whatever its rules say.
func (c *checker) mayIssue(at string, is Issuer) {
	m := is.MayIssue
	emails, usernames, uris := join(at, "email_domains"), join(at, "username_domains"), join(at, "uri_prefixes")
	switch {
	case is.SAN == SANEmail && len(m.EmailDomains) == 0:
		c.bad(emails, "required for san email; list the domains that this issuer can vouch for")
	case is.SAN == SANURI && len(m.URIPrefixes) == 0:
		c.bad(uris, "required for san uri; list what the URIs start with that this issuer can vouch for")
	case is.SAN == "" && len(m.EmailDomains)+len(m.UsernameDomains)+len(m.URIPrefixes) == 0:
		c.bad(at, "required; list the email_domains, username_domains or uri_prefixes that this issuer can vouch for")
	}
	c.unique(emails, m.EmailDomains)
	for i, d := range m.EmailDomains {
		if d != "" && !isDomain(strings.TrimPrefix(d, "*.")) {
			c.bad(index(emails, i), "%q is not usable; write a domain in lower case and ASCII, such as corp.example, or *.corp.example for those below it", clip(d))
		}
	}
	c.unique(usernames, m.UsernameDomains)
	for i, d := range m.UsernameDomains {
		if d != "" && !isDomain(d) {
			c.bad(index(usernames, i), "%q is not usable; write a domain in lower case and ASCII, such as corp.example", clip(d))
		}
	}
	c.unique(uris, m.URIPrefixes)
	for i, p := range m.URIPrefixes {
		if p != "" {
			c.uriPrefix(index(uris, i), p)
		}
	}
}

// domainForm wants two labels at least: one label is a top-level domain, or a
// name that means something else in every network.
var domainForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func isDomain(d string) bool { return len(d) <= 253 && domainForm.MatchString(d) }

// uriPrefix checks that everything below a prefix belongs to whoever owns the
// prefix: without the slash at the end, https://ci.corp.example would also begin
// https://ci.corp.example.attacker.example. One spelling only is accepted, so
// that comparing bytes finds every overlap.
func (c *checker) uriPrefix(key, prefix string) {
	u := c.url(key, prefix, "https", "spiffe")
	if u == nil {
		return
	}
	switch {
	case !strings.HasSuffix(u.Path, "/"):
		c.bad(key, "a prefix must end where a path segment does; put a slash at the end")
	case u.RawPath != "" || strings.Contains(prefix, "%") || !isPlainPath(u.Path):
		c.bad(key, "the prefix has empty or dot segments, or escapes; write the plain path")
	case !strings.HasPrefix(prefix, u.Scheme+"://"+u.Host+"/") || u.Host != strings.ToLower(u.Host):
		c.bad(key, "write scheme and host in lower case")
	case u.Scheme == "https" && u.Port() == "443":
		c.bad(key, "443 is the port of https anyway; remove it")
	case u.Scheme == "spiffe" && u.Port() != "":
		// SPIFFE-ID, Section 2.1: the trust domain name has no port.
		c.bad(key, "a SPIFFE trust domain has no port; remove it")
	}
}

// claim is one entry of a may_issue list.
type claim struct {
	issuer int
	key    string // its key path
	name   string
}

// claims lists what the issuers claim in a list of may_issue, in the order of the
// file.
func (c *checker) claims(list string, of func(MayIssue) []string) []claim {
	var all []claim
	for i, is := range c.file.Issuers {
		for j, name := range of(is.MayIssue) {
			all = append(all, claim{i, index(join(index("issuers", i), "may_issue."+list), j), name})
		}
	}
	return all
}

func (c *checker) overlaps() {
	c.emailOverlap(c.claims("email_domains", func(m MayIssue) []string { return m.EmailDomains }))
	c.uriOverlap(c.claims("uri_prefixes", func(m MayIssue) []string { return m.URIPrefixes }))
	usernames := c.claims("username_domains", func(m MayIssue) []string { return m.UsernameDomains })
	first := firstClaims(usernames)
	for _, u := range usernames {
		c.overlap(u, first[u.name])
	}
}

// emailOverlap refuses domains for which two issuers could vouch: each is looked
// up under its own name and under every wildcard above it.
func (c *checker) emailOverlap(all []claim) {
	first := firstClaims(all)
	for _, d := range all {
		c.overlap(d, first[d.name])
		_, above, more := strings.Cut(strings.TrimPrefix(d.name, "*."), ".")
		for more {
			c.overlap(d, first["*."+above])
			_, above, more = strings.Cut(above, ".")
		}
	}
}

// uriOverlap does the same for prefixes. They end in a slash, so one covers
// another exactly when it is one of the other's beginnings up to a slash.
func (c *checker) uriOverlap(all []claim) {
	first := firstClaims(all)
	for _, p := range all {
		for i := range len(p.name) {
			if p.name[i] == '/' {
				c.overlap(p, first[p.name[:i+1]])
			}
		}
	}
}

// firstClaims finds who claimed a name first.
func firstClaims(all []claim) map[string]claim {
	first := make(map[string]claim, len(all))
	for _, cl := range all {
		if _, ok := first[cl.name]; !ok {
			first[cl.name] = cl
		}
	}
	return first
}

func (c *checker) overlap(one, other claim) {
	if other.name == "" || one.issuer == other.issuer {
		return
	}
	c.bad(one.key, "%s overlaps with %s in line %d; a name must come from one issuer only, narrow one of them",
		clip(one.name), other.key, c.file.Line(other.key))
}
