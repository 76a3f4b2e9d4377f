package rfc6962

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// Log is where entries go. *embedded.Log is one; errors are those of a ctlog.Log.
type Log interface {
	// Submit logs a precertificate.
	Submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error)
	// Add logs what the caller has checked: here a certificate.
	Add(ctx context.Context, e embedded.Entry) (ctlog.SCT, error)
	// Ready reports, without I/O, why a submission would be turned away now.
	Ready() error
}

// Config says what a Handler takes and from whom.
type Config struct {
	// Name is the log's short name in messages and metrics. Required.
	Name string
	// Log is where the entries go. Required.
	Log Log
	// Issuers are whose certificates are taken. Required.
	Issuers *Issuers
	// PerClient is the quota of one client key. Default 6000 a minute.
	PerClient Rate
	// InFlight is how many requests are worked on at once, of which one client may
	// have half. Each may hold twice MaxBody. Default 512.
	InFlight int
	// Remember is how many of the last submissions get the same SCT again; see the
	// package. Default 32768, which take some 20 MB.
	Remember int
	// Timeout is how long the log may take over one submission. Default 2 s, after
	// which clients have given up.
	Timeout time.Duration
	// Clock judges certificates and quotas. Default time.Now.
	Clock func() time.Time
	// Logger hears why submissions were refused; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics, labelled with Name; nil means none.
	Registerer prometheus.Registerer
}

func (c *Config) setDefaults() error {
	switch {
	case c.Name == "":
		return errors.New("the log has no name")
	case c.Log == nil:
		return errors.New("there is no log")
	case c.Issuers == nil:
		return errors.New("no issuing certificates are given")
	case c.PerClient.Count < 0 || c.PerClient.Per < 0 || c.InFlight < 0 || c.Remember < 0 || c.Timeout < 0:
		return errors.New("negative value in the configuration")
	}
	c.PerClient.Count = cmp.Or(c.PerClient.Count, 6000)
	c.PerClient.Per = cmp.Or(c.PerClient.Per, time.Minute)
	c.InFlight = cmp.Or(c.InFlight, 512)
	c.Remember = cmp.Or(c.Remember, 32768)
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Handler answers POST /ct/v1/add-chain, POST /ct/v1/add-pre-chain and GET
// /ct/v1/get-roots. It belongs behind a TLS listener that demands and verifies
// client certificates, and that bounds how long a request may take to be read; a
// request without a verified certificate is refused.
type Handler struct {
	config  Config
	issuers atomic.Pointer[Issuers]
	// verified is how many paths earlier issuers had verified.
	verified atomic.Uint64
	clients  *clients
	recent   *recent
	flying   chan struct{}
	lines    *rate.Limiter
	metrics  *metrics
}

// New returns a handler for one log.
func New(c Config) (*Handler, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("rfc6962: %w", err)
	}
	h := &Handler{config: c, flying: make(chan struct{}, c.InFlight), lines: rate.NewLimiter(refusalLines, refusalBurst)}
	h.issuers.Store(c.Issuers)
	var err error
	if h.clients, err = newClients(c.PerClient, max(c.InFlight/2, 1)); err != nil {
		return nil, fmt.Errorf("rfc6962: %w", err)
	}
	if h.recent, err = newRecent(c.Remember); err != nil {
		return nil, fmt.Errorf("rfc6962: %w", err)
	}
	if h.metrics, err = newMetrics(c.Registerer, c.Name, h); err != nil {
		return nil, fmt.Errorf("rfc6962: %w", err)
	}
	return h, nil
}

// SetIssuers takes other issuing certificates into use for requests to come.
func (h *Handler) SetIssuers(is *Issuers) {
	before := h.issuers.Swap(is)
	h.verified.Add(before.verified.Load())
}

