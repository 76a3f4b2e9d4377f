package oidc

import (
	"context"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ca"
)

// newKeys is what standardKeys becomes by a rotation: the key of kid "rsa" is
// now called "new".
func newKeys(kid string) []byte {
	return jwkSet(publicJWK(rsaKey2().Public()).with("kid", kid).with("use", "sig"))
}

func newKeyToken(t *testing.T, kid string) string {
	t.Helper()
	return signer{"RS256", rsaKey2()}.token(t, goodHeader().with("kid", kid), claimsNow())
}

func TestNewKeyIsFetchedWhenATokenNeedsIt(t *testing.T) {
	for name, kid := range map[string]string{
		"new kid":          "new",
		"same kid renewed": "rsa", // Jenkins
	} {
		m := &memory{}
		inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
			time.Sleep(2 * time.Minute)
			m.set(func(m *memory) { m.keys, m.slow = newKeys(kid), 100*time.Millisecond })
			before, start := m.rounds(), time.Now()
			var wg sync.WaitGroup
			for range 20 {
				token := newKeyToken(t, kid)
				wg.Go(func() {
					id, err := v.Verify(t.Context(), token)
					if err != nil || id.Token.StaleKeys {
						t.Errorf("%s: got %+v, %v; want it verified with fresh keys", name, id.Token, err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took != 200*time.Millisecond {
				t.Errorf("%s: 20 tokens took %v, want the 200ms of one round", name, took)
			}
			if got := m.rounds() - before; got != 1 {
				t.Errorf("%s: 20 tokens caused %d rounds, want one", name, got)
			}
			_, err := v.Verify(t.Context(), tokenNow(t))
			if kid == "new" {
				wantRefusal(t, "token of the withdrawn key", err, ca.KindInvalid, ca.ReasonKeyUnknown)
			} else {
				wantRefusal(t, "token of the replaced key", err, ca.KindInvalid, ca.ReasonBadSignature)
			}
		})
	}
}

func TestJunkCostsTwoRoundsAMinute(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{Registerer: prometheus.NewRegistry()}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		before := m.requests
		start := time.Now()
		for i := range 1000 {
			kid, want := strangeKid(i), ca.ReasonKeyUnknown
			if i%2 == 0 {
				kid, want = "rsa", ca.ReasonBadSignature
			}
			_, err := v.Verify(t.Context(), forgedNow(kid))
			if r := ca.AsRefusal(err); want == ca.ReasonKeyUnknown && r.Reason == ca.ReasonIdpKeysMissing {
				wantSoon(t, r)
			} else {
				wantRefusal(t, "forged token under "+kid, err, ca.KindInvalid, want)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(start); took != 50*time.Second {
			t.Errorf("1000 forged tokens took %v, want the 50s between them and no waiting", took)
		}
		// A round is a discovery document and a key set.
		if got := m.requests - before; got > 4 {
			t.Errorf("1000 forged tokens caused %d requests, want at most 4", got)
		}
		waited := testutil.ToFloat64(v.metrics.early.WithLabelValues("test", "waited"))
		spared := testutil.ToFloat64(v.metrics.early.WithLabelValues("test", "spared"))
		if waited < 1 || waited > 2 || waited+spared != 1000 {
			t.Errorf("%v forged tokens waited and %v were spared, want 1 or 2 and the rest of 1000", waited, spared)
		}
		for i := range 600 {
			_, _ = v.Verify(t.Context(), forgedNow(strangeKid(1000+i)))
			time.Sleep(time.Second)
		}
		m.checkPace(t, "ten minutes of forged tokens")
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("good token after them: %v", err)
		}
	})
}

// A kid that was asked for in vain is not asked for again until a minute later,
// so that one noisy client leaves the rounds to others.
func TestMissIsRemembered(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		verify := func(kid string, rounds int) {
			t.Helper()
			before := m.rounds()
			_, err := v.Verify(t.Context(), forgedNow(kid))
			wantRefusal(t, kid, err, ca.KindInvalid, ca.ReasonKeyUnknown)
			if got := m.rounds() - before; got != rounds {
				t.Errorf("%s: %d rounds, want %d", kid, got, rounds)
			}
		}
		verify("x", 1)
		verify("x", 0)
		time.Sleep(59 * time.Second)
		verify("x", 0)
		verify("y", 1)
		// A new key set is a new question, and a round is free again.
		time.Sleep(time.Second)
		verify("x", 1)
		verify("x", 0)
	})
}

