package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca"
)

func TestRefreshKeepsItsPace(t *testing.T) {
	for _, tt := range []struct {
		cacheControl string
		low, high    time.Duration
	}{
		{"", 8 * time.Minute, 10 * time.Minute},
		{"no-cache", 8 * time.Minute, 10 * time.Minute},
		{"public, max-age=300, must-revalidate", 4 * time.Minute, 5 * time.Minute},
		{"max-age=86400", 8 * time.Minute, 10 * time.Minute},
		{"Max-Age=0", 48 * time.Second, time.Minute},
		{"max-age=-5", 8 * time.Minute, 10 * time.Minute},
		{"max-age=99999999999999999999", 8 * time.Minute, 10 * time.Minute},
		{"s-maxage=60", 8 * time.Minute, 10 * time.Minute},
	} {
		m := &memory{header: http.Header{"Cache-Control": {tt.cacheControl}}}
		inBubble(t, m, Config{}, func(t *testing.T, _ *Verifier) {
			time.Sleep(2 * time.Hour)
			got := m.intervals()
			if want := int(2*time.Hour/tt.high) - 1; len(got) < want {
				t.Errorf("Cache-Control %q: %d refreshes in two hours, want at least %d", tt.cacheControl, len(got), want)
			}
			distinct := make(map[time.Duration]bool)
			for _, d := range got {
				distinct[d] = true
				if d < tt.low || d > tt.high {
					t.Errorf("Cache-Control %q: refreshed after %v, want %v to %v", tt.cacheControl, d, tt.low, tt.high)
				}
			}
			if len(distinct) < 2 {
				t.Errorf("Cache-Control %q: always the same interval %v, want jitter", tt.cacheControl, got)
			}
		})
	}
}

func TestRefreshBacksOffAndRecovers(t *testing.T) {
	m := &memory{down: true}
	reg := prometheus.NewRegistry()
	inBubble(t, m, Config{Registerer: reg}, func(t *testing.T, v *Verifier) {
		// Not at a full minute, at which there may be an attempt.
		time.Sleep(10*time.Minute + 5*time.Second)
		got := m.intervals()
		if got[0] > time.Second {
			t.Errorf("the first retry came after %v, want at most a second", got[0])
		}
		for i, d := range got[1:] {
			// Two rounds make a minute, whatever the two intervals are.
			if d > time.Minute || got[i]+d < time.Minute {
				t.Errorf("attempts came %v and %v after each other, want two a minute", got[i], d)
			}
		}
		if len(got) < 16 {
			t.Errorf("%d attempts in ten minutes, want at least 16", len(got))
		}
		failures := testutil.ToFloat64(v.metrics.failures.WithLabelValues("test"))
		if failures < 17 {
			t.Errorf("%v failures counted, want all of %d", failures, len(got)+1)
		}

		_, err := v.Verify(t.Context(), tokenNow(t))
		r := wantRefusal(t, "no keys yet", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
		if r.RetryAfter < time.Second || r.RetryAfter > time.Minute || r.RetryAfter%time.Second != 0 {
			t.Errorf("retry after %v, want whole seconds, 1s to 1m", r.RetryAfter)
		}
		if st := v.Ready()[0]; st.Ready || st.Stale || st.Err == "" || !st.FetchedAt.IsZero() {
			t.Errorf("status while down is %+v", st)
		}

		m.set(func(m *memory) { m.down = false })
		time.Sleep(r.RetryAfter)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("after the promised time: %v", err)
		}
		if st := v.Ready()[0]; !st.Ready || st.Stale || st.Err != "" || st.FetchedAt.IsZero() {
			t.Errorf("status after recovery is %+v", st)
		}
		if got := testutil.ToFloat64(v.metrics.fetched.WithLabelValues("test")); got != float64(v.Ready()[0].FetchedAt.Unix()) {
			t.Errorf("fetch time in metrics is %v", got)
		}
		// The back-off starts again from a second.
		m.set(func(m *memory) { m.down = true })
		m.intervals()
		time.Sleep(12 * time.Minute)
		if got := m.intervals(); len(got) < 3 || got[1] > time.Second+firstRetry {
			t.Errorf("after a good time, attempts came after %v; want the first retry within a second", got)
		}
	})
}

