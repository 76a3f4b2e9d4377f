package login

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// callbackPath is the one that clients registered for cosign already have.
const callbackPath = "/auth/callback"

// callback listens for the one request that the browser brings back.
type callback struct {
	redirect string
	host     string
	server   *http.Server
	once     sync.Once
	answer   chan url.Values // holds the one answer
	failed   chan error
	served   sync.WaitGroup
}

// listen takes host:port, with port 0 for any. Both loopback addresses are
// taken, at one port: a browser may try either for "localhost", and where we do
// not listen, another user of this machine could.
func listen(ctx context.Context, address string) (*callback, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !endpoint.IsLoopback(host) {
		return nil, fmt.Errorf("callback %q is not 127.0.0.1:PORT, [::1]:PORT or localhost:PORT", address)
	}
	listeners, err := bind(ctx, host, port)
	if err != nil {
		return nil, err
	}
	_, port, err = net.SplitHostPort(listeners[0].Addr().String())
	if err != nil {
		return nil, err
	}
	c := &callback{host: net.JoinHostPort(host, port), answer: make(chan url.Values, 1), failed: make(chan error, 2)}
	c.redirect = "http://" + c.host + callbackPath
	c.server = &http.Server{
		Handler:           http.HandlerFunc(c.serve),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		MaxHeaderBytes: 64 << 10,
	}
	for _, ln := range listeners {
		c.served.Go(func() {
			if err := c.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				c.failed <- err
			}
		})
	}
	return c, nil
}

// bind listens on the address of the redirect URI, and on the other loopback
// address if the machine has it.
func bind(ctx context.Context, host, port string) ([]net.Listener, error) {
	first, second := "127.0.0.1", "::1"
	if host == second {
		first, second = second, first
	}
	for attempt := 0; ; attempt++ {
		a, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(first, port))
		if err != nil {
			return nil, err
		}
		_, chosen, err := net.SplitHostPort(a.Addr().String())
		if err != nil {
			return nil, errors.Join(err, a.Close())
		}
		b, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(second, chosen))
		if err == nil {
			return []net.Listener{a, b}, nil
		}
		if !taken(err) {
			return []net.Listener{a}, nil // no IPv6 here
		}
		_ = a.Close() // nothing was written
		if n, _ := strconv.Atoi(port); n != 0 || attempt == 9 {
			return nil, fmt.Errorf("port %s is taken on %s: %w", chosen, second, err)
		}
	}
}

// serve lets one callback pass. The name that the request was made to must be
// the one of the redirect URI, so that no foreign page reaches us by DNS
// rebinding.
func (c *callback) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	if r.Host != c.host || r.URL.Path != callbackPath {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		query = url.Values{} // is refused for want of a state
	}
	first := false
	c.once.Do(func() { first = true })
	if !first {
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, "<!doctype html><title>Mayfly</title><p>This login is over.")
		return
	}
	// The page is the same whatever the outcome: the terminal tells it, and
	// nothing that came with the request is shown.
	_, _ = io.WriteString(w, "<!doctype html><title>Mayfly</title><p>The answer has arrived. Close this window and look at the terminal.")
	c.answer <- query
}

// wait returns the query of the callback.
func (c *callback) wait(ctx context.Context) (url.Values, error) {
	select {
	case q := <-c.answer:
		return q, nil
	case err := <-c.failed:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close lets the last page be delivered and stops listening.
func (c *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		_ = c.server.Close() // who hangs on for a second has seen the page
	}
	c.served.Wait()
}

// challenge: RFC 7636, Section 4.2:
//
//	code_challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier)))
func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
