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
	"os"
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

// maxBearerBytes is more than a service account token of Kubernetes has.
const maxBearerBytes = 16 << 10

// fetcher asks one issuer for its keys.
type fetcher struct {
	issuer *Issuer
	client *http.Client
}

func newFetcher(is *Issuer) *fetcher {
	proxy := http.ProxyFromEnvironment
	if u, err := url.Parse(is.Proxy); err == nil && is.Proxy != "" {
		proxy = http.ProxyURL(u)
	}
	tlsConfig := &tls.Config{RootCAs: is.RootCAs, MinVersion: tls.VersionTLS12}
	if is.ClientCertFile != "" {
		tlsConfig.GetClientCertificate = is.clientCertificate
	}
	return &fetcher{issuer: is, client: &http.Client{
		Timeout: fetchTimeout,
		// A redirect could lead anywhere; the answer is then not a 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            is.dial,
			TLSClientConfig:        tlsConfig,
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

// clientCertificate reads the files anew, because whoever renews them does not
// restart us.
func (is *Issuer) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(is.ClientCertFile, is.ClientKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading client certificate: %w", err)
	}
	return &pair, nil
}

// fetch reads the key set, after the discovery document unless the operator has
// said where the keys are. maxAge is what the key set's Cache-Control says,
// negative when it says nothing.
func (f *fetcher) fetch(ctx context.Context) (keys *keySet, maxAge time.Duration, err error) {
	jwksURI := f.issuer.JWKSURL
	if jwksURI == "" {
		body, _, err := f.get(ctx, f.issuer.discoveryURL())
		if err != nil {
			return nil, 0, fmt.Errorf("fetching discovery document: %w", err)
		}
		if jwksURI, err = f.issuer.jwksURI(body); err != nil {
			return nil, 0, err
		}
	}
	body, header, err := f.get(ctx, jwksURI)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching key set: %w", err)
	}
	keys, err = parseKeySet(body)
	return keys, cacheMaxAge(header), err
}

// discoveryURL: OpenID Connect Discovery, Section 4: "If the Issuer value
// contains a path component, any terminating / MUST be removed before appending
// /.well-known/openid-configuration".
func (is *Issuer) discoveryURL() string {
	u := strings.TrimSuffix(is.URL, "/") + "/.well-known/openid-configuration"
	if is.DiscoveryQuery != "" {
		u += "?" + is.DiscoveryQuery
	}
	return u
}

// source names what keys were fetched from, so that keys kept from another
// source are not taken for this one's.
func (is *Issuer) source() string {
	if is.JWKSURL != "" {
		return is.JWKSURL
	}
	return is.discoveryURL()
}

// get returns a body of at most maxBodyBytes. Errors never contain it.
func (f *fetcher) get(ctx context.Context, rawURL string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "mayfly")
	if err := f.issuer.authorize(req); err != nil {
		return nil, nil, err
	}
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

// authorize adds the bearer token. Kubernetes renews its service account tokens
// about every hour, so the file is read each time. Redirects are not followed,
// so the token goes where the request goes and nowhere else.
func (is *Issuer) authorize(req *http.Request) error {
	if is.BearerTokenFile == "" || !slices.Contains(is.keyHosts(req.URL.Scheme), hostPort(req.URL)) {
		return nil
	}
	file, err := os.Open(is.BearerTokenFile)
	if err != nil {
		return fmt.Errorf("reading bearer token: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(file, maxBearerBytes+1))
	if err != nil {
		return fmt.Errorf("reading bearer token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxBearerBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("bearer token file holds no token")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// jwksURI takes the address of the key set out of a discovery document.
//
// OpenID Connect Discovery, Section 4.3: "The issuer value returned MUST be
// identical to the Issuer URL that was used as the prefix to
// /.well-known/openid-configuration".
func (is *Issuer) jwksURI(body []byte) (string, error) {
	doc, err := decodeObject(string(body), discoveryLimits)
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
	proxy := !slices.Contains(is.keyHosts("https"), addr) && !slices.Contains(is.keyHosts("http"), addr)
	loopback := is.AllowLoopback
	if proxy || isLoopbackHost(own.Hostname()) {
		loopback = anyLoopback
	}
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, resolved string, _ syscall.RawConn) error {
		return checkAddress(resolved, loopback)
	}}
	return d.DialContext(ctx, network, addr)
}

// metadataIPv6 is where Amazon's instances find their credentials; unlike
// 169.254.169.254 it is not link-local.
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

// anyLoopback is all that connects to this machine; the unspecified addresses do.
var anyLoopback = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("::/128"),
}

// checkAddress refuses addresses of this machine outside of loopback, and those
// where no provider lives.
func checkAddress(resolved string, loopback []netip.Prefix) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("address %q: %w", resolved, err)
	}
	ip := ap.Addr().Unmap().WithZone("")
	switch {
	// Connecting to the unspecified address reaches loopback.
	case (ip.IsLoopback() || ip.IsUnspecified()) && !slices.ContainsFunc(loopback, func(p netip.Prefix) bool { return p.Contains(ip) }):
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
