package oidc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// checkURL holds the issuer to OpenID Connect Core, Section 2: "a
// case-sensitive URL using the https scheme that contains scheme, host, and
// optionally, port number and path components and no query or fragment
// components".
func (is *Issuer) checkURL() error {
	if len(is.AcceptedIssuers) > maxAcceptedIssuers {
		return fmt.Errorf("%d accepted issuers, limit %d", len(is.AcceptedIssuers), maxAcceptedIssuers)
	}
	for _, raw := range is.AcceptedIssuers {
		u, err := plainURL(raw)
		if err != nil {
			return fmt.Errorf("accepted issuer %.200q: %w", raw, err)
		}
		if u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("accepted issuer %.200q has scheme %q, want https or http", raw, u.Scheme)
		}
	}
	u, err := plainURL(is.URL)
	if err != nil {
		return err
	}
	switch {
	case u.Scheme == "https" && !is.AllowInsecureHTTP:
		return nil
	case u.Scheme == "https":
		return errors.New("insecure http is allowed, but the URL is https")
	case u.Scheme == "http" && is.AllowInsecureHTTP && isLoopbackHost(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return errors.New("http is only for loopback hosts, and only when allowed")
	}
	return fmt.Errorf("URL has scheme %q, want https", u.Scheme)
}

// maxAcceptedIssuers is above the two that AD FS has.
const maxAcceptedIssuers = 4

// plainURL parses a URL that has nothing but scheme, host and path.
func plainURL(raw string) (*url.URL, error) {
	for _, c := range []byte(raw) {
		if c <= ' ' || c >= 0x7f {
			return nil, errors.New("URL contains a space, control or non-ASCII character")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("URL cannot be parsed")
	case u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.ContainsAny(raw, "?#\\"):
		return nil, errors.New("URL has no host, or has user, query or fragment")
	case strings.ContainsAny(raw, "{}"):
		// Entra ID answers for "common" with a template in place of the issuer:
		// every tenant of the world would be let in.
		return nil, errors.New("URL is a template; name the tenant")
	}
	return u, nil
}

// checkKeySource checks what says where keys come from and how to get there.
func (is *Issuer) checkKeySource() error {
	switch {
	case is.JWKSURL != "" && is.StaticJWKS != nil:
		return errors.New("both a key set URL and a static key set")
	case is.DiscoveryQuery != "" && (is.JWKSURL != "" || is.StaticJWKS != nil):
		return errors.New("a discovery query, but no discovery")
	case (is.ClientCertFile == "") != (is.ClientKeyFile == ""):
		return errors.New("client certificate and key go together")
	}
	for _, p := range is.AllowLoopback {
		if !p.IsValid() || !p.Addr().IsLoopback() {
			return fmt.Errorf("%v is no loopback network", p)
		}
	}
	if is.JWKSURL != "" {
		if err := is.checkJWKSURI(is.JWKSURL); err != nil {
			return fmt.Errorf("key set URL %.200q: %w", is.JWKSURL, err)
		}
	}
	if err := checkDiscoveryQuery(is.DiscoveryQuery); err != nil {
		return err
	}
	if is.Proxy == "" {
		return nil
	}
	u, err := plainURL(is.Proxy)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	if is.AllowInsecureHTTP {
		// Plain http goes through a proxy as it is, bearer token included.
		return errors.New("a proxy, but the URL is a loopback host")
	}
	if u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return errors.New("proxy is not of the form http://host:port or https://host:port")
	}
	return nil
}

// checkDiscoveryQuery lets through the one query that is known to be needed.
func checkDiscoveryQuery(query string) error {
	if query == "" {
		return nil
	}
	value, ok := strings.CutPrefix(query, "appid=")
	if !ok || value == "" || len(value) > 64 || strings.ContainsFunc(value, func(r rune) bool {
		return r > '~' || !isAlphanumeric(byte(r)) && r != '-'
	}) {
		return fmt.Errorf("discovery query %.80q is not appid= and a client id", query)
	}
	return nil
}

// checkThumbprint takes the form of [ca.TokenFacts].KeyThumbprint.
func checkThumbprint(thumbprint string) error {
	sum, err := base64.RawURLEncoding.Strict().DecodeString(thumbprint)
	if err != nil || len(sum) != 32 {
		return fmt.Errorf("%.80q is no SHA-256 thumbprint in base64url", thumbprint)
	}
	return nil
}

// keyHosts lists, as host:port, where keys may come from.
func (is *Issuer) keyHosts(scheme string) []string {
	var hosts []string
	for _, raw := range []string{is.URL, is.JWKSURL} {
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			hosts = append(hosts, hostPort(u))
		}
	}
	return append(hosts, hostPorts(scheme, is.JWKSHosts)...)
}

// hostPorts completes hosts with the default port of scheme.
func hostPorts(scheme string, hosts []string) []string {
	var complete []string
	for _, h := range hosts {
		if u, err := url.Parse(scheme + "://" + h); err == nil {
			complete = append(complete, hostPort(u))
		}
	}
	return complete
}

func hostPort(u *url.URL) string {
	return net.JoinHostPort(strings.ToLower(u.Hostname()), portOf(u))
}

// checkJWKSURI decides where a key set may be fetched.
func (is *Issuer) checkJWKSURI(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return errors.New("not a plain absolute URL")
	}
	insecure := u.Scheme == "http" && is.AllowInsecureHTTP && isLoopbackHost(u.Hostname())
	if u.Scheme != "https" && !insecure {
		return errors.New("scheme is not https")
	}
	if !slices.Contains(is.keyHosts(u.Scheme), hostPort(u)) {
		return errors.New("host is neither the issuer's nor an allowed one")
	}
	return nil
}

// normalURL folds what people and proxies confuse: case, default ports, a dot
// after the host, slashes at the end, percent-encoding.
func normalURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("URL cannot be parsed")
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	path := strings.ToLower(strings.TrimRight(u.JoinPath().Path, "/"))
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(host, portOf(u)) + path, nil
}

// portOf returns the port of u, the scheme's default one included.
func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
