package oidc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is an identity provider without a network, for tests in a bubble of
// synctest. It answers for whatever issuer it is asked about and remembers when
// it was asked.
type memory struct {
	// mu guards the fields below.
	mu     sync.Mutex
	keys   []byte
	header http.Header
	down   bool
	hang   bool
	// slow is how long an answer takes.
	slow time.Duration
	// hostile answers in place of all else.
	hostile func(*http.Request) *http.Response
	// fetches are the beginnings of rounds; requests counts every request.
	fetches  []time.Time
	requests int
}

const memoryURL = "https://idp.example"

// RoundTrip implements http.RoundTripper.
func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := "https://" + r.URL.Host
	m.requests++
	body := text(object{"issuer": own, "jwks_uri": own + "/keys"})
	if r.URL.Path == "/keys" {
		body = string(m.keys)
	} else {
		m.fetches = append(m.fetches, time.Now())
	}
	if m.hang || m.slow > 0 {
		timer := time.NewTimer(max(m.slow, time.Nanosecond))
		if m.hang {
			timer.Stop()
		}
		m.mu.Unlock()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
		m.mu.Lock()
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
	}
	if m.hostile != nil {
		return m.hostile(r), nil
	}
	status := http.StatusOK
	if m.down {
		status = http.StatusBadGateway
	}
	return &http.Response{StatusCode: status, Header: m.header.Clone(), Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (m *memory) set(f func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

// intervals returns the times between fetches so far, and forgets them.
func (m *memory) intervals() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ds []time.Duration
	for i := 1; i < len(m.fetches); i++ {
		ds = append(ds, m.fetches[i].Sub(m.fetches[i-1]))
	}
	m.fetches = m.fetches[max(0, len(m.fetches)-1):]
	return ds
}

// rounds is how many rounds of fetching there were so far.
func (m *memory) rounds() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.fetches)
}

// checkPace fails the test if there were ever more than two rounds in a minute.
func (m *memory) checkPace(t *testing.T, what string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := 2; i < len(m.fetches); i++ {
		if d := m.fetches[i].Sub(m.fetches[i-2]); d < time.Minute {
			t.Errorf("%s: three rounds within %v, the first after %v; want two in a minute", what, d, m.fetches[i-2].Sub(m.fetches[0]))
			return
		}
	}
}

// inBubble runs a verifier over m in a bubble, stops it, and waits for it.
func inBubble(t *testing.T, m *memory, cfg Config, f func(t *testing.T, v *Verifier)) {
	t.Helper()
	inBubbleOf(t, []*memory{m}, cfg, f)
}

// inBubbleOf is inBubble with one provider for each issuer.
func inBubbleOf(t *testing.T, ms []*memory, cfg Config, f func(t *testing.T, v *Verifier)) {
	t.Helper()
	for _, m := range ms {
		if m.keys == nil {
			m.keys = standardKeys()
		}
	}
	synctest.Test(t, func(t *testing.T) {
		if cfg.Issuers == nil {
			cfg.Issuers = []Issuer{memoryIssuer()}
		}
		v, err := New(cfg)
		if err != nil {
			t.Fatalf("New: %v", err)
		}
		for i, is := range v.issuers {
			is.fetcher.client.Transport = ms[i]
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); v.Run(ctx) }()
		synctest.Wait()
		f(t, v)
		cancel()
		<-done
	})
}

func memoryIssuer() Issuer {
	return Issuer{Name: "test", URL: memoryURL, Audiences: []string{"mayfly"}}
}

// claimsNow are those of a good token of memory at the bubble's time.
func claimsNow() object {
	return object{"iss": memoryURL, "aud": "mayfly", "sub": "alice",
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix()}
}

// tokenNow is a good token of memory at the bubble's time.
func tokenNow(t *testing.T) string {
	t.Helper()
	return rs256().token(t, goodHeader(), claimsNow())
}

// forgedNow is a token that no provider has signed, under the given kid. Making
// a signature costs more than checking one, so it is noise.
func forgedNow(kid string) string { return forgedFor(memoryURL, kid) }

func forgedFor(issuer, kid string) string {
	claims := claimsNow().with("iss", issuer)
	return b64([]byte(text(goodHeader().with("kid", kid)))) + "." + b64([]byte(text(claims))) + "." + b64(make([]byte, 256))
}

// strangeKid returns a kid that nobody has.
func strangeKid(i int) string { return fmt.Sprintf("strange-%d", i) }