func TestKeysOutliveTheProviderUntilMaxStale(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		id, err := v.Verify(t.Context(), tokenNow(t))
		if err != nil || id.Token.StaleKeys {
			t.Fatalf("fresh keys: %+v, %v", id.Token, err)
		}
		m.set(func(m *memory) { m.down = true })
		time.Sleep(23 * time.Hour)
		id, err = v.Verify(t.Context(), tokenNow(t))
		if err != nil || !id.Token.StaleKeys {
			t.Errorf("provider down for 23h: got %+v, %v; want a verified token marked stale", id.Token, err)
		}
		if st := v.Ready()[0]; !st.Ready || !st.Stale || st.Err == "" {
			t.Errorf("status after 23h is %+v", st)
		}
		time.Sleep(time.Hour)
		_, err = v.Verify(t.Context(), tokenNow(t))
		r := wantRefusal(t, "provider down for 24h", err, ca.KindUnavailable, ca.ReasonIdpKeysStale)
		if r.RetryAfter < time.Second || r.RetryAfter > time.Minute {
			t.Errorf("retry after %v, want 1s to 1m", r.RetryAfter)
		}
		if st := v.Ready()[0]; st.Ready || !st.Stale {
			t.Errorf("status after 24h is %+v", st)
		}
		m.set(func(m *memory) { m.down = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("provider back: %v", err)
		}
	})
}

func TestWithdrawnKeysAreDroppedAtOnce(t *testing.T) {
	var log bytes.Buffer
	m := &memory{}
	inBubble(t, m, Config{Logger: slog.New(slog.NewJSONHandler(&log, nil))}, func(t *testing.T, v *Verifier) {
		before := v.issuers[0].keys.Load()
		m.set(func(m *memory) { m.keys = jwkSet(publicJWK(p256Key().Public()).with("kid", "ec")) })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		_, err := v.Verify(t.Context(), tokenNow(t))
		wantRefusal(t, "withdrawn key", err, ca.KindInvalid, ca.ReasonKeyUnknown)
		if after := v.issuers[0].keys.Load(); after.generation <= before.generation || len(before.byID["rsa"]) != 1 {
			t.Errorf("generation %d after %d, want more and the old snapshot untouched", after.generation, before.generation)
		}
		m.set(func(m *memory) { m.keys = standardKeys() })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("key is back: %v", err)
		}
	})
	thumbprint := must(parseKeySet(standardKeys())).byID["rsa"][0].thumbprint
	if !strings.Contains(log.String(), `"removed":["`) || !strings.Contains(log.String(), thumbprint) {
		t.Errorf("the log does not tell which keys went:\n%s", log.String())
	}
}

func TestUnusableSetsKeepTheOldKeys(t *testing.T) {
	var many []object
	for range 10_000 {
		many = append(many, publicJWK(ed25519Key().Public()))
	}
	for name, keys := range map[string][]byte{
		"empty set": jwkSet(), "junk": []byte("<html>"), "only a symmetric key": jwkSet(object{"kty": "oct", "k": "AQ"}),
		"10000 keys": jwkSet(many...), "a megabyte": bytes.Repeat([]byte(" "), maxBodyBytes+1),
	} {
		m := &memory{}
		inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
			before := v.issuers[0].keys.Load()
			m.set(func(m *memory) { m.keys = keys })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if got := v.issuers[0].keys.Load(); got != before {
				t.Errorf("%s: snapshot was replaced", name)
			}
			if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
				t.Errorf("%s: %v, want the old keys to work", name, err)
			}
			if st := v.Ready()[0]; st.Err == "" {
				t.Errorf("%s: status is %+v, want an error", name, st)
			}
		})
	}
}

func TestHangingProviderHarmsOnlyItself(t *testing.T) {
	m := &memory{hang: true}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		start := time.Now()
		_, err := v.Verify(t.Context(), tokenNow(t))
		wantRefusal(t, "provider hangs", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
		if took := time.Since(start); took != 0 {
			t.Errorf("Verify waited %v for a hanging provider", took)
		}
		time.Sleep(2 * time.Minute)
		if got := m.intervals(); len(got) < 3 || got[0] > fetchTimeout+time.Second {
			t.Errorf("attempts came after %v, want each given up after %v", got, fetchTimeout)
		}
	})
	// inBubble has also shown that Run returns while a request hangs.
}

