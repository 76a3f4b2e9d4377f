package oidc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// endless is a body that does not end by itself and counts what was read of it.
type endless struct {
	size, read int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read >= e.size {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = ' '
	}
	e.read += int64(len(p))
	return len(p), nil
}

// hostilities are what a provider can do to us with its answers.
func hostilities(t *testing.T) map[string]func(*http.Request) *http.Response {
	t.Helper()
	answer := func(r *http.Request, status int, body io.Reader) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), Request: r}
	}
	// keysOf answers discovery well, and the question for keys with a body.
	keysOf := func(body func(*http.Request) io.Reader) func(*http.Request) *http.Response {
		return func(r *http.Request) *http.Response {
			if r.URL.Path == "/keys" {
				return answer(r, http.StatusOK, body(r))
			}
			own := "https://" + r.URL.Host
			return answer(r, http.StatusOK, strings.NewReader(text(object{"issuer": own, "jwks_uri": own + "/keys"})))
		}
	}
	many := make([]object, 10_000)
	for i := range many {
		many[i] = publicJWK(ed25519Key().Public()).with("kid", strangeKid(i))
	}
	manyKeys := jwkSet(many...)
	var rotations atomic.Int64
	return map[string]func(*http.Request) *http.Response{
		"64 MB of keys": keysOf(func(*http.Request) io.Reader { return &endless{size: 64 << 20} }),
		"10 000 keys":   keysOf(func(*http.Request) io.Reader { return bytes.NewReader(manyKeys) }),
		"no keys":       keysOf(func(*http.Request) io.Reader { return strings.NewReader(`{"keys":[]}`) }),
		"new kid in each answer": keysOf(func(*http.Request) io.Reader {
			return bytes.NewReader(newKeys(fmt.Sprintf("rotated-%d", rotations.Add(1))))
		}),
		"redirects": func(r *http.Request) *http.Response {
			resp := answer(r, http.StatusFound, strings.NewReader(""))
			resp.Header.Set("Location", "http://169.254.169.254/latest/meta-data/")
			return resp
		},
		"max-age of nothing": func(r *http.Request) *http.Response {
			resp := keysOf(func(*http.Request) io.Reader { return bytes.NewReader(standardKeys()) })(r)
			resp.Header.Set("Cache-Control", "no-store, max-age=0")
			return resp
		},
		"keys in the network": func(r *http.Request) *http.Response {
			return answer(r, http.StatusOK, strings.NewReader(text(object{"issuer": "https://" + r.URL.Host, "jwks_uri": "https://169.254.169.254/keys"})))
		},
		"another's issuer": func(r *http.Request) *http.Response {
			return answer(r, http.StatusOK, strings.NewReader(text(object{"issuer": memoryURL, "jwks_uri": memoryURL + "/keys"})))
		},
		"503, come back at once": func(r *http.Request) *http.Response {
			resp := answer(r, http.StatusServiceUnavailable, strings.NewReader(""))
			resp.Header.Set("Retry-After", "0")
			return resp
		},
	}
}

// TestHostileProvider: whatever one provider does and whatever tokens name it,
// it is asked twice a minute at most, and another issuer is as quick as ever.
func TestHostileProvider(t *testing.T) {
	const hostileURL = "https://hostile.example"
	cases := hostilities(t)
	cases["hangs"] = nil
	for name, answers := range cases {
		t.Run(name, func(t *testing.T) {
			good, bad := &memory{}, &memory{hostile: answers, hang: answers == nil}
			second := memoryIssuer()
			second.Name, second.URL = "hostile", hostileURL
			inBubbleOf(t, []*memory{good, bad}, Config{Issuers: []Issuer{memoryIssuer(), second}}, func(t *testing.T, v *Verifier) {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					for i := 0; ctx.Err() == nil; i++ {
						_, err := v.Verify(ctx, forgedFor(hostileURL, strangeKid(i)))
						if r := ca.AsRefusal(err); err == nil || r.Kind != ca.KindInvalid && r.Kind != ca.KindUnavailable {
							t.Errorf("forged token of the hostile issuer: %v", err)
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				}()
				start := time.Now()
				token := tokenNow(t)
				for range 240 {
					before := time.Now()
					if _, err := v.Verify(t.Context(), token); err != nil {
						t.Fatalf("good token of another issuer after %v: %v", time.Since(start), err)
					}
					if took := time.Since(before); took != 0 {
						t.Fatalf("good token of another issuer took %v", took)
					}
					time.Sleep(time.Second)
				}
				cancel()
				<-done
				synctest.Wait()
				bad.checkPace(t, name)
				if n := bad.rounds(); n < 4 {
					t.Errorf("asked %d times in four minutes; the test wants to see it asked", n)
				}
			})
		})
	}
}

// Of a body that is too large no more is read than it takes to know.
func TestLargeBodiesAreNotRead(t *testing.T) {
	body := &endless{size: 64 << 20}
	m := &memory{hostile: func(r *http.Request) *http.Response {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(body), Request: r}
	}}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		if body.read > 2*maxBodyBytes {
			t.Errorf("%d bytes read of a body of 64 MB, limit %d", body.read, maxBodyBytes)
		}
		if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "larger") {
			t.Errorf("status %+v, want an error", st)
		}
	})
}

// A name of the provider that resolves to us, as by DNS rebinding.
func TestNamePointingInwardsIsRefused(t *testing.T) {
	p := newProvider(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.srv.URL, "https://"))
	succeed(t, err)
	is := p.issuer()
	is.URL, is.JWKSURL = "https://idp.example", "https://localhost:"+port+"/keys"
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "loopback") || p.requests.Load() != 0 {
		t.Errorf("status %+v after %d requests, want the address refused", st, p.requests.Load())
	}
}

// A provider that sends a byte now and then is cut off by the clock.
func TestDrippingProviderIsCutOff(t *testing.T) {
	m := &memory{slow: fetchTimeout - time.Second}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		// Two answers of four seconds each: each is in time, and there is no third.
		time.Sleep(2 * fetchTimeout)
		if st := v.Ready()[0]; !st.Ready {
			t.Errorf("slow provider: status %+v, want it used", st)
		}
		m.set(func(m *memory) { m.slow = time.Hour })
		time.Sleep(11 * time.Minute)
		if st := v.Ready()[0]; !st.Ready || st.Err == "" {
			t.Errorf("dripping provider: status %+v, want the old keys and an error", st)
		}
		m.checkPace(t, "dripping provider")
	})
}
