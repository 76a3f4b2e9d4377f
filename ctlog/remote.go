package ctlog

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
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
)

// RemoteConfig says which RFC 6962 log to use and how to know it.
type RemoteConfig struct {
	// Name is the log's short name. Required.
	Name string
	// URL is the submission prefix, to which /ct/v1/add-pre-chain is added.
	// Required; https, or http to a loopback address.
	URL string
	// PublicKey is the log's SubjectPublicKeyInfo, PEM or DER. Required: a log
	// whose promises cannot be verified is no log.
	PublicKey []byte
	// RootCAs verify the log's TLS certificate; nil means the system's.
	RootCAs *x509.CertPool
	// AttemptTimeout bounds one HTTP exchange, body included. Default 2 s.
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
	url            string
	key            *Key
	client         *http.Client
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
	r := &Remote{
		name:           c.Name,
		url:            base + "/ct/v1/add-pre-chain",
		key:            key,
		attemptTimeout: c.AttemptTimeout,
		timeout:        c.Timeout,
		clock:          c.Clock,
	}
	if r.attemptTimeout == 0 {
		r.attemptTimeout = 2 * time.Second
	}
	if r.timeout == 0 {
		r.timeout = 2500 * time.Millisecond
	}
	if r.clock == nil {
		r.clock = time.Now
	}
	r.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{RootCAs: c.RootCAs, MinVersion: tls.VersionTLS12},
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    256,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			// Each attempt's context bounds dialling, handshake and headers.
		},
		// A log that moves is a change of configuration, not of direction.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
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
		sct, err := r.attempt(bounded, s, body)
		if err == nil {
			return sct, nil
		}
		if ctx.Err() != nil {
			return SCT{}, fmt.Errorf("log %q: %w: %w", r.name, context.Cause(ctx), err)
		}
		failure, again := errors.AsType[*attemptError](err)
		pause := minPause + rand.N(maxPause-minPause) //nolint:gosec // jitter, not a secret
		if again {
			pause = max(pause, failure.retryAfter)
		}
		if !again || attempt == maxAttempts || time.Until(deadline) <= pause {
			return SCT{}, fmt.Errorf("log %q: attempt %d: %w", r.name, attempt, err)
		}
		if err := sleep(ctx, pause); err != nil {
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

func (r *Remote) attempt(ctx context.Context, s Submission, body []byte) (SCT, error) {
	ctx, cancel := context.WithTimeout(ctx, r.attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return SCT{}, fmt.Errorf("%w: building request: %w", ErrUnavailable, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mayfly")
	resp, err := r.client.Do(req)
	if err != nil {
		return SCT{}, &attemptError{err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return SCT{}, &attemptError{err: fmt.Errorf("%w: reading answer: %w", ErrUnavailable, err)}
	}
	if resp.StatusCode != http.StatusOK {
		return SCT{}, statusError(resp, answer, r.clock())
	}
	if len(answer) > maxResponse {
		return SCT{}, fmt.Errorf("%w: answer of more than %d bytes", ErrBadSCT, maxResponse)
	}
	sct, err := parseAnswer(answer)
	if err != nil {
		return SCT{}, fmt.Errorf("%w: %w", ErrBadSCT, err)
	}
	sct.Log = r.name
	if err := r.key.VerifySCT(s, sct, r.clock()); err != nil {
		return SCT{}, err
	}
	return sct, nil
}

// parseAnswer decodes the answer to add-pre-chain (RFC 6962, Section 4.1).
func parseAnswer(body []byte) (SCT, error) {
	var answer ct.AddChainResponse
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&answer); err != nil {
		return SCT{}, fmt.Errorf("decoding answer: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return SCT{}, errors.New("decoding answer: data after the object")
	}
	if answer.SCTVersion != ct.V1 {
		return SCT{}, fmt.Errorf("SCT version %d, want 0 (v1)", answer.SCTVersion)
	}
	sct := SCT{Signature: answer.Signature}
	if len(answer.ID) != len(sct.LogID) {
		return SCT{}, fmt.Errorf("log id of %d bytes, want %d", len(answer.ID), len(sct.LogID))
	}
	copy(sct.LogID[:], answer.ID)
	var err error
	if sct.Timestamp, err = timestamp(answer.Timestamp); err != nil {
		return SCT{}, err
	}
	if sct.Extensions, err = base64.StdEncoding.DecodeString(answer.Extensions); err != nil {
		return SCT{}, fmt.Errorf("decoding extensions: %w", err)
	}
	if len(sct.Extensions) > 1<<16-1 {
		return SCT{}, fmt.Errorf("extensions of %d bytes", len(sct.Extensions))
	}
	if sct.Index, err = leafIndex(sct.Extensions); err != nil {
		return SCT{}, err
	}
	return sct, nil
}

// statusError says what an answer other than 200 means. 400, 413 and 422 are
// about this submission; the other 4xx (a wrong path, missing credentials) are
// about the log's configuration or ours, and nobody's submission would pass.
func statusError(resp *http.Response, body []byte, now time.Time) error {
	err := func(kind error) error {
		text := body[:min(len(body), maxErrorText)]
		return fmt.Errorf("%w: HTTP %d: %q", kind, resp.StatusCode, text)
	}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		return &attemptError{err: err(ErrOverloaded), retryAfter: retryAfter(resp, now)}
	case code == http.StatusRequestTimeout, code >= 500:
		return &attemptError{err: err(ErrUnavailable), retryAfter: retryAfter(resp, now)}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge,
		code == http.StatusUnprocessableEntity:
		return err(ErrRejected)
	default:
		return err(ErrUnavailable)
	}
}

// retryAfter reads the header in either form (RFC 9110, Section 10.2.3). The
// caller waits only if the wait fits into its deadline, so an absurd value costs
// the second attempt and nothing more.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
