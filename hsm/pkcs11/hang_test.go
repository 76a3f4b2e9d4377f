package pkcs11

import (
	"context"
	"crypto/elliptic"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// hanging has calls of a name hang until the function that it returns is called.
// Without a session nobody can hang in f for ever, or the test would not end.
func (f *fake) hanging(call string) (release func()) {
	gate := make(chan struct{})
	f.set(func() {
		f.before = func(c string) error {
			if c == call {
				<-gate
			}
			return nil
		}
	})
	var once sync.Once
	release = func() {
		once.Do(func() {
			f.set(func() { f.before = nil })
			close(gate)
		})
	}
	f.tb.Cleanup(release)
	return release
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A call that hangs holds its session, not its caller, and past half of the
// sessions the token says so.
func TestHungSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		reg := prometheus.NewRegistry()
		stuck := make(chan error, 10)
		token := f.token(t, TokenConfig{MaxSessions: 5, Registerer: reg, OnStuck: func(err error) { stuck <- err }})
		k := f.key(t, token)
		release := f.hanging("Sign")
		for n := 1; n <= 4; n++ {
			start := time.Now()
			err := signWithin(k, 3*time.Second)
			if !errors.Is(err, context.DeadlineExceeded) && n <= 2 {
				t.Errorf("signature %d that hangs = %v, want deadline exceeded", n, err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("signature %d that hangs took %v of 3s", n, took)
			}
			ready := token.Ready() == nil
			if want := n <= 2; ready != want {
				t.Errorf("with %d of 4 sessions hanging Ready() is nil: %v, want %v", n, ready, want)
			}
			if n > 3 {
				continue // turned away before it could hang
			}
			if got := gauge(t, reg, "mayfly_hsm_stuck_calls"); int(got) != n {
				t.Errorf("with %d calls hanging mayfly_hsm_stuck_calls = %v", n, got)
			}
			if got := gauge(t, reg, "mayfly_hsm_lost_sessions"); int(got) != n {
				t.Errorf("with %d calls hanging mayfly_hsm_lost_sessions = %v", n, got)
			}
		}
		if len(stuck) != 0 {
			t.Errorf("OnStuck was called with a session left: %v", <-stuck)
		}
		release()
		synctest.Wait()
		if err := signWithin(k, time.Second); err != nil {
			t.Errorf("after the calls returned Sign = %v", err)
		}
		if got := gauge(t, reg, "mayfly_hsm_stuck_calls"); got != 0 {
			t.Errorf("after the calls returned mayfly_hsm_stuck_calls = %v", got)
		}
	})
}

// When every session hangs at once, nothing but a restart helps.
func TestAllSessionsHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		var mu sync.Mutex
		var stuck []error
		token := f.token(t, TokenConfig{MaxSessions: 5, OnStuck: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			stuck = append(stuck, err)
		}})
		k := f.key(t, token)
		f.hanging("Sign")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if signWithin(k, time.Second) == nil {
					t.Error("a signature that hangs succeeded")
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(stuck) != 1 || !strings.Contains(stuck[0].Error(), "all 4 sessions") {
			t.Errorf("OnStuck was called with %v, want once", stuck)
		}
		if got := f.made("Sign"); got != 5 { // one of them at the start
			t.Errorf("C_Sign was called %d times, want the test signature and one in each session", got)
		}
	})
}

// A client that hangs up soon says nothing about the token.
func TestImpatientClientsAreNotHungCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{})
		k := f.key(t, token)
		f.set(func() {
			f.before = func(call string) error {
				if call == "Sign" {
					time.Sleep(stuckAfter / 2)
				}
				return nil
			}
		})
		for range 7 {
			if signWithin(k, time.Millisecond) == nil {
				t.Error("Sign succeeded in a time that is too short")
			}
			if err := token.Ready(); err != nil {
				t.Errorf("Ready() after an impatient client = %v", err)
			}
		}
		time.Sleep(stuckAfter)
		if err := signWithin(k, time.Second); err != nil {
			t.Error(err)
		}
		if got := f.made("Login"); got != 1 {
			t.Errorf("%d logins, want 1", got)
		}
	})
}

// A login that hangs is the only one, for as long as it hangs, and the process is
// given up after a while.
func TestHungLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		stuck := make(chan error, 10)
		k := f.key(t, f.token(t, TokenConfig{OnStuck: func(err error) { stuck <- err }}))
		f.reset()
		release := f.hanging("Login")
		if signWithin(k, 4*time.Second) == nil {
			t.Error("Sign without a login succeeded")
		}
		time.Sleep(time.Minute)
		if got := f.made("Login"); got != 2 {
			t.Errorf("%d logins, want the first and the one that hangs", got)
		}
		if len(stuck) != 1 {
			t.Errorf("OnStuck was called %d times, want once", len(stuck))
		}
		if got := f.made("Finalize"); got != 0 {
			t.Errorf("C_Finalize was called %d times under a call that hangs", got)
		}
		release()
		time.Sleep(5 * time.Second)
		if err := signWithin(k, time.Second); err != nil {
			t.Errorf("after the login returned Sign = %v", err)
		}
	})
}

// While a signature hangs the library must not be initialised anew, though
// nothing else would bring the token back.
func TestNoFinalizeUnderHungCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := ecKey(t, elliptic.P256())
		f := newFake(t, key)
		stuck := make(chan error, 10)
		token := f.token(t, TokenConfig{OnStuck: func(err error) { stuck <- err }})
		k := f.key(t, token)
		release := f.hanging("Sign")
		_ = signWithin(k, time.Second)
		f.set(func() { key.absent = true })
		f.reset()
		token.mu.Lock()
		conn := token.conn
		token.mu.Unlock()
		token.broken(conn, p11.Error(p11.CKR_DEVICE_ERROR))
		time.Sleep(time.Minute)
		if got := f.made("Finalize"); got != 0 {
			t.Errorf("C_Finalize was called %d times under a signature that hangs", got)
		}
		if len(stuck) != 1 {
			t.Errorf("OnStuck was called %d times, want once", len(stuck))
		}
		release()
		f.set(func() { key.absent = false })
		time.Sleep(5 * time.Second)
		if err := signWithin(k, time.Second); err != nil {
			t.Errorf("after the call returned Sign = %v", err)
		}
	})
}

func TestCloseLeavesHungCallsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token, err := f.tryToken(t, TokenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		k := f.key(t, token)
		release := f.hanging("Sign")
		_ = signWithin(k, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := token.Close(ctx); err == nil {
			t.Error("Close with a call that hangs = nil, want that it was left behind")
		}
		if got := f.made("Finalize"); got != 0 {
			t.Errorf("C_Finalize was called %d times under a call that hangs", got)
		}
		if k.Ready() == nil || signWithin(k, time.Second) == nil {
			t.Error("a key of a closed token is ready or signs")
		}
		release()
		synctest.Wait()
		f.set(func() { clear(f.sessions) }) // nobody closes them any more
	})
}

func TestMetricsFollowTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		reg := prometheus.NewRegistry()
		k := f.key(t, f.token(t, TokenConfig{Registerer: reg}))
		if got := gauge(t, reg, "mayfly_hsm_ready"); got != 1 {
			t.Errorf("mayfly_hsm_ready = %v with a token that works", got)
		}
		if got := gauge(t, reg, "mayfly_hsm_open_sessions"); got != 2 {
			t.Errorf("mayfly_hsm_open_sessions = %v, want 2", got)
		}
		f.set(func() { f.bend = func(raw []byte) []byte { raw[5] ^= 1; return raw } })
		if signWithin(k, 3*time.Second) == nil {
			t.Error("a bent signature was returned")
		}
		if got := gauge(t, reg, "mayfly_hsm_ready"); got != 0 {
			t.Errorf("mayfly_hsm_ready = %v with a token that signs wrongly", got)
		}
		n, err := testutil.GatherAndCount(reg, "mayfly_hsm_errors_total")
		if err != nil || n == 0 {
			t.Errorf("mayfly_hsm_errors_total has %d series (%v) after errors", n, err)
		}
	})
}

// A reload opens a token under the name of one that it closes afterwards.
func TestMetricsAreThoseOfTheLatestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		old, err := newFake(t, ecKey(t, elliptic.P256())).tryToken(t, TokenConfig{Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		latest, err := newFake(t, ecKey(t, elliptic.P256())).tryToken(t, TokenConfig{Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := gauge(t, reg, "mayfly_hsm_ready"); got != 1 {
			t.Errorf("after the old token was closed mayfly_hsm_ready = %v, want that of the new one", got)
		}
		if got := gauge(t, reg, "mayfly_hsm_open_sessions"); got != 2 {
			t.Errorf("after the old token was closed mayfly_hsm_open_sessions = %v, want 2", got)
		}
		if err := latest.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if n, err := testutil.GatherAndCount(reg, "mayfly_hsm_ready"); n != 0 || err != nil {
			t.Errorf("after both were closed mayfly_hsm_ready has %d series (%v), want none", n, err)
		}
	})
}

// A reload that was refused opened a token anew and closed it; the one in use must
// not be gone from the dashboards.
func TestMetricsOutlastARefusedReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{Registerer: reg}))
		if token, err := newFake(t).tryToken(t, TokenConfig{Registerer: reg, PINFile: pinFile(t, "0000\n")}); err == nil {
			t.Fatalf("opened %v with a wrong PIN", token)
		}
		if got := gauge(t, reg, "mayfly_hsm_ready"); got != 1 {
			t.Errorf("after another token of the name was not opened mayfly_hsm_ready = %v, want 1", got)
		}
		f.set(func() { f.away = true })
		f.reset()
		_ = signWithin(k, 4*time.Second)
		if got := gauge(t, reg, "mayfly_hsm_ready"); got != 0 {
			t.Errorf("when the token in use is away mayfly_hsm_ready = %v, want 0", got)
		}
		f.set(func() { f.away = false })
		time.Sleep(5 * time.Second)
		if got := gauge(t, reg, "mayfly_hsm_open_sessions"); got != 2 {
			t.Errorf("when it is back mayfly_hsm_open_sessions = %v, want 2", got)
		}
	})
}

// Whoever would end the process for calls that hang must not end it for a token
// that is away.
func TestHangsTellsHungFromAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{MaxSessions: 3}))
		release := make(chan struct{})
		f.set(func() {
			f.before = func(call string) error {
				if call == "Sign" {
					<-release
				}
				return nil
			}
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _ = signWithin(k, 4*time.Second) })
		}
		wg.Wait()
		if k.Ready() == nil || !k.Hangs() {
			t.Errorf("Ready() = %v, Hangs() = %v with all sessions in calls that hang; want an error and true", k.Ready(), k.Hangs())
		}
		close(release)
		f.set(func() { f.before = nil })
		time.Sleep(15 * time.Second)
		if k.Ready() != nil || k.Hangs() {
			t.Errorf("Ready() = %v, Hangs() = %v after the calls returned; want nil and false", k.Ready(), k.Hangs())
		}
		f.set(func() { f.away = true })
		f.reset()
		time.Sleep(30 * time.Second)
		if k.Ready() == nil || k.Hangs() {
			t.Errorf("Ready() = %v, Hangs() = %v while the token is away; want an error and false", k.Ready(), k.Hangs())
		}
		f.set(func() { f.away = false })
		time.Sleep(5 * time.Second)
	})
}
