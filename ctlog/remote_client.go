package ctlog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// defaultIdleTimeout keeps connections from one certificate to the next.
const defaultIdleTimeout = 90 * time.Second

// ClientConfig says how a log is reached over HTTP, and what it knows us by.
type ClientConfig struct {
	// URL is the log's submission prefix. Required; https, or http to a loopback
	// address. The credentials are sent to its origin, and to no other.
	URL string
	// RootCAs verify TLS certificates, wherever a request goes; nil means the
	// system's.
	RootCAs *x509.CertPool
	// ClientCertFile and ClientKeyFile are as in [RemoteConfig].
	ClientCertFile, ClientKeyFile string
	// TokenFile is as in [RemoteConfig].
	TokenFile string
	// IdleTimeout is how long a connection waits for the next request. Default 90 s.
	IdleTimeout time.Duration
	// Compression asks for answers that are compressed, which tiles may be. Who
	// reads such an answer must bound what it unpacks to.
	Compression bool
}

// NewClient returns what speaks to a log with the credentials of a submitter, and to
// other origins, where the log may be read, without them: a token that whoever
// serves the tiles gets to see is theirs to submit with. It follows no redirect, and
// the credentials would not go along. It sets no timeout; contexts do, or the caller.
func NewClient(c ClientConfig) (*http.Client, error) {
	t, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	return t.client(), nil
}

// transport sends credentials to one origin alone.
type transport struct {
	origin      string
	credentials *credentials
	// own presents the client certificate, and elsewhere none: what decides during
	// a handshake does not learn whom it is with.
	own, elsewhere *http.Transport
}

func newTransport(c ClientConfig) (*transport, error) {
	base, err := submissionURL(c.URL)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return nil, errors.New("a client certificate needs a key, and a key a certificate")
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = defaultIdleTimeout
	}
	t := &transport{
		origin:      originOf(u),
		credentials: &credentials{certFile: c.ClientCertFile, keyFile: c.ClientKeyFile, tokenFile: c.TokenFile},
		own:         newHTTPTransport(c), elsewhere: newHTTPTransport(c),
	}
	if c.ClientCertFile != "" {
		t.own.TLSClientConfig.GetClientCertificate = t.credentials.certificate
	}
	return t, nil
}

// newHTTPTransport has connections of its own, so that a log which hangs holds up no
// other. They speak HTTP/1.1, where a connection that went dead takes one
// submission with it; with HTTP/2 it would be all that are under way.
func newHTTPTransport(c ClientConfig) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		Protocols:              protocols,
		MaxConnsPerHost:        maxConnections,
		MaxIdleConns:           maxConnections,
		MaxIdleConnsPerHost:    maxConnections,
		IdleConnTimeout:        c.IdleTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     !c.Compression,
		// Each exchange is bounded as a whole, by its context.
	}
}

func (t *transport) client() *http.Client {
	return &http.Client{
		Transport: t,
		// A log that moves is a change of configuration, not of direction.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if originOf(r.URL) != t.origin {
		return t.elsewhere.RoundTrip(r)
	}
	if t.credentials.renewed() {
		// Connections made with the certificate before would go on for as long as
		// they are used.
		t.own.CloseIdleConnections()
	}
	if t.credentials.tokenFile == "" {
		return t.own.RoundTrip(r)
	}
	token, err := t.credentials.token()
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must; nothing was read of it
		}
		return nil, err
	}
	// The token goes into a request of our own: the caller's is the one that a
	// redirect would be made from.
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return t.own.RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *transport) CloseIdleConnections() {
	t.own.CloseIdleConnections()
	t.elsewhere.CloseIdleConnections()
}

// originOf is the scheme, host and port (RFC 6454, Section 4). What is written in
// another way is another origin, which errs on the side that gets no credentials.
func originOf(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