func TestMissesAreBounded(t *testing.T) {
	e := newEarly(time.Hour)
	for i := range maxMisses + 100 {
		e.remember(miss{strangeKid(i), 1}, noon)
	}
	if len(e.misses) != maxMisses {
		t.Errorf("%d misses are remembered, want %d", len(e.misses), maxMisses)
	}
	e.remember(miss{"a", 2}, noon)
	if len(e.misses) != 1 {
		t.Errorf("%d misses are remembered after a new key set, want one", len(e.misses))
	}
	e.remember(miss{"b", 2}, noon.Add(missTTL))
	if _, ok := e.misses[miss{"a", 2}]; ok {
		t.Error("a miss is remembered for longer than a minute")
	}
}

// wantSoon wants whole seconds up to a minute, in which a round is free again.
func wantSoon(t testing.TB, r *ca.Refusal) {
	t.Helper()
	if r.Kind != ca.KindUnavailable || r.RetryAfter < time.Second || r.RetryAfter > roundWindow || r.RetryAfter%time.Second != 0 {
		t.Errorf("%v: kind %v, retry after %v; want it unavailable for 1s to %v", r, r.Kind, r.RetryAfter, roundWindow)
	}
}

// Forged tokens use up the rounds, and then the provider rotates: its tokens must
// not be told that they are bad, and are good after the time that they are told.
func TestSpentRoundsAreNoFaultOfTheToken(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		for i := range maxRounds {
			_, err := v.Verify(t.Context(), forgedNow(strangeKid(i)))
			wantRefusal(t, "forged token", err, ca.KindInvalid, ca.ReasonKeyUnknown)
			time.Sleep(10 * time.Second)
		}
		m.set(func(m *memory) { m.keys = newKeys("new") })
		before := m.rounds()
		_, err := v.Verify(t.Context(), newKeyToken(t, "new"))
		r := wantRefusal(t, "new key, rounds spent", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
		if want := roundWindow - maxRounds*10*time.Second; r.RetryAfter != want {
			t.Errorf("retry after %v, want the %v until a round is free", r.RetryAfter, want)
		}
		_, err = v.Verify(t.Context(), forgedNow(strangeKid(maxRounds-1)))
		wantRefusal(t, "kid that the provider was asked for", err, ca.KindInvalid, ca.ReasonKeyUnknown)
		_, err = v.Verify(t.Context(), forgedNow("rsa"))
		wantRefusal(t, "forged token under a known kid", err, ca.KindInvalid, ca.ReasonBadSignature)
		if got := m.rounds() - before; got != 0 {
			t.Errorf("%d rounds, want none", got)
		}
		time.Sleep(r.RetryAfter)
		if _, err := v.Verify(t.Context(), newKeyToken(t, "new")); err != nil {
			t.Errorf("after the time that it was told to wait: %v", err)
		}
	})
}

