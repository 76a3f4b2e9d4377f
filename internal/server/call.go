package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// call is what is known about one request while it lasts.
type call struct {
	// turn is held by the goroutine that the gRPC library runs a method on,
	// because the library lets the HTTP handler return before the method does
	// when a client goes away. The handler takes it last, and so waits.
	turn sync.Mutex
	// over, guarded by turn, tells a method that comes late not to begin.
	over bool

	id     string
	source netip.Addr
	// route is the name for log and metrics, of which there are few.
	route, method string
	api           string
	// quiet calls are too frequent and too dull to log when they succeed.
	quiet    bool
	started  time.Time
	snapshot *Snapshot
	// held gives the snapshot back; nil when that is done or not needed.
	held func()
	// tokens are those that came in headers.
	tokens []string

	identity ca.Identity
	refusal  *ca.Refusal
}

// callKey is the key of the only value that this package puts into a context.
// It is how a call reaches the methods that the gRPC library calls.
type callKey struct{}

func callOf(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		panic("server: gRPC method called outside of Handler") //nolint:forbidigo // only Handler reaches the gRPC server
	}
	return c
}

func (s *Server) newCall(r *http.Request) *call {
	c := &call{
		id:      requestID(r.Header.Get("X-Request-Id")),
		source:  s.source(r),
		method:  knownMethod(r.Method),
		started: time.Now(),
	}
	c.pin(s.cfg.Snapshot(), r)
	for _, v := range r.Header.Values("Authorization") {
		// RFC 9110, Section 11.1: the scheme is case-insensitive.
		scheme, token, ok := strings.Cut(strings.TrimSpace(v), " ")
		if ok && strings.EqualFold(scheme, "Bearer") {
			c.tokens = append(c.tokens, strings.TrimSpace(token))
		}
	}
	return c
}

// requestID takes over the caller's request id if it is one that can be put into
// a log without harm, and else makes one.
func requestID(given string) string {
	sane := given != "" && len(given) <= 64
	for _, b := range []byte(given) {
		sane = sane && (b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || strings.IndexByte("-_.", b) >= 0)
	}
	if sane {
		return given
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, as crypto/rand promises
	return hex.EncodeToString(id[:])
}

// knownMethod keeps invented methods out of log and metrics.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch:
		return m
	default:
		return "other"
	}
}

// Handler returns the handler of REST and gRPC. gRPC is recognized by protocol
// and content type, so that both live on one port: some clients dial gRPC at
// the host and port of the HTTP URL. It needs HTTP/2, by ALPN or, in plaintext,
// by prior knowledge.
//
// Serve bounds what a client may take to send its request and read its answer;
// whoever serves the handler otherwise has to set those limits himself.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	defer s.calls.Done()
	c := s.newCall(r)
	defer c.release()
	rec := &recorder{ResponseWriter: w}
	w.Header().Set("X-Request-Id", c.id)
	defer s.finish(c, rec)
	grpc := isGRPC(r)
	defer s.recover(c, rec, grpc)

	if grpc {
		s.serveGRPC(rec, r, c)
	} else {
		s.serveREST(rec, r, c)
	}
}

// recover turns a panic into an answer. When one is already under way, the
// connection or stream is broken off, lest half an answer be taken for whole.
func (s *Server) recover(c *call, w *recorder, grpc bool) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // a mounted handler's own way to break off, by this very value
		panic(v) //nolint:forbidigo // it is for net/http
	}
	err := s.panicked(c, v, debug.Stack())
	switch {
	case w.code != 0:
		c.refused(err)
		panic(http.ErrAbortHandler) //nolint:forbidigo // how net/http is told to break off
	case grpc:
		c.refuseGRPC(w, err)
	default:
		c.refuseREST(w, err)
	}
}

// finish counts and logs a call.
func (s *Server) finish(c *call, w *recorder) {
	outcome := strconv.Itoa(w.code)
	if code := w.Header().Get("Grpc-Status"); code != "" {
		outcome = "grpc-" + code
	} else if w.code == 0 {
		// net/http sends 200 for a handler that wrote nothing; the gRPC library
		// writes nothing only when the client has gone.
		outcome = "none"
	}
	took := time.Since(c.started)
	s.metrics.observe(c, outcome, took)
	s.log(c, outcome, took)
}

// limitAddress holds an issuance to its address's share. It stands before
// everything that costs anything.
func (s *Server) limitAddress(c *call) error {
	wait, ok := s.addresses.take(addressKey(c.source), s.cfg.Clock())
	if !ok {
		return &ca.Refusal{Kind: ca.KindExhausted, Reason: ca.ReasonRateLimited, RetryAfter: wait,
			Err: errPerAddress}
	}
	return nil
}

// deadline is when the call must be over.
func (s *Server) deadline(c *call) time.Time { return c.started.Add(s.cfg.Deadline) }

// release gives the snapshot back. Doing it again does nothing. It belongs to the
// goroutine of the HTTP handler.
func (c *call) release() {
	if held := c.held; held != nil {
		c.held = nil
		held()
	}
}

// recorder remembers whether and how an answer was begun.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 && code >= 200 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Flush is what the gRPC library demands of a response writer.
func (w *recorder) Flush() {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