// The lines about refused submissions, which every client can cause: so many per
// second and at once.
const (
	refusalLines = 5
	refusalBurst = 100
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	route, method, serve := h.route(r.URL.Path)
	err := h.admit(w, r, method, serve)
	result := resultOK
	switch {
	case errors.Is(err, errRepeated):
		result = resultRepeated
	case err != nil:
		f := failureOf(err)
		result = f.result
		h.told(r, route, f)
		f.write(w)
	}
	h.metrics.observe(route, result, time.Since(start))
}

type serveFunc func(w http.ResponseWriter, r *http.Request) error

func (h *Handler) route(path string) (name, method string, serve serveFunc) {
	switch path {
	case "/ct/v1/add-chain":
		return "add-chain", http.MethodPost, func(w http.ResponseWriter, r *http.Request) error { return h.add(w, r, false) }
	case "/ct/v1/add-pre-chain":
		return "add-pre-chain", http.MethodPost, func(w http.ResponseWriter, r *http.Request) error { return h.add(w, r, true) }
	case "/ct/v1/get-roots":
		return "get-roots", http.MethodGet, h.roots
	}
	return "other", "", nil
}

// admit serves a request if there is a place for it: in the order in which
// refusing gets more expensive.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, method string, serve serveFunc) error {
	now := h.config.Clock()
	id, ok := identify(r, now)
	if !ok {
		return &failure{status: http.StatusForbidden, text: "a valid client certificate is required", result: resultRejected, hangUp: true}
	}
	if serve == nil {
		return &failure{status: http.StatusNotFound, text: "no such path", result: resultRejected}
	}
	if r.Method != method {
		return &failure{status: http.StatusMethodNotAllowed, text: "method not allowed: " + shown(r.Method), result: resultRejected, allow: method}
	}
	c := h.clients.of(id)
	if wait, ok := c.take(now); !ok {
		return &failure{status: http.StatusTooManyRequests, text: "rate-limited: over the quota of this client", result: resultQuota, retryAfter: wait}
	}
	for _, places := range []chan struct{}{c.flying, h.flying} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			return &failure{status: http.StatusTooManyRequests, text: "too many requests at once", result: resultOverloaded, retryAfter: time.Second}
		}
	}
	return serve(w, r)
}

// add is add-chain and add-pre-chain.
func (h *Handler) add(w http.ResponseWriter, r *http.Request, precertificate bool) error {
	if err := h.config.Log.Ready(); err != nil {
		return err
	}
	chain, err := readChain(w, r)
	if err != nil {
		return err
	}
	now := h.config.Clock()
	e, err := h.issuers.Load().check(chain, precertificate, now)
	if err != nil {
		return rejected(fmt.Errorf("failed to verify add-chain contents: %w", err))
	}
	// An entry that was begun is finished although its submitter has gone: he will
	// be back, and then the SCT is here.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(r.Context()), h.config.Timeout, errLate)
	defer cancel()
	sct, repeated, err := h.recent.do(ctx, e.identity, now, func() (ctlog.SCT, error) { return e.submit(ctx, h.config.Log) })
	if err != nil {
		return err
	}
	if err := writeSCT(w, sct); err != nil {
		return err
	}
	if repeated {
		return errRepeated
	}
	return nil
}

func (h *Handler) roots(w http.ResponseWriter, _ *http.Request) error {
	// RFC 6962, Section 4.7: "An array of base64-encoded root certificates that are
	// acceptable to the log."
	return writeJSON(w, struct {
		Certificates [][]byte `json:"certificates"`
	}{h.issuers.Load().tops})
}

// told logs a refusal, which whoever set up the log or the client acts on. What a
// log is not able to do it tells itself.
func (h *Handler) told(r *http.Request, route string, f *failure) {
	if f.result != resultRejected || !h.lines.Allow() {
		return
	}
	var subject string
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		subject = r.TLS.PeerCertificates[0].Subject.String()
	}
	h.config.Logger.Warn("submission refused", "log", h.config.Name, "route", route, "status", f.status, "client", shown(subject), "err", f.text)
}
