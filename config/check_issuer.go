package config

import (
	"net/url"
	"regexp"
	"strings"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

func (c *checker) issuers() {
	if len(c.file.Issuers) == 0 {
		c.bad("issuers", "required; list at least one OpenID provider whose tokens are accepted")
	}
	names, urls := make(map[string]int), make(map[string]int)
	for i, is := range c.file.Issuers {
		at := index("issuers", i)
		c.name("issuers", i, is.Name, names)
		c.issuerURL(at, i, is, urls)
		c.issuerToken(at, is)
		c.issuerKeys(at, is)
		c.issuerPolicy(at, is)
	}
	c.emailOverlap()
	c.uriOverlap()
}

// issuerURL obeys OpenID Connect Discovery 1.0, Section 3: "URL using the https
// scheme with no query or fragment components that the OP asserts as its Issuer
// Identifier."
func (c *checker) issuerURL(at string, i int, is Issuer, seen map[string]int) {
	key := join(at, "url")
	if is.URL == "" {
		c.bad(key, "required; write the issuer URL exactly as tokens have it in iss")
		return
	}
	u := c.url(key, is.URL, "https", "http")
	if u == nil {
		return
	}
	switch {
	case u.Scheme == "http" && !is.InsecureHTTP:
		c.bad(key, "over plain http anyone on the way can replace the provider's keys; use https")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		c.bad(join(at, "insecure_http"), "plain http is accepted on a loopback host only; use https and remove this key")
	case u.Scheme == "https" && is.InsecureHTTP:
		c.bad(join(at, "insecure_http"), "the URL is https; remove this key")
	}
	same := canonicalURL(u)
	if first, again := seen[same]; again {
		c.bad(key, "the issuer in line %d has the same URL; merge the two, an issuer may have several audiences", c.file.Line(index("issuers", first)))
		return
	}
	seen[same] = i
}

func (c *checker) issuerToken(at string, is Issuer) {
	if len(is.Audiences) == 0 {
		c.bad(join(at, "audiences"), "required; list what tokens for this service have in aud, such as sigstore")
	}
	c.unique(join(at, "audiences"), is.Audiences)
	c.unique(join(at, "extra_audiences"), is.ExtraAudiences)
	c.unique(join(at, "authorized_parties"), is.AuthorizedParties)
	c.words(join(at, "algorithms"), is.Algorithms, algorithms)
	c.duration(join(at, "clock_skew"), is.ClockSkew, time.Second, 2*time.Minute)
	c.duration(join(at, "max_token_age"), is.MaxTokenAge, time.Minute, day)
	c.duration(join(at, "max_token_lifetime"), is.MaxTokenLifetime, time.Minute, week)
}

func (c *checker) issuerKeys(at string, is Issuer) {
	c.unique(join(at, "jwks_hosts"), is.JWKSHosts)
	for i, h := range is.JWKSHosts {
		if h != "" && !isHostPort(h) {
			c.bad(join(at, index("jwks_hosts", i)), "%q is not usable; write a host or host:port in lower case, without https:// and path", clip(h))
		}
	}
	c.duration(join(at, "refresh"), is.Refresh, time.Minute, day)
	if is.Refresh >= time.Minute && is.Refresh <= day {
		// Below twice the interval, one fetch that fails would stop issuance.
		c.duration(join(at, "max_stale"), is.MaxStale, 2*is.Refresh, week)
	}
}

// isHostPort reports that s is what may stand between https:// and the path of a
// URL, in lower case.
func isHostPort(s string) bool {
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && s == strings.ToLower(s) && isHost(u.Hostname()) &&
		strings.HasPrefix(s, "[") == strings.Contains(u.Hostname(), ":") &&
		!strings.HasSuffix(s, ":") && validPort(u.Port())
}

func (c *checker) issuerPolicy(at string, is Issuer) {
	if is.Allow != AllowAll {
		c.bad(join(at, "allow"), "write `allow: all` to say that every valid token of this issuer gets a certificate; there is no other value")
	}
	may := join(at, "may_issue")
	switch is.SAN {
	case "":
		c.bad(join(at, "san"), "required; write email or uri, for what certificates name")
	case SANEmail:
		if len(is.MayIssue.EmailDomains) == 0 {
			c.bad(join(may, "email_domains"), "required for san email; list the domains that this issuer can vouch for")
		}
	case SANURI:
		if len(is.MayIssue.URIPrefixes) == 0 {
			c.bad(join(may, "uri_prefixes"), "required for san uri; list what the URIs start with that this issuer can vouch for")
		}
	default:
		c.word(join(at, "san"), is.SAN, sanKinds)
	}
	c.unique(join(may, "email_domains"), is.MayIssue.EmailDomains)
	for i, d := range is.MayIssue.EmailDomains {
		if d != "" && !isDomain(strings.TrimPrefix(d, "*.")) {
			c.bad(join(may, index("email_domains", i)), "%q is not usable; write a domain in lower case and ASCII, such as corp.example, or *.corp.example for those below it", clip(d))
		}
	}
	c.unique(join(may, "uri_prefixes"), is.MayIssue.URIPrefixes)
	for i, p := range is.MayIssue.URIPrefixes {
		if p != "" {
			c.uriPrefix(join(may, index("uri_prefixes", i)), p)
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

// domains and prefixes list what the issuers claim, in the order of the file.
func (c *checker) domains() []claim {
	var all []claim
	for i, is := range c.file.Issuers {
		for j, d := range is.MayIssue.EmailDomains {
			all = append(all, claim{i, index(join(index("issuers", i), "may_issue.email_domains"), j), d})
		}
	}
	return all
}

func (c *checker) prefixes() []claim {
	var all []claim
	for i, is := range c.file.Issuers {
		for j, p := range is.MayIssue.URIPrefixes {
			all = append(all, claim{i, index(join(index("issuers", i), "may_issue.uri_prefixes"), j), p})
		}
	}
	return all
}

// emailOverlap refuses domains for which two issuers could vouch: each is looked
// up under its own name and under every wildcard above it.
func (c *checker) emailOverlap() {
	all := c.domains()
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
func (c *checker) uriOverlap() {
	all := c.prefixes()
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