func TestRunStopsPromptly(t *testing.T) {
	p := newProvider(t)
	asked, release := make(chan struct{}), make(chan struct{})
	p.setOverride(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	v := must(New(Config{Issuers: []Issuer{p.issuer()}}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); v.Run(ctx) }()
	<-asked
	cancel()
	<-done
	close(release)
	if st := v.Ready()[0]; st.Ready || st.Err != "" {
		t.Errorf("status after stopping is %+v, want nothing learned", st)
	}
}

func TestFetchRefusesHostileProviders(t *testing.T) {
	other := newProvider(t)
	junk := make([]byte, 1<<16)
	for i := range junk {
		junk[i] = byte('a' + rand.IntN(26))
	}
	for _, tt := range []struct {
		name, want string
		hostile    func(p *provider, is *Issuer)
	}{
		{"64 MB", "larger than", func(p *provider, _ *Issuer) {
			p.setOverride(func(w http.ResponseWriter, _ *http.Request) {
				for range 1024 {
					if _, err := w.Write(junk); err != nil {
						return
					}
				}
			})
		}},
		{"redirect", "answered 302", func(p *provider, _ *Issuer) {
			p.setOverride(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, other.srv.URL+"/keys", http.StatusFound)
			})
		}},
		{"not found", "answered 404", func(p *provider, _ *Issuer) { p.setOverride(http.NotFound) }},
		{"huge headers", "server response headers", func(p *provider, _ *Issuer) {
			p.setOverride(func(w http.ResponseWriter, _ *http.Request) {
				for i := range 20 {
					w.Header().Set("X-"+string(rune('a'+i)), string(junk[:8000]))
				}
			})
		}},
		{"HTML", "reading discovery document", func(p *provider, _ *Issuer) {
			p.setOverride(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>secret</html>") })
		}},
		{"wrong issuer", "is of issuer", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("issuer", other.srv.URL)) }},
		{"issuer and slash", "is of issuer", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("issuer", p.srv.URL+"/")) }},
		{"issuer missing", "is of issuer", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("issuer", absent)) }},
		{"keys elsewhere", "neither the issuer's", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("jwks_uri", other.srv.URL+"/keys")) }},
		{"keys over http", "not https", func(p *provider, _ *Issuer) {
			p.setDiscovery(p.discovery.with("jwks_uri", strings.Replace(p.srv.URL, "https", "http", 1)+"/keys"))
		}},
		{"keys in a file", "not a plain", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("jwks_uri", "file:///etc/passwd")) }},
		{"keys with user", "not a plain", func(p *provider, _ *Issuer) {
			p.setDiscovery(p.discovery.with("jwks_uri", strings.Replace(p.srv.URL, "//", "//u:p@", 1)+"/keys"))
		}},
		{"no keys", "not a plain", func(p *provider, _ *Issuer) { p.setDiscovery(p.discovery.with("jwks_uri", absent)) }},
		{"unknown certificate", "certificate", func(_ *provider, is *Issuer) { is.RootCAs = nil }},
	} {
		p := newProvider(t)
		is := p.issuer()
		tt.hostile(p, &is)
		before := other.requests.Load()
		v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
		st := v.Ready()[0]
		if st.Ready || !strings.Contains(st.Err, tt.want) {
			t.Errorf("%s: status %+v, want an error with %q", tt.name, st, tt.want)
		}
		if strings.Contains(st.Err, "secret") || len(st.Err) > 1000 {
			t.Errorf("%s: error repeats the body: %.2000s", tt.name, st.Err)
		}
		if got := other.requests.Load() - before; got != 0 {
			t.Errorf("%s: %d requests to another host, want none", tt.name, got)
		}
	}
}

func TestFetchFollowsAllowedHosts(t *testing.T) {
	p, keys := newProvider(t), newProvider(t)
	is := p.issuer()
	is.RootCAs.AddCert(keys.srv.Certificate())
	is.JWKSHosts = []string{strings.TrimPrefix(keys.srv.URL, "https://")}
	p.setDiscovery(p.discovery.with("jwks_uri", keys.srv.URL+"/keys"))
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims())); err != nil {
		t.Errorf("keys on an allowed host: %v (status %+v)", err, v.Ready()[0])
	}
}