// While the provider is out of reach, a brand-new kid may be genuine; everything
// else is what it always was.
func TestOutageDuringARotationIsNoFaultOfTheToken(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		m.set(func(m *memory) { m.down = true })
		hopeless := forgedNow("gone")
		expired := signer{"RS256", rsaKey2()}.token(t, goodHeader().with("kid", "new"), claimsNow().with("exp", time.Now().Add(-time.Hour).Unix()))
		for i := range 200 {
			_, err := v.Verify(t.Context(), newKeyToken(t, "new"))
			r := wantRefusal(t, "new key", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
			if r.RetryAfter < time.Second || r.RetryAfter > time.Minute {
				t.Errorf("token %d: retry after %v, want 1s to 1m", i, r.RetryAfter)
			}
			_, err = v.Verify(t.Context(), forgedNow("rsa"))
			wantRefusal(t, "forged token under a known kid", err, ca.KindInvalid, ca.ReasonBadSignature)
			_, err = v.Verify(t.Context(), expired)
			wantRefusal(t, "expired token of a new key", err, ca.KindInvalid, ca.ReasonExpired)
			if _, err = v.Verify(t.Context(), tokenNow(t)); err != nil {
				t.Errorf("known key: %v, want it to work", err)
			}
			time.Sleep(time.Second)
		}
		_, err := v.Verify(t.Context(), hopeless)
		wantRefusal(t, "kid that a refresh may bring", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
		m.checkPace(t, "outage")
		m.set(func(m *memory) { m.down, m.keys = false, newKeys("new") })
		time.Sleep(time.Minute)
		if _, err := v.Verify(t.Context(), newKeyToken(t, "new")); err != nil {
			t.Errorf("provider back: %v", err)
		}
	})
}

func TestHopelessTokensAskForNothing(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		before := m.rounds()
		for name, change := range map[string]any{
			"aud": "other", "exp": claimsNow()["iat"], "iat": time.Now().Add(time.Hour).Unix(), "sub": "", "act": object{}, "azp": "other",
		} {
			claims := claimsNow().with(name, change)
			_, err := v.Verify(t.Context(), rs256().token(t, goodHeader().with("kid", "new"), claims))
			wantRefusal(t, name, err, ca.KindInvalid, ca.ReasonKeyUnknown)
		}
		_, err := v.Verify(t.Context(), rs256().token(t, goodHeader().with("kid", "new"), claimsNow().with("exp", 0)))
		wantRefusal(t, "expired", err, ca.KindInvalid, ca.ReasonExpired)
		_, err = v.Verify(t.Context(), rs256().token(t, goodHeader().with("kid", "enc"), claimsNow()))
		wantRefusal(t, "encryption key", err, ca.KindInvalid, ca.ReasonKeyUse)
		if got := m.rounds() - before; got != 0 {
			t.Errorf("tokens that no key could make good caused %d rounds, want none", got)
		}
	})
}

func TestWaitingForKeysIsBounded(t *testing.T) {
	m := &memory{}
	inBubble(t, m, Config{}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		m.set(func(m *memory) { m.hang = true })
		start := time.Now()
		_, err := v.Verify(t.Context(), forgedNow("a"))
		if r := wantRefusal(t, "hanging provider", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing); r.RetryAfter != fetchTimeout {
			t.Errorf("retry after %v, want %v, when the provider has answered or not", r.RetryAfter, fetchTimeout)
		}
		if took := time.Since(start); took != maxMissWait {
			t.Errorf("waited %v for a hanging provider, want %v", took, maxMissWait)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		_, err = v.Verify(ctx, forgedNow("b"))
		wantRefusal(t, "one second left", err, ca.KindUnavailable, ca.ReasonDeadline)
		if took := time.Since(start); took != time.Second {
			t.Errorf("waited %v of a second, want all of it", took)
		}

		time.Sleep(2 * time.Minute)
		var wg sync.WaitGroup
		waited := make(chan time.Duration, 200)
		for i := range cap(waited) {
			wg.Go(func() {
				start := time.Now()
				_, err := v.Verify(t.Context(), forgedNow(strangeKid(i)))
				if r := ca.AsRefusal(err); r.Reason != ca.ReasonIdpKeysMissing {
					t.Errorf("one of a crowd: got %v, want %s", err, ca.ReasonIdpKeysMissing)
				}
				waited <- time.Since(start)
			})
		}
		wg.Wait()
		close(waited)
		var waiting int
		for d := range waited {
			if d > 0 {
				waiting++
			}
		}
		if waiting > maxWaiters {
			t.Errorf("%d tokens waited at once, want at most %d", waiting, maxWaiters)
		}
	})
}

