package config

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// issuerFetch checks how keys are got beyond the plain way, and which of them
// count.
func (c *checker) issuerFetch(at string, is Issuer) {
	if is.JWKSFile != "" {
		c.nothingFetched(at, is)
	}
	if key := join(at, "jwks_url"); is.JWKSURL != "" {
		// The query stays out of the check: keys of an Entra application are told
		// apart by it.
		plain, query, _ := strings.Cut(is.JWKSURL, "?")
		u := c.url(key, plain, "https", "http")
		switch {
		case u == nil:
		case strings.Contains(query, "#") || !isVisibleASCII(query):
			c.bad(key, "the query contains a fragment, spaces or characters outside ASCII; correct it")
		case u.Scheme == "http" && !is.InsecureHTTP:
			c.bad(key, "over plain http anyone on the way can replace the provider's keys; use https")
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			c.bad(key, "plain http is accepted on a loopback host only; use https")
		}
		if is.AppID != "" {
			c.bad(join(at, "app_id"), "it is asked for in discovery, and with jwks_url there is none; write it into jwks_url as ?appid=, and remove this key")
		}
	}
	if is.AppID != "" && !guid.MatchString(is.AppID) {
		c.bad(join(at, "app_id"), "%q is not usable; write the application (client) id, such as 6731de76-14a6-49ae-97bc-6eba6914391e, in lower case", clip(is.AppID))
	}
	switch cert, key := join(at, "client_certificate"), join(at, "client_key"); {
	case is.ClientCertificate != "" && is.ClientKey == "":
		c.bad(key, "wanted with client_certificate; name the PEM file with its key")
	case is.ClientCertificate == "" && is.ClientKey != "":
		c.bad(cert, "wanted with client_key; name the PEM file with the certificate")
	}
	c.proxy(join(at, "proxy"), is.Proxy)
	for i, p := range is.AllowLoopback {
		if p.IsValid() && !isLoopback(p.Addr().String()) {
			c.bad(join(at, index("allow_loopback", i)), "%v is not within 127.0.0.0/8 and is not ::1; remove it, other addresses need no leave", p)
		}
	}
	c.thumbprints(join(at, "blocked_keys"), is.BlockedKeys)
}

// nothingFetched refuses what has no effect beside a file of keys, so that nobody
// believes that it has.
func (c *checker) nothingFetched(at string, is Issuer) {
	for _, k := range []struct {
		name  string
		given bool
	}{
		{"jwks_url", is.JWKSURL != ""},
		{"jwks_hosts", len(is.JWKSHosts) > 0},
		{"app_id", is.AppID != ""},
		{"ca_file", is.CAFile != ""},
		{"client_certificate", is.ClientCertificate != ""},
		{"client_key", is.ClientKey != ""},
		{"bearer_token_file", is.BearerTokenFile != ""},
		{"proxy", is.Proxy != ""},
		{"allow_loopback", len(is.AllowLoopback) > 0},
		{"refresh", c.given(join(at, "refresh"))},
		{"refresh_only_on_schedule", is.RefreshOnlyOnSchedule},
		{"max_stale", c.given(join(at, "max_stale"))},
	} {
		if k.given {
			c.bad(join(at, k.name), "with jwks_file nothing is fetched for this issuer; remove this key, or jwks_file")
		}
	}
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// proxy checks a URL that may have a host and a port and nothing else: a user and
// password would be a secret in the file.
func (c *checker) proxy(key, raw string) {
	if raw == "" {
		return
	}
	if u := c.url(key, raw, "http", "https"); u != nil && u.EscapedPath() != "" && u.EscapedPath() != "/" {
		c.bad(key, "a proxy has no path; write http://host:port or https://host:port")
	}
}

// thumbprints checks SHA-256 thumbprints of RFC 7638. One spelling only is
// accepted: a thumbprint that nothing is equal to would block nothing.
func (c *checker) thumbprints(list string, all []string) {
	c.unique(list, all)
	for i, t := range all {
		if sum, err := base64.RawURLEncoding.Strict().DecodeString(t); t != "" && (err != nil || len(sum) != 32) {
			c.bad(index(list, i), "%q is not a thumbprint; write RFC 7638 with SHA-256, which is 43 characters in base64url", clip(t))
		}
	}
}
