// Package endpoint gives bounded HTTPS requests to OpenID providers, and a
// strict reading of what they answer, to the programs that people run
// themselves.
//
// Invariants:
//
//   - every request ends: it has a timeout, and at most a megabyte of the answer
//     is read, uncompressed;
//   - plain http is spoken to loopback hosts only, TLS is 1.2 or later;
//   - a redirect is an answer and never followed: what is sent may be a secret;
//   - no error holds a query, a body or a header.
//
// It keeps no cookies, does not retry and knows nothing of OAuth. The service
// itself fetches keys with package oidc, which also looks at addresses.
package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	timeout     = 15 * time.Second
	dialTimeout = 10 * time.Second
	// MaxBody is the longest answer that is read.
	MaxBody = 1 << 20
)

// Config configures a [Client].
type Config struct {
	// RootCAs verify servers; nil means the system's.
	RootCAs *x509.CertPool
	// Transport replaces the network in tests; nil means TLS as above and the
	// proxy that the environment names.
	Transport http.RoundTripper
}

// Client makes requests. It is safe for concurrent use.
type Client struct{ http *http.Client }

// New returns a client.
func New(cfg Config) *Client {
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // a megabyte on the wire could be a gigabyte here
			DisableKeepAlives:      true, // a handful of requests, minutes apart
		}
	}
	return &Client{http: &http.Client{
		Timeout:       timeout,
		Transport:     cfg.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Answer is what a server answered, whatever its status.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// TLS is nil when the answer came by plain http.
	TLS *tls.ConnectionState
}

// Get asks for a document. The header may be nil.
func (c *Client) Get(ctx context.Context, address string, header http.Header) (*Answer, error) {
	return c.do(ctx, http.MethodGet, address, "", header)
}

// PostForm sends a form. The header may be nil.
func (c *Client) PostForm(ctx context.Context, address string, form url.Values, header http.Header) (*Answer, error) {
	if header = header.Clone(); header == nil {
		header = make(http.Header)
	}
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	return c.do(ctx, http.MethodPost, address, form.Encode(), header)
}

func (c *Client) do(ctx context.Context, method, address, body string, header http.Header) (*Answer, error) {
	u, err := ParseURL(address)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making a request to %s: %w", u.Host, err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "mayfly")
	resp, err := c.http.Do(req)
	if err != nil {
		// The error's text would begin with the whole URL.
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return nil, fmt.Errorf("asking %s: %w", u.Host, unreachable(err))
	}
	defer resp.Body.Close()
	a := &Answer{Status: resp.StatusCode, Header: resp.Header, TLS: resp.TLS}
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, MaxBody+1)); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", u.Host, err)
	}
	if len(a.Body) > MaxBody {
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", u.Host, MaxBody)
	}
	return a, nil
}

// ErrUnreachable marks an error that another attempt may not meet: no connection,
// or no answer in time. A certificate that does not verify is not one.
var ErrUnreachable = errors.New("no answer")

func unreachable(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// ParseURL accepts an address to which tokens, codes and secrets may be sent:
// absolute, https or http to a loopback host, in visible ASCII, without user and
// fragment.
func ParseURL(address string) (*url.URL, error) {
	for _, c := range []byte(address) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return nil, fmt.Errorf("URL %.200q holds a character that must be escaped", address)
		}
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("the URL cannot be parsed")
	case u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.Contains(address, "#"):
		return nil, fmt.Errorf("URL %.200q has no host, or has a user or fragment", u.Redacted())
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && IsLoopback(u.Hostname()):
		return u, nil
	case u.Scheme == "http":
		return nil, fmt.Errorf("%s is asked over plain http, which is for loopback hosts only; use https", u.Host)
	}
	return nil, fmt.Errorf("URL %.200q is not one of https", u.Redacted())
}

// IsLoopback reports whether a host can be nowhere but on this machine.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
