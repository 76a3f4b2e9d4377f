package pkcs11_test

import (
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// A call that hangs holds a session and a goroutine, and nobody else.
func TestHangsHoldNobody(t *testing.T) {
	leaksNothing(t)
	functions := slices.Concat(whenSigning, whenConnecting)
	b := newBench(t, functions...)
	var wg sync.WaitGroup
	for _, f := range functions {
		r := b.rig(f, 300*time.Millisecond)
		wg.Go(func() {
			r.flows(backWithin, "before C_%s hangs", f)
			r.m.Hang(f, faultmodule.Forever)
			r.m.DropSessions()
			until(t, "C_"+f+" to hang", backWithin, func() bool { return r.m.Hanging(f) > 0 })
			r.answered(backWithin, "while C_"+f+" hangs")
			if n := r.m.Hanging(f); n > pkcs11.DefaultMaxSessions {
				t.Errorf("%d calls of C_%s hang, want at most one for each of %d sessions", n, f, pkcs11.DefaultMaxSessions)
			}
			r.m.Release(f)
			r.flows(backWithin, "after C_%s hung", f)
			r.close("C_"+f+" hung", pkcs11.DefaultMaxSessions)
		})
	}
	wg.Wait()
}

// C_Finalize under a call that hangs is not defined, and in practice a crash:
// the fault module fails the test that does it.
func TestNothingIsFinalisedUnderAHungCall(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	key := b.open(b.token(b.config(m, "one")))
	s := b.stormFor(key, 300*time.Millisecond)
	s.flows(backWithin, "at the start")
	m.Hang("Sign", 1)
	until(t, "a call to hang", backWithin, func() bool { return m.Hanging("Sign") == 1 })
	m.Wedge()
	before := m.Calls("Finalize")
	pass(2 * time.Second)
	if n := m.Calls("Finalize") - before; n != 0 {
		t.Errorf("C_Finalize was called %d times under a call that hangs", n)
	}
	m.Release("Sign")
	s.flows(backWithin, "after the call returned")
}

// When all sessions hang, only the end of the process helps.
func TestOnStuckIsCalledOnce(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	stuck := make(chan error, 100)
	cfg := b.config(m, "one")
	cfg.MaxSessions = 4
	cfg.OnStuck = func(err error) { stuck <- err }
	key := b.open(b.token(cfg))
	s := b.stormFor(key, 300*time.Millisecond)
	s.flows(backWithin, "at the start")
	m.Hang("Sign", faultmodule.Forever)
	select {
	case err := <-stuck:
		if err == nil {
			t.Error("OnStuck(nil), want the reason")
		}
	case <-time.After(10 * time.Second):
		t.Error("OnStuck was not called while all sessions hang")
	}
	if err := key.Ready(); err == nil {
		t.Error("Ready() = nil while all sessions hang, want an error")
	}
	m.Release("Sign")
	s.flows(backWithin, "after the calls returned")
	if n := len(stuck); n != 0 {
		t.Errorf("OnStuck was called %d more times", n)
	}
}

// The second token has a module of its own and signs within a second, however
// the first one fails; it hands back when the first is well.
func TestSecondTokenTakesOver(t *testing.T) {
	for _, c := range []struct {
		name       string
		begin, end func(m *faultmodule.Module)
	}{
		{"device error", func(m *faultmodule.Module) { m.Fail("Sign", p11.CKR_DEVICE_ERROR, faultmodule.Forever) }, (*faultmodule.Module).Reset},
		{"unplugged", (*faultmodule.Module).Unplug, (*faultmodule.Module).Plug},
		{"hangs when it signs", func(m *faultmodule.Module) { m.Hang("Sign", faultmodule.Forever) }, (*faultmodule.Module).Reset},
		{"hangs everywhere", func(m *faultmodule.Module) {
			for _, f := range slices.Concat(whenSigning, whenConnecting) {
				m.Hang(f, faultmodule.Forever)
			}
		}, (*faultmodule.Module).Reset},
		{"PIN refused", func(m *faultmodule.Module) {
			m.Fail("Login", p11.CKR_PIN_INCORRECT, faultmodule.Forever)
			m.DropSessions()
		}, nil},
		{"wrong signatures", func(m *faultmodule.Module) { m.FlipSignatures(faultmodule.Forever) }, (*faultmodule.Module).Reset},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first, second *faultmodule.Module
			leaksNothing(t, func() *faultmodule.Module { return first }, func() *faultmodule.Module { return second })
			b := newBench(t, "one", "two")
			first, second = b.module("one"), b.module("two")
			key := b.open(b.token(b.config(first, "one")), b.token(b.config(second, "two")))
			first.Delay("Sign", time.Millisecond)
			second.Delay("Sign", time.Millisecond)
			s := b.storm(key)
			s.flows(backWithin, "at the start")
			if n := second.Signatures(); n > 2 {
				t.Errorf("the second token made %d signatures while the first works", n)
			}
			s.resetGap()
			c.begin(first)
			pass(1200 * time.Millisecond)
			if gap := s.longestGap(); gap > time.Second {
				t.Errorf("no good signature for %v after the first token failed, want at most 1s; last refusal: %v", gap, s.lastError())
			}
			if n := s.refused.Load(); n != 0 {
				t.Errorf("%d requests were refused while the second token works; the last: %v", n, s.lastError())
			}
			if err := key.Ready(); err != nil {
				t.Errorf("Ready() = %v while the second token works, want nil", err)
			}
			if c.end == nil {
				return
			}
			c.end(first)
			made := first.Signatures()
			until(t, "the first token to sign again", backWithin, func() bool { return first.Signatures() > made+signers })
		})
	}
}

// SoftHSM needs C_Finalize after its token was away. Nothing in this process
// knows that it went.
func TestTokenDirectoryIsTakenAwayAndPutBack(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	key := b.open(b.token(b.config(m, "one")))
	s := b.storm(key)
	aside := filepath.Join(t.TempDir(), "aside")
	for _, away := range []time.Duration{10 * time.Millisecond, 2 * time.Second} {
		s.flows(backWithin, "before its directory is taken away for %v", away)
		if err := os.Rename(b.directories["one"], aside); err != nil {
			t.Fatal(err)
		}
		pass(away)
		if err := os.Rename(aside, b.directories["one"]); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.flows(backWithin, "after its directory was away for %v", away)
		t.Logf("after %v away it signs again in %v", away, time.Since(start).Round(time.Millisecond))
	}
}

// A token that is gone for good is said to be, and the one beside it, with the
// same key, is not taken for it.
func TestTokenThatStaysAwayIsNotReplaced(t *testing.T) {
	b := newBench(t, "one")
	b.soft["one"].Token("two")
	b.soft["one"].Import("two", "issuing", "a1", b.key)
	m := b.module("one")
	key := b.open(b.token(b.config(m, "one")))
	if err := os.RemoveAll(b.directories["one"]); err != nil {
		t.Fatal(err)
	}
	s := b.storm(key)
	until(t, "the key not to be ready", backWithin, func() bool { return key.Ready() != nil })
	pass(time.Second)
	if sig, err := key.Sign(t.Context(), make([]byte, 32), crypto.SHA256); err == nil {
		t.Errorf("Sign = %x with a token that is gone, want an error", sig)
	}
	s.end()
}