func TestScheduleOnlyIgnoresTokens(t *testing.T) {
	m := &memory{}
	is := memoryIssuer()
	is.ScheduleOnly = true
	inBubble(t, m, Config{Issuers: []Issuer{is}}, func(t *testing.T, v *Verifier) {
		time.Sleep(2 * time.Minute)
		m.set(func(m *memory) { m.keys = newKeys("new") })
		before := m.rounds()
		_, err := v.Verify(t.Context(), newKeyToken(t, "new"))
		wantRefusal(t, "new key", err, ca.KindInvalid, ca.ReasonKeyUnknown)
		if got := m.rounds() - before; got != 0 {
			t.Errorf("%d rounds, want none", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, err := v.Verify(t.Context(), newKeyToken(t, "new")); err != nil {
			t.Errorf("after the scheduled refresh: %v", err)
		}
	})
}

// Whoever waits when the service stops is not left waiting.
func TestStoppingLetsGoOfWaiters(t *testing.T) {
	m := &memory{keys: standardKeys()}
	synctest.Test(t, func(t *testing.T) {
		v := must(New(Config{Issuers: []Issuer{memoryIssuer()}}))
		v.issuers[0].fetcher.client.Transport = m
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); v.Run(ctx) }()
		time.Sleep(2 * time.Minute)
		m.set(func(m *memory) { m.hang = true })
		start := time.Now()
		verified := make(chan error)
		go func() {
			_, err := v.Verify(t.Context(), forgedNow("a"))
			verified <- err
		}()
		synctest.Wait()
		cancel()
		wantRefusal(t, "stopped", <-verified, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
		<-done
		if took := time.Since(start); took != 0 {
			t.Errorf("stopping took %v", took)
		}
		_, err := v.Verify(t.Context(), forgedNow("b"))
		wantRefusal(t, "after the end", err, ca.KindInvalid, ca.ReasonKeyUnknown)
		if took := time.Since(start); took != 0 {
			t.Errorf("a token waited %v for a refresher that has stopped", took)
		}
	})
}

// The same with a real provider and a real transport, while tokens of the old
// key keep coming.
func TestRotationUnderLoad(t *testing.T) {
	p := newProvider(t)
	both := jwkSet(publicJWK(rsaKey1().Public()).with("kid", "rsa"), publicJWK(rsaKey2().Public()).with("kid", "new"))
	p.setKeys(jwkSet(publicJWK(rsaKey1().Public()).with("kid", "rsa")))
	c := &clock{}
	v := must(New(Config{Issuers: []Issuer{p.issuer()}, Clock: c.now}))
	published := make(chan struct{})
	first := sync.OnceFunc(func() { close(published) })
	p.setOverride(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		keys, discovery := p.keys, p.discovery
		p.mu.Unlock()
		if r.URL.Path != "/keys" {
			_, _ = w.Write([]byte(text(discovery)))
			return
		}
		_, _ = w.Write(keys)
		first()
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { v.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	<-published
	old := rs256().token(t, goodHeader(), p.goodClaims())
	renewed := signer{"RS256", rsaKey2()}.token(t, goodHeader().with("kid", "new"), p.goodClaims())
	for !v.Ready()[0].Ready {
		runtime.Gosched() // the answer was written and is being read
	}
	p.setKeys(both)
	var verified sync.WaitGroup
	for i := range 40 {
		token := old
		if i%2 == 0 {
			token = renewed
		}
		verified.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Errorf("token %d: %v", i, err)
			}
		})
	}
	verified.Wait()
	if got := p.requests.Load(); got != 4 {
		t.Errorf("%d requests, want two rounds of two", got)
	}
}
