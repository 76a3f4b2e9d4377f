package ctlog

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
)

const (
	maxResponse  = 64 << 10
	maxErrorText = 256
	maxAttempts  = 2
	// The pause before the second attempt is spread over this span, so that the
	// requests which met one hiccup do not come back together.
	minPause = 50 * time.Millisecond
	maxPause = 200 * time.Millisecond
	// defaultTimeout is what a request's four seconds can spare for logs.
	defaultTimeout = 2500 * time.Millisecond
	// dialTimeout ends the making of a connection that nobody waits for any more.
	dialTimeout = 2 * time.Second
	// maxConnections is more than the requests that a service has under way.
	maxConnections = 256
)

// RemoteConfig says which RFC 6962 log to use and how to know it.
type RemoteConfig struct {
	// Name is the log's short name. Required.
	Name string
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is added.
	// Required; https, or http to a loopback address.
	URL string
	// MonitoringURL is where the checkpoint and tiles of a static-ct-api log are
	// read; empty for a log that is read at URL, as RFC 6962 says. Probes use it. It
	// gets the credentials below only if it has the origin of URL.
	MonitoringURL string
	// PublicKey is the log's SubjectPublicKeyInfo, PEM or DER. Required: a log
	// whose promises cannot be verified is no log.
	PublicKey []byte
	// RootCAs verify the log's TLS certificate; nil means the system's.
	RootCAs *x509.CertPool
	// ClientCertFile and ClientKeyFile are PEM files with the certificate that the
	// log wants of its submitters, and its key. They are read for each connection,
	// and a change ends the connections that are idle. Both or none.
	ClientCertFile, ClientKeyFile string
	// TokenFile holds a bearer token in its only line. It is read for each attempt.
	TokenFile string
	// AttemptTimeout bounds one HTTP exchange, body included. Default 2 s. An
	// attempt that is not the last gets four fifths of what is left of Timeout or
	// of the context at most, so that a connection which went dead unnoticed leaves
	// time for a new one.
	AttemptTimeout time.Duration
	// Timeout bounds a submission with all its attempts. Default 2.5 s, which
	// leaves the rest of a request's four seconds to the CA.
	Timeout time.Duration
	// Clock judges the SCT's timestamp. Default time.Now.
	Clock func() time.Time
}

// Remote is an RFC 6962 log reached over HTTP. It keeps no state between
// submissions but idle connections: one failed call never slows another.
type Remote struct {
	name           string
	url            string // of add-pre-chain and its siblings, up to the last slash
	monitoringURL  string
	key            *Key
	client         *http.Client
	credentials    *credentials
	attemptTimeout time.Duration
	timeout        time.Duration
	clock          func() time.Time
}

// NewRemote checks the configuration; it does not contact the log.
func NewRemote(c RemoteConfig) (*Remote, error) {
	if c.Name == "" {
		return nil, errors.New("ctlog: a remote log needs a name")
	}
	base, err := submissionURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("ctlog: log %q: %w", c.Name, err)
	}
	key, err := ParseKey(c.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("ctlog: log %q: %w", c.Name, err)
	}
	if c.AttemptTimeout < 0 || c.Timeout < 0 {
		return nil, fmt.Errorf("ctlog: log %q: negative timeout", c.Name)
	}
	t, err := newTransport(ClientConfig{
		URL: c.URL, RootCAs: c.RootCAs, ClientCertFile: c.ClientCertFile, ClientKeyFile: c.ClientKeyFile, TokenFile: c.TokenFile,
	})
	if err != nil {
		return nil, fmt.Errorf("ctlog: log %q: %w", c.Name, err)
	}
	r := &Remote{
		name:           c.Name,
		url:            base + "/ct/v1/",
		key:            key,
		client:         t.client(),
		credentials:    t.credentials,
		attemptTimeout: c.AttemptTimeout,
		timeout:        c.Timeout,
		clock:          c.Clock,
	}
	if c.MonitoringURL != "" {
		if r.monitoringURL, err = submissionURL(c.MonitoringURL); err != nil {
			return nil, fmt.Errorf("ctlog: log %q: monitoring URL: %w", c.Name, err)
		}
	}
	if r.attemptTimeout == 0 {
		r.attemptTimeout = 2 * time.Second
	}
	if r.timeout == 0 {
		r.timeout = defaultTimeout
	}
	if r.clock == nil {
		r.clock = time.Now
	}
	return r, nil
}

func submissionURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("parsing URL: %w", err)
	}
	switch {
	case u.Host == "" || u.Hostname() == "":
		return "", fmt.Errorf("URL %q has no host", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", errors.New("URL may not carry credentials, query or fragment")
	case u.Scheme == "https":
	case u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		return "", fmt.Errorf("URL %q is neither https nor http to a loopback address", s)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Name is the configured name.
func (r *Remote) Name() string { return r.name }

// ID is the log id.
func (r *Remote) ID() [32]byte { return r.key.ID() }

// PublicKey is the DER of the log's SubjectPublicKeyInfo.
func (r *Remote) PublicKey() []byte { return r.key.DER() }

// CheckCredentials reads the client certificate and the token, and says what is
// wrong with them.
func (r *Remote) CheckCredentials() error { return r.credentials.check() }

// CloseIdleConnections closes the connections that no submission uses.
func (r *Remote) CloseIdleConnections() { r.client.CloseIdleConnections() }

// Ready always agrees: what the last submission met is the pool's business.
func (r *Remote) Ready() error { return nil }

// Submit sends the precertificate and its chain to add-pre-chain. It tries at
// most twice: a log answers a repeated submission with the SCT of the first, so
// the second attempt is safe. Refusals and invalid SCTs are not tried again.
func (r *Remote) Submit(ctx context.Context, s Submission) (SCT, error) {
	body, err := json.Marshal(ct.AddChainRequest{Chain: append([][]byte{s.Precertificate}, s.Issuers...)})
	if err != nil {
		return SCT{}, fmt.Errorf("log %q: encoding request: %w", r.name, err)
	}
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	deadline, _ := bounded.Deadline()
	for attempt := 1; ; attempt++ {
		sct, err := r.attempt(bounded, s, body, attempt == maxAttempts)
		if err == nil {
			return sct, nil
		}
		if ctx.Err() != nil {
			return SCT{}, fmt.Errorf("log %q: %w: %w", r.name, context.Cause(ctx), err)
		}
		failure, again := errors.AsType[*attemptError](err)
		if !again || attempt == maxAttempts {
			return SCT{}, fmt.Errorf("log %q: attempt %d: %w", r.name, attempt, err)
		}
		// A pause must leave the better part of the time to what it is made for. In
		// a pool, the next log has a turn sooner than the one that asked for more.
		most := time.Until(deadline) / 2
		if failure.retryAfter > most {
			return SCT{}, fmt.Errorf("log %q: attempt %d: %w", r.name, attempt, err)
		}
		pause := minPause + rand.N(maxPause-minPause) //nolint:gosec // jitter, not a secret
		pause = max(min(pause, most), failure.retryAfter)
		if err := sleep(bounded, pause); err != nil {
			return SCT{}, fmt.Errorf("log %q: %w", r.name, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// attemptError is a failure that another attempt may mend.
type attemptError struct {
	err        error
	retryAfter time.Duration
}

func (e *attemptError) Error() string { return e.err.Error() }
func (e *attemptError) Unwrap() error { return e.err }

func (r *Remote) attempt(ctx context.Context, s Submission, body []byte, last bool) (SCT, error) {
	timeout := r.attemptTimeout
	if deadline, ok := ctx.Deadline(); ok && !last {
		timeout = min(timeout, time.Until(deadline)*4/5)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, header, answer, err := r.exchange(ctx, http.MethodPost, r.url+"add-pre-chain", body)
	if err != nil {
		return SCT{}, &attemptError{err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
	}
	if status != http.StatusOK {
		return SCT{}, statusError(status, header, answer, r.clock())
	}
	if len(answer) > maxResponse {
		return SCT{}, badSCT(reasonOversized, "answer of more than %d bytes", maxResponse)
	}
	sct, err := parseAnswer(answer)
	if err != nil {
		return SCT{}, err
	}
	sct.Log = r.name
	if err := r.key.VerifySCT(s, sct, r.clock()); err != nil {
		return SCT{}, err
	}
	return sct, nil
}

// exchange sends one request and reads the answer, of which it returns at most
// one byte more than maxResponse.
func (r *Remote) exchange(ctx context.Context, method, url string, body []byte) (status int, header http.Header, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("building request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "mayfly")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("reading answer: %w", err)
	}
	return resp.StatusCode, resp.Header, answer, nil
}
