package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bounds of one request to an issuer.
const (
	fetchTimeout  = 5 * time.Second
	dialTimeout   = 2 * time.Second
	headerTimeout = 3 * time.Second
	maxBodyBytes  = 1 << 20
)

// discoveryLimits are generous: the document is long, but it comes from the
// issuer over TLS.
var discoveryLimits = jsonLimits{depth: 16, members: 2000}

// fetcher asks one issuer for its keys.
type fetcher struct {
	issuer *Issuer
	client *http.Client
}

func newFetcher(is *Issuer) *fetcher {
	return &fetcher{issuer: is, client: &http.Client{
		Timeout: fetchTimeout,
		// A redirect could lead anywhere; the answer is then not a 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            is.dial,
			TLSClientConfig:        &tls.Config{RootCAs: is.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			// Without it a megabyte on the wire could be a gigabyte here.
			DisableCompression: true,
			MaxConnsPerHost:    2,
			IdleConnTimeout:    10 * time.Second,
		},
	}}
}

// fetch reads discovery document and key set. maxAge is what the key set's
// Cache-Control says, negative when it says nothing.
func (f *fetcher) fetch(ctx context.Context) (keys *keySet, maxAge time.Duration, err error) {
	well := strings.TrimSuffix(f.issuer.URL, "/") + "/.well-known/openid-configuration"
	body, _, err := f.get(ctx, well)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching discovery document: %w", err)
	}
	jwksURI, err := f.issuer.jwksURI(body)
	if err != nil {
		return nil, 0, err
	}
	body, header, err := f.get(ctx, jwksURI)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching key set: %w", err)
	}
	keys, err = parseKeySet(body)
	return keys, cacheMaxAge(header), err
}

// get returns a body of at most maxBodyBytes. Errors never contain it.
func (f *fetcher) get(ctx context.Context, rawURL string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "mayfly")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answered %d", req.URL.Redacted(), resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBodyBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading body: %w", err)
	}
	if len(body) > maxBodyBytes {
		return nil, nil, fmt.Errorf("body is larger than %d bytes", maxBodyBytes)
	}
	return body, resp.Header, nil
}

// jwksURI takes the address of the key set out of a discovery document.
//
// OpenID Connect Discovery, Section 4.3: "The issuer value returned MUST be
// identical to the Issuer URL that was used as the prefix to
// /.well-known/openid-configuration".
func (is *Issuer) jwksURI(body []byte) (string, error) {
	doc, err := decodeObject(body, discoveryLimits)
	if err != nil {
		return "", fmt.Errorf("reading discovery document: %w", err)
	}
	if doc["issuer"] != is.URL {
		return "", fmt.Errorf("discovery document is of issuer %.200q, want %q", fmt.Sprint(doc["issuer"]), is.URL)
	}
	raw, _ := doc["jwks_uri"].(string)
	if err := is.checkJWKSURI(raw); err != nil {
		return "", fmt.Errorf("jwks_uri %.200q: %w", raw, err)
	}
	return raw, nil
}

func (is *Issuer) checkJWKSURI(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return errors.New("not a plain absolute URL")
	}
	insecure := u.Scheme == "http" && is.AllowInsecureHTTP && isLoopbackHost(u.Hostname())
	if u.Scheme != "https" && !insecure {
		return errors.New("scheme is not https")
	}
	if !slices.Contains(is.fetchHosts(u.Scheme), hostPort(u)) {
		return errors.New("host is neither the issuer's nor an allowed one")
	}
	return nil
}

// fetchHosts lists, as host:port, where keys may come from.
func (is *Issuer) fetchHosts(scheme string) []string {
	var hosts []string
	if own, err := url.Parse(is.URL); err == nil {
		hosts = append(hosts, hostPort(own))
	}
	for _, h := range is.JWKSHosts {
		if u, err := url.Parse(scheme + "://" + h); err == nil {
			hosts = append(hosts, hostPort(u))
		}
	}
	return hosts
}

func hostPort(u *url.URL) string {
	return net.JoinHostPort(strings.ToLower(u.Hostname()), portOf(u))
}

// dial connects to addr after looking at the address that its name resolved to,
// so that a DNS answer cannot point us at ourselves or at a metadata service.
// Private networks are where enterprise providers live and are allowed.
func (is *Issuer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	own, err := url.Parse(is.URL)
	if err != nil {
		return nil, err
	}
	// Whatever is not a host of the issuer is the proxy that the environment
	// names, and that often listens on loopback.
	addr = strings.ToLower(addr)
	proxy := !slices.Contains(is.fetchHosts("https"), addr) && !slices.Contains(is.fetchHosts("http"), addr)
	loopback := proxy || isLoopbackHost(own.Hostname())
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, resolved string, _ syscall.RawConn) error {
		return checkAddress(resolved, loopback)
	}}
	return d.DialContext(ctx, network, addr)
}

// metadataIPv6 is where Amazon's instances find their credentials; unlike
// 169.254.169.254 it is not link-local.
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

func checkAddress(resolved string, loopback bool) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("address %q: %w", resolved, err)
	}
	ip := ap.Addr().Unmap().WithZone("")
	switch {
	// Connecting to the unspecified address reaches loopback.
	case (ip.IsLoopback() || ip.IsUnspecified()) && !loopback:
		return fmt.Errorf("refusing to connect to %v: loopback", ip)
	case ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == metadataIPv6:
		return fmt.Errorf("refusing to connect to %v: link-local or metadata", ip)
	}
	return nil
}

// cacheMaxAge reads max-age (RFC 9111, Section 5.2.2.1); negative when absent.
func cacheMaxAge(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if sec, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
			return time.Duration(sec) * time.Second
		}
	}
	return -1
}