func TestFetchOverLoopbackHTTP(t *testing.T) {
	p := &provider{keys: standardKeys()}
	p.srv = httptest.NewServer(p)
	defer p.srv.Close()
	p.discovery = object{"issuer": p.srv.URL, "jwks_uri": p.srv.URL + "/keys"}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{{Name: "dev", URL: p.srv.URL, Audiences: []string{"mayfly"}, AllowInsecureHTTP: true}}})
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims())); err != nil {
		t.Errorf("loopback provider: %v (status %+v)", err, v.Ready()[0])
	}
}

func TestDialRefusesAddresses(t *testing.T) {
	for _, tt := range []struct {
		address            string
		far, loopbackAsked bool // accepted
	}{
		{"192.0.2.1:443", true, true}, {"10.0.0.1:443", true, true}, {"[fd00::1]:443", true, true},
		{"127.0.0.1:443", false, true}, {"127.9.9.9:443", false, true}, {"[::1]:443", false, true},
		{"[::ffff:127.0.0.1]:443", false, true}, {"0.0.0.0:443", false, true}, {"[::]:443", false, true},
		{"169.254.169.254:80", false, false}, {"[::ffff:169.254.169.254]:80", false, false},
		{"[fe80::1%eth0]:443", false, false}, {"[fd00:ec2::254]:80", false, false}, {"224.0.0.1:443", false, false},
		{"name:443", false, false},
	} {
		if err := checkAddress(tt.address, nil); (err == nil) != tt.far {
			t.Errorf("%s for a far issuer: %v, want accepted %v", tt.address, err, tt.far)
		}
		if err := checkAddress(tt.address, anyLoopback); (err == nil) != tt.loopbackAsked {
			t.Errorf("%s for a loopback issuer: %v, want accepted %v", tt.address, err, tt.loopbackAsked)
		}
	}
}

// A name that resolves to loopback stands for DNS rebinding.
func TestDialRefusesLoopbackBehindAName(t *testing.T) {
	p := newProvider(t)
	host := strings.TrimPrefix(p.srv.URL, "https://127.0.0.1")
	far := &Issuer{URL: "https://idp.example", JWKSHosts: []string{"127.0.0.1" + host}}
	if conn, err := far.dial(t.Context(), "tcp", "127.0.0.1"+host); err == nil {
		conn.Close()
		t.Error("a far issuer's key set host was reached on loopback")
	} else if !strings.Contains(err.Error(), "loopback") {
		t.Errorf("refused with %v, want it to say loopback", err)
	}
	proxied := &Issuer{URL: "https://idp.example"}
	conn, err := proxied.dial(t.Context(), "tcp", "127.0.0.1"+host)
	if err != nil {
		t.Fatalf("a proxy on loopback: %v", err)
	}
	conn.Close()
}

func TestProviderDownAtStartComesBack(t *testing.T) {
	p := newProvider(t)
	p.setOverride(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}})
	token := rs256().token(t, goodHeader(), p.goodClaims())
	before := p.requests.Load()
	for range 100 {
		_, err := v.Verify(t.Context(), token)
		wantRefusal(t, "provider down", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
	}
	if got := p.requests.Load() - before; got != 0 {
		t.Errorf("100 tokens caused %d requests to a provider that is down, want none", got)
	}
	p.setOverride(nil)
	refreshAll(t, v)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("provider back: %v", err)
	}
}

func TestSecretKeysInASetAreAnAlarm(t *testing.T) {
	var log bytes.Buffer
	p := newProvider(t)
	p.setKeys(jwkSet(publicJWK(p256Key().Public()).with("kid", "ec"), publicJWK(rsaKey1().Public()).with("kid", "rsa").with("d", "AQAB")))
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if !strings.Contains(log.String(), `"level":"ERROR"`) {
		t.Errorf("no alarm in the log:\n%s", log.String())
	}
	if strings.Contains(log.String(), "AQAB") {
		t.Errorf("the log contains key material:\n%s", log.String())
	}
	_, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims()))
	wantRefusal(t, "key whose secret is public", err, ca.KindInvalid, ca.ReasonKeyUnknown)
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line is not JSON: %s", line)
		}
	}
}
