package pkcs11_test

import (
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// codesOfEachClass are return values of each class that a token may recover from.
var codesOfEachClass = []uint{
	p11.CKR_DATA_LEN_RANGE,         // the caller's fault, in C_Sign
	p11.CKR_SESSION_HANDLE_INVALID, // the session
	p11.CKR_OPERATION_ACTIVE,
	p11.CKR_KEY_HANDLE_INVALID, // the object
	p11.CKR_USER_NOT_LOGGED_IN, // the login
	p11.CKR_SESSION_COUNT,      // too much
	p11.CKR_HOST_MEMORY,
	p11.CKR_DEVICE_ERROR, // the device
	p11.CKR_TOKEN_NOT_PRESENT,
	p11.CKR_GENERAL_ERROR,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED,
	p11.CKR_VENDOR_DEFINED + 7, // nobody knows
}

// Functions that run with every signature, and those that run when a connection
// is made, which therefore has to be lost first.
var (
	whenSigning    = []string{"SignInit", "Sign", "OpenSession", "CloseSession"}
	whenConnecting = []string{"GetSlotList", "GetTokenInfo", "Login", "FindObjectsInit", "FindObjects", "FindObjectsFinal", "GetAttributeValue"}
)

// Each code of each class from each function, and lost answers, with fifty
// signers: nothing but good signatures comes out, and the token signs again soon
// after the fault is over. Functions are tested side by side, each with modules
// of its own.
func TestEveryErrorOfEveryFunctionHeals(t *testing.T) {
	leaksNothing(t)
	half := len(codesOfEachClass) / 2
	label := func(f string, codes []uint) string { return fmt.Sprintf("%s-%#x", f, codes[0]) }
	var labels []string
	for _, f := range slices.Concat(whenSigning, whenConnecting) {
		labels = append(labels, label(f, codesOfEachClass[:half]), label(f, codesOfEachClass[half:]))
	}
	b := newBench(t, labels...)
	var wg sync.WaitGroup
	for _, f := range slices.Concat(whenSigning, whenConnecting) {
		for codes := range slices.Chunk(codesOfEachClass, half) {
			r := b.rig(label(f, codes), requestFor)
			wg.Go(func() {
				for _, code := range codes {
					r.failAndHeal(f, code, 2, false)
				}
				r.failAndHeal(f, codes[1], 1, true)
				most := pkcs11.DefaultMaxSessions
				if f == "CloseSession" {
					// What the token refused to close is open all the same.
					most += 2*len(codes) + 1
				}
				r.close("faults of C_"+f, most)
			})
		}
	}
	wg.Wait()
}

// failAndHeal has n calls fail, without doing anything or with their answer
// lost, and holds that the token signs again.
func (r *rig) failAndHeal(f string, code uint, n int, lost bool) {
	what := fmt.Sprintf("C_%s returned %v", f, p11.Error(code))
	before, good := r.m.Calls(f), r.good.Load()
	if lost {
		what += " after its work"
		r.m.FailAfter(f, code, n)
	} else {
		r.m.Fail(f, code, n)
	}
	if !slices.Contains([]string{"SignInit", "Sign"}, f) {
		r.m.DropSessions()
	}
	until(r.t, what, backWithin, func() bool { return r.m.Calls(f) > before })
	// The fault is over when all have failed, or nobody asks any more because
	// the sessions that are left will do.
	until(r.t, what+" for the last time", 2*backWithin, func() bool {
		return r.m.Calls(f) >= before+n || r.good.Load() > good+signers
	})
	r.m.Fail(f, 0, 0)
	r.flows(backWithin, "after %s", what)
}

// What the token does wrong without an error is found by verifying.
func TestWrongSignaturesNeverLeave(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	key := b.open(b.token(b.config(m, "one")))
	s := b.storm(key)
	s.flows(backWithin, "at the start")
	for _, c := range []struct {
		name       string
		begin, end func()
		// met is called with every wrong answer.
		met string
	}{
		{"one bit is flipped", func() { m.FlipSignatures(1) }, func() {}, "Sign"},
		{"bits are flipped", func() { m.FlipSignatures(faultmodule.Forever) }, func() { m.FlipSignatures(0) }, "Sign"},
		{"another key signs", func() { m.SwapSignatures(true) }, func() { m.SwapSignatures(false) }, "Sign"},
		{"another key is found", func() { m.SwapSearch(true); m.DropSessions() }, func() { m.SwapSearch(false) }, "FindObjects"},
	} {
		before := m.Calls(c.met)
		c.begin()
		until(t, "C_"+c.met+" to be called while "+c.name, backWithin, func() bool { return m.Calls(c.met) > before+2 })
		c.end()
		s.flows(backWithin, "after %s", c.name)
	}
}

// What happens behind the signer's back.
func TestTokenComesBack(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	key := b.open(b.token(b.config(m, "one")))
	s := b.storm(key)
	moved := uint(0)
	for _, c := range []struct {
		name       string
		begin, end func()
	}{
		{"its sessions were dropped", m.DropSessions, func() {}},
		{"it was logged out", m.Logout, func() {}},
		{"it was out for a second", func() { m.Unplug(); pass(time.Second) }, m.Plug},
		{"it was out for four seconds", func() { m.Unplug(); pass(4 * time.Second) }, m.Plug},
		{"it came back in another slot", func() { m.Unplug(); moved++; m.MoveSlots(moved) }, m.Plug},
		{"slots moved under it", func() { moved++; m.MoveSlots(moved); m.DropSessions() }, func() {}},
		{"its library wanted C_Finalize", m.Wedge, func() {}},
		{"it had one session to give", func() { m.MaxSessions(1); m.DropSessions(); pass(300 * time.Millisecond) }, func() { m.MaxSessions(0) }},
		{"it had two sessions", func() { m.MaxSessions(2); m.DropSessions(); pass(300 * time.Millisecond) }, func() { m.MaxSessions(0) }},
	} {
		s.flows(backWithin, "before %s", c.name)
		c.begin()
		c.end()
		start, logins := time.Now(), m.Calls("Login")
		s.flows(backWithin, "after %s", c.name)
		t.Logf("after %s it signs again in %v, logins %d", c.name, time.Since(start).Round(time.Millisecond), m.Calls("Login")-logins)
	}
	if n := m.Calls("Login"); n > 60 {
		t.Errorf("%d logins for nine faults", n)
	}
}

// One call in a hundred fails in each of the functions at once.
func TestSoakOfRandomFaults(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	s := b.storm(b.open(b.token(b.config(m, "one"))))
	m.Delay("Sign", time.Millisecond)
	for i, f := range slices.Concat(whenSigning, whenConnecting) {
		m.FailEvery(f, codesOfEachClass[(i+5)%len(codesOfEachClass)], 101+2*i)
	}
	pass(4 * time.Second)
	if n := s.good.Load(); n < signers {
		t.Errorf("%d good signatures in four seconds of faults, want at least %d; last refusal: %v", n, signers, s.lastError())
	}
	m.Reset()
	s.flows(backWithin, "after the soak")
	t.Logf("%d good, %d refused; %s", s.good.Load(), s.refused.Load(), m)
	// What the token refused to close is open all the same.
	if n, left := m.PeakSessions(), m.Calls("CloseSession")/101; n > pkcs11.DefaultMaxSessions+left {
		t.Errorf("%d sessions were open, want at most %d and %d that were not closed", n, pkcs11.DefaultMaxSessions, left)
	}
}

// Each wrong attempt counts towards locking the PIN for everybody, so there is
// one and no second.
func TestRefusedPINIsNotTriedAgain(t *testing.T) {
	leaksNothing(t)
	codes := []uint{p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_INVALID, p11.CKR_USER_PIN_NOT_INITIALIZED}
	var labels []string
	for _, code := range codes {
		labels = append(labels, fmt.Sprintf("%#x", code))
	}
	b := newBench(t, labels...)
	var wg sync.WaitGroup
	for i, code := range codes {
		m := b.module(labels[i])
		what := p11.Error(code)
		m.Fail("Login", code, faultmodule.Forever)
		if token, err := pkcs11.OpenToken(t.Context(), b.config(m, labels[i])); err == nil {
			t.Errorf("%v: OpenToken = %v with a refused PIN, want an error", what, token)
		}
		if n := m.Calls("Login"); n != 1 {
			t.Errorf("%v: %d logins to open the token, want 1", what, n)
		}
		m.Reset()
		b.writePIN(faultmodule.PIN) // says that it is worth another attempt
		key := b.open(b.token(b.config(m, labels[i])))
		m.Delay("Sign", pace)
		s := b.storm(key)
		wg.Go(func() {
			s.flows(backWithin, "before %v", what)
			before := m.Calls("Login")
			m.Fail("Login", code, faultmodule.Forever)
			m.DropSessions()
			until(t, "the PIN to be refused", backWithin, func() bool { return m.Calls("Login") > before })
			// Long enough for several attempts at the pauses of other faults, with
			// fifty signers that ask.
			pass(3 * time.Second)
			if n := m.Calls("Login") - before; n != 1 {
				t.Errorf("%v: %d logins after the PIN was refused, want 1", what, n)
			}
			if err := key.Ready(); err == nil {
				t.Errorf("%v: Ready() = nil after the PIN was refused, want an error", what)
			}
		})
	}
	wg.Wait()
}

// A wrong PIN file, with the real token: it says no once.
func TestWrongPINFileCostsOneAttempt(t *testing.T) {
	b := newBench(t, "one")
	m := b.module("one")
	b.writePIN("0000")
	if token, err := pkcs11.OpenToken(t.Context(), b.config(m, "one")); err == nil {
		t.Errorf("OpenToken = %v with a wrong PIN, want an error", token)
	}
	if n := m.Calls("Login"); n != 1 {
		t.Errorf("%d logins with a wrong PIN, want 1", n)
	}
	b.writePIN(faultmodule.PIN)
	key := b.open(b.token(b.config(m, "one")))
	if _, err := key.Sign(t.Context(), make([]byte, 32), crypto.SHA256); err != nil {
		t.Errorf("Sign with the right PIN = %v", err)
	}
}

// A signer that is closed under fire leaves nothing behind.
func TestCloseUnderFire(t *testing.T) {
	var m *faultmodule.Module
	leaksNothing(t, func() *faultmodule.Module { return m })
	b := newBench(t, "one")
	m = b.module("one")
	token, err := pkcs11.OpenToken(t.Context(), b.config(m, "one"))
	if err != nil {
		t.Fatal(err)
	}
	key := b.open(token)
	s := b.storm(key)
	s.flows(backWithin, "at the start")
	if err := closeToken(token); err != nil {
		t.Errorf("Close with fifty signers = %v", err)
	}
	if n := m.OpenSessions(); n != 0 {
		t.Errorf("%d sessions are open after Close", n)
	}
	if sig, err := key.Sign(context.Background(), make([]byte, 32), crypto.SHA256); err == nil {
		t.Errorf("Sign = %x after Close, want an error", sig)
	}
	s.end()
}
