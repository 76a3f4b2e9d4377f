package config

import (
	"net/url"
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
		c.word(join(at, "preset"), is.Preset, presets)
		c.issuerURL(at, i, is, urls)
		c.issuerToken(at, is)
		c.issuerKeys(at, is)
		c.issuerFetch(at, is)
		c.issuerPolicy(at, is)
		c.mayIssue(join(at, "may_issue"), is)
	}
	c.acceptedIssuers(urls)
	c.overlaps()
}

// given reports that the file says a key itself. For what a preset may say
// instead, zero alone would not tell the two apart.
func (c *checker) given(path string) bool {
	_, ok := c.file.lines[path]
	return ok
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

// acceptedIssuers checks the further values of iss. They are names that nothing
// is fetched from, so plain http is no harm: AD FS has such a one. But a token
// must belong to one issuer only.
func (c *checker) acceptedIssuers(seen map[string]int) {
	for i, is := range c.file.Issuers {
		list := join(index("issuers", i), "accepted_issuers")
		for j, raw := range is.AcceptedIssuers {
			key := index(list, j)
			u := c.url(key, raw, "https", "http")
			if u == nil {
				continue
			}
			same := canonicalURL(u)
			if first, again := seen[same]; again {
				c.bad(key, "the issuer in line %d has this URL already; tokens that carry it would belong to both entries, remove one", c.file.Line(index("issuers", first)))
				continue
			}
			seen[same] = i
		}
	}
}

// maxQuota is beyond what any client does with one token in its lifetime.
const maxQuota = 1000

func (c *checker) issuerToken(at string, is Issuer) {
	if len(is.Audiences) == 0 {
		c.bad(join(at, "audiences"), "required; list what tokens for this service have in aud, such as sigstore")
	}
	c.unique(join(at, "audiences"), is.Audiences)
	c.unique(join(at, "extra_audiences"), is.ExtraAudiences)
	c.unique(join(at, "authorized_parties"), is.AuthorizedParties)
	c.unique(join(at, "trusted_claims"), is.TrustedClaims)
	c.scopes(at, is)
	if key := join(at, "accept"); c.given(key) {
		c.word(key, is.Accept, tokenKinds)
	}
	if key := join(at, "algorithms"); c.given(key) {
		c.words(key, is.Algorithms, algorithms)
	}
	c.duration(join(at, "clock_skew"), is.ClockSkew, time.Second, 2*time.Minute)
	if key := join(at, "max_token_age"); c.given(key) {
		c.duration(key, is.MaxTokenAge, time.Minute, day)
	}
	if key := join(at, "max_token_lifetime"); c.given(key) {
		c.duration(key, is.MaxTokenLifetime, time.Minute, week)
	}
	if key, n := join(at, "max_certificates_per_token"), is.MaxCertificatesPerToken; c.given(key) {
		switch {
		case n < 1 || n > maxQuota:
			c.bad(key, "%d is out of bounds; write a number from 1 to %d, or remove the key for any number", n, maxQuota)
		case n > 1 && is.OneTimeTokens:
			c.bad(key, "one_time_tokens gives one certificate per token; remove one of the two keys")
		}
	}
}

// scopes obeys RFC 6749, Section 3.3: "scope-token = 1*( %x21 / %x23-5B /
// %x5D-7E )". With a space in it an entry would be two scopes, and never granted.
func (c *checker) scopes(at string, is Issuer) {
	list := join(at, "required_scopes")
	if len(is.RequiredScopes) > 0 && is.Accept != AcceptAccessToken {
		c.bad(list, "only access tokens have scopes; write accept: access_token, or remove this key")
	}
	c.unique(list, is.RequiredScopes)
	for i, s := range is.RequiredScopes {
		if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			c.bad(index(list, i), "%q is no scope; write each by itself, without spaces and quotes", clip(s))
		}
	}
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
