package faultmodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// rig is a token with two keys under a fault module, and one session.
type rig struct {
	*p11.Ctx
	t       testing.TB
	m       *Module
	session p11.SessionHandle
	pub     *ecdsa.PublicKey
}

func newRig(t testing.TB) *rig {
	t.Helper()
	soft := NewSoftHSM(t)
	soft.Token("one")
	key := newKey(t)
	soft.Import("one", "issuing", "a1", key)
	soft.Import("one", "other", "a2", newKey(t))
	m := soft.Module()
	r := &rig{Ctx: p11.New(m.Path), t: t, m: m, pub: &key.PublicKey}
	r.must(r.Initialize())
	t.Cleanup(func() {
		m.Reset()
		_ = r.Finalize()
	})
	r.open()
	return r
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) slot() uint {
	r.t.Helper()
	slots, err := r.GetSlotList(true)
	r.must(err)
	for _, s := range slots {
		if info, err := r.GetTokenInfo(s); err == nil && info.Label == "one" {
			return s
		}
	}
	r.t.Fatalf("none of the slots %v has the token", slots)
	return 0
}

// open opens and logs in the session of the rig.
func (r *rig) open() {
	r.t.Helper()
	s, err := r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
	r.must(err)
	r.must(r.Login(s, p11.CKU_USER, PIN))
	r.session = s
}

func (r *rig) find(s p11.SessionHandle) p11.ObjectHandle {
	r.t.Helper()
	r.must(r.FindObjectsInit(s, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, "issuing"),
	}))
	found, _, err := r.FindObjects(s, 2)
	r.must(err)
	r.must(r.FindObjectsFinal(s))
	if len(found) != 1 {
		r.t.Fatalf("found %d keys with the label, want 1", len(found))
	}
	return found[0]
}

var message = sha256.Sum256([]byte("a message"))

// sign makes a signature in a session and says whether it verifies.
func (r *rig) sign(s p11.SessionHandle, key p11.ObjectHandle) (bool, error) {
	if err := r.SignInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, key); err != nil {
		return false, err
	}
	sig, err := r.Sign(s, message[:])
	if err != nil {
		return false, err
	}
	half := len(sig) / 2
	return ecdsa.Verify(r.pub, message[:], new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])), nil
}

// signs fails the test unless a signature is made, and is as good as said.
func (r *rig) signs(good bool) {
	r.t.Helper()
	if ok, err := r.sign(r.session, r.find(r.session)); err != nil || ok != good {
		r.t.Fatalf("signature verifies: %t, %v; want %t, nil", ok, err, good)
	}
}

func (r *rig) wantCode(what string, err error, want uint) {
	r.t.Helper()
	if !errors.Is(err, p11.Error(want)) {
		r.t.Errorf("%s = %v, want %v", what, err, p11.Error(want))
	}
}

func TestModuleForwardsUntilTold(t *testing.T) {
	r := newRig(t)
	r.signs(true)
	if n := r.m.Signatures(); n != 1 {
		t.Errorf("Signatures() = %d, want 1", n)
	}
	if n := r.m.OpenSessions(); n != 1 {
		t.Errorf("OpenSessions() = %d, want 1", n)
	}
}

func TestModuleFailsEveryFunction(t *testing.T) {
	r := newRig(t)
	s, slot := r.session, r.slot()
	label := []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, "x")}
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}
	calls := map[string]func() error{
		"Initialize":        func() error { return r.Initialize() },
		"Finalize":          r.Finalize,
		"GetInfo":           func() error { _, err := r.GetInfo(); return err },
		"GetSlotList":       func() error { _, err := r.GetSlotList(true); return err },
		"GetSlotInfo":       func() error { _, err := r.GetSlotInfo(slot); return err },
		"GetTokenInfo":      func() error { _, err := r.GetTokenInfo(slot); return err },
		"GetMechanismList":  func() error { _, err := r.GetMechanismList(slot); return err },
		"GetMechanismInfo":  func() error { _, err := r.GetMechanismInfo(slot, mechanism); return err },
		"InitToken":         func() error { return r.InitToken(slot, SOPIN, "x") },
		"OpenSession":       func() error { _, err := r.OpenSession(slot, p11.CKF_SERIAL_SESSION); return err },
		"CloseSession":      func() error { return r.CloseSession(s) },
		"CloseAllSessions":  func() error { return r.CloseAllSessions(slot) },
		"GetSessionInfo":    func() error { _, err := r.GetSessionInfo(s); return err },
		"Login":             func() error { return r.Login(s, p11.CKU_USER, PIN) },
		"Logout":            func() error { return r.Logout(s) },
		"FindObjectsInit":   func() error { return r.FindObjectsInit(s, label) },
		"FindObjects":       func() error { _, _, err := r.FindObjects(s, 1); return err },
		"FindObjectsFinal":  func() error { return r.FindObjectsFinal(s) },
		"GetAttributeValue": func() error { _, err := r.GetAttributeValue(s, 1, label); return err },
		"CreateObject":      func() error { _, err := r.CreateObject(s, label); return err },
		"GenerateKeyPair":   func() error { _, _, err := r.GenerateKeyPair(s, mechanism, label, label); return err },
		"GenerateRandom":    func() error { _, err := r.GenerateRandom(s, 8); return err },
		"SignInit":          func() error { return r.SignInit(s, mechanism, 1) },
		"Sign":              func() error { _, err := r.Sign(s, message[:]); return err },
	}
	for _, f := range functions {
		call := calls[f]
		if call == nil {
			t.Errorf("nothing here calls C_%s", f)
			continue
		}
		before := r.m.Calls(f)
		r.m.Fail(f, p11.CKR_VENDOR_DEFINED+7, 1)
		r.wantCode("C_"+f, call(), p11.CKR_VENDOR_DEFINED+7)
		if n := r.m.Calls(f) - before; n != 1 {
			t.Errorf("C_%s was counted %d times, want once", f, n)
		}
	}
	r.signs(true)
}

func TestModuleFailsAsOftenAsTold(t *testing.T) {
	r := newRig(t)
	r.m.Fail("SignInit", p11.CKR_DEVICE_ERROR, 2)
	for range 2 {
		_, err := r.sign(r.session, 0)
		r.wantCode("SignInit", err, p11.CKR_DEVICE_ERROR)
	}
	r.signs(true)

	r.m.Fail("GetSessionInfo", p11.CKR_VENDOR_DEFINED+7, Forever)
	for range 3 {
		_, err := r.GetSessionInfo(r.session)
		r.wantCode("GetSessionInfo", err, p11.CKR_VENDOR_DEFINED+7)
	}
	r.m.Reset()
	r.m.FailEvery("GetSessionInfo", p11.CKR_HOST_MEMORY, 4)
	failed := 0
	for range 40 {
		if _, err := r.GetSessionInfo(r.session); err != nil {
			failed++
		}
	}
	if failed != 10 {
		t.Errorf("%d of 40 calls failed, want every fourth", failed)
	}
}

func TestModuleLosesTheAnswer(t *testing.T) {
	r := newRig(t)
	key := r.find(r.session)
	r.m.FailAfter("Login", p11.CKR_DEVICE_ERROR, 1)
	r.must(r.Logout(r.session))
	r.wantCode("Login", r.Login(r.session, p11.CKU_USER, PIN), p11.CKR_DEVICE_ERROR)
	r.wantCode("Login after one whose answer was lost", r.Login(r.session, p11.CKU_USER, PIN), p11.CKR_USER_ALREADY_LOGGED_IN)
	r.m.Fail("Login", p11.CKR_DEVICE_ERROR, 1)
	r.must(r.Logout(r.session))
	r.wantCode("Login", r.Login(r.session, p11.CKU_USER, PIN), p11.CKR_DEVICE_ERROR)
	if _, err := r.sign(r.session, key); err == nil {
		t.Error("signed after a login that was not done")
	}
}

func TestModuleHangsUntilReleased(t *testing.T) {
	const n = 50
	r := newRig(t)
	var sessions []p11.SessionHandle
	for range n {
		s, err := r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
		r.must(err)
		sessions = append(sessions, s)
	}
	key := r.find(r.session)
	r.m.Hang("SignInit", n)
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() {
			if ok, err := r.sign(s, key); !ok || err != nil {
				t.Errorf("signature after a hang verifies: %t, %v; want true, nil", ok, err)
			}
		})
	}
	waitFor(t, "fifty calls to hang", func() bool { return r.m.Hanging("SignInit") == n })
	r.signs(true) // the next one does not
	if made := r.m.Signatures(); made != 1 {
		t.Errorf("%d signatures while fifty calls hang, want 1", made)
	}
	r.m.Release("SignInit")
	wg.Wait()
	if h := r.m.Hanging("SignInit"); h != 0 {
		t.Errorf("Hanging() = %d after Release, want 0", h)
	}
	if peak := r.m.PeakSessions(); peak != n+1 {
		t.Errorf("PeakSessions() = %d, want %d", peak, n+1)
	}
}

func TestModuleTakesTime(t *testing.T) {
	r := newRig(t)
	r.m.Delay("Sign", 20*time.Millisecond)
	start := time.Now()
	r.signs(true)
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("a signature took %v, want at least 20 ms", d)
	}
}

func TestModuleReplaysSignatures(t *testing.T) {
	r := newRig(t)
	key := r.find(r.session)
	r.m.Replay(true)
	sign := func() string {
		t.Helper()
		r.must(r.SignInit(r.session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, key))
		sig, err := r.Sign(r.session, message[:])
		r.must(err)
		return string(sig)
	}
	first := sign()
	for range 3 {
		if again := sign(); again != first {
			t.Errorf("signature is %x, want %x again", again, first)
		}
	}
	r.m.FlipSignatures(1)
	r.signs(false)
	r.m.Replay(false)
	if other := sign(); other == first {
		t.Errorf("signature is %x, want another: ECDSA is random", other)
	}
	r.signs(true)
}

func TestModuleDropsSessionsAndLogins(t *testing.T) {
	r := newRig(t)
	r.m.DropSessions()
	_, err := r.GetSessionInfo(r.session)
	r.wantCode("GetSessionInfo", err, p11.CKR_SESSION_HANDLE_INVALID)
	if n := r.m.OpenSessions(); n != 0 {
		t.Errorf("OpenSessions() = %d after all were dropped, want 0", n)
	}
	r.open()
	r.signs(true)

	r.m.Logout()
	info, err := r.GetSessionInfo(r.session)
	r.must(err)
	if info.State != p11.CKS_RO_PUBLIC_SESSION {
		t.Errorf("state of the session after logout = %d, want %d", info.State, p11.CKS_RO_PUBLIC_SESSION)
	}
}

func TestModuleUnplugsAndWedges(t *testing.T) {
	r := newRig(t)
	slot := r.slot()
	r.m.Unplug()
	_, err := r.GetSessionInfo(r.session)
	r.wantCode("GetSessionInfo", err, p11.CKR_DEVICE_REMOVED)
	_, err = r.GetTokenInfo(slot)
	r.wantCode("GetTokenInfo", err, p11.CKR_TOKEN_NOT_PRESENT)
	_, err = r.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	r.wantCode("OpenSession", err, p11.CKR_TOKEN_NOT_PRESENT)
	if slots, err := r.GetSlotList(true); len(slots) != 0 || err != nil {
		t.Errorf("GetSlotList(true) = %v, %v; want none", slots, err)
	}
	r.m.Plug()
	_, err = r.GetSessionInfo(r.session)
	r.wantCode("GetSessionInfo", err, p11.CKR_SESSION_HANDLE_INVALID)
	r.open()
	r.signs(true)

	r.m.Wedge()
	_, err = r.GetSlotList(true)
	r.wantCode("GetSlotList", err, p11.CKR_GENERAL_ERROR)
	r.must(r.Finalize())
	r.must(r.Initialize())
	r.open()
	r.signs(true)
}

func TestModuleMovesSlots(t *testing.T) {
	r := newRig(t)
	before := r.slot()
	r.m.MoveSlots(3)
	if after := r.slot(); after != before+3 {
		t.Errorf("slot is %d after a move by 3, want %d", after, before+3)
	}
	if _, err := r.GetTokenInfo(before); err == nil {
		t.Error("the slot of before still has the token")
	}
	info, err := r.GetSessionInfo(r.session)
	if err != nil || info.SlotID != before+3 {
		t.Errorf("GetSessionInfo = slot %d, %v; want %d", info.SlotID, err, before+3)
	}
	r.signs(true)
}

func TestModuleLiesAboutKeysAndSignatures(t *testing.T) {
	r := newRig(t)
	r.m.OtherKey("other")
	r.m.SwapSearch(true)
	r.signs(false)
	r.m.SwapSearch(false)
	r.signs(true)
	r.m.SwapSignatures(true)
	r.signs(false)
	r.m.SwapSignatures(false)
	r.m.FlipSignatures(1)
	r.signs(false)
	r.signs(true)
}

func TestModuleHasSoManySessions(t *testing.T) {
	r := newRig(t)
	r.m.MaxSessions(2)
	info, err := r.GetTokenInfo(r.slot())
	if err != nil || info.MaxSessionCount != 2 {
		t.Errorf("GetTokenInfo says %d sessions, %v; want 2", info.MaxSessionCount, err)
	}
	second, err := r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
	r.must(err)
	_, err = r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
	r.wantCode("OpenSession", err, p11.CKR_SESSION_COUNT)
	r.must(r.CloseSession(second))
	_, err = r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
	r.must(err)
}

func TestModulesShareNothing(t *testing.T) {
	one, two := newRig(t), newRig(t)
	one.m.Unplug()
	two.signs(true)
	one.must(one.Finalize())
	two.signs(true)
	one.m.Plug()
	one.must(one.Initialize())
	one.open()
	one.signs(true)
}

// recorder takes the verdict of a module that is meant to be negative.
type recorder struct {
	testing.TB
	errors []string
	last   []func()
}

func (r *recorder) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }
func (r *recorder) Cleanup(f func())               { r.last = append(r.last, f) }

func (r *recorder) end() {
	for _, f := range slices.Backward(r.last) {
		f()
	}
}

func TestModuleReportsBrokenRules(t *testing.T) {
	for _, c := range []struct {
		name, want string
		broken     func(*rig)
	}{
		{"finalize under a call", "called C_Finalize while", func(r *rig) {
			r.m.Hang("SignInit", 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = r.sign(r.session, 1)
			}()
			waitFor(t, "a call to hang", func() bool { return r.m.Hanging("SignInit") == 1 })
			_ = r.Finalize()
			r.must(r.Initialize())
			r.m.Release("SignInit")
			<-done
		}},
		{"one session in two calls", "used one session in two calls", func(r *rig) {
			r.m.Hang("GetSessionInfo", 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = r.GetSessionInfo(r.session)
			}()
			waitFor(t, "a call to hang", func() bool { return r.m.Hanging("GetSessionInfo") == 1 })
			_ = r.CloseSession(r.session)
			r.m.Release("GetSessionInfo")
			<-done
		}},
		{"two logins", "called C_Login twice", func(r *rig) {
			r.m.Hang("Login", 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = r.Login(r.session, p11.CKU_USER, PIN)
			}()
			waitFor(t, "a login to hang", func() bool { return r.m.Hanging("Login") == 1 })
			second, err := r.OpenSession(r.slot(), p11.CKF_SERIAL_SESSION)
			r.must(err)
			_ = r.Login(second, p11.CKU_USER, PIN)
			r.m.Release("Login")
			<-done
		}},
		{"before initialize", "before C_Initialize", func(r *rig) {
			r.must(r.Finalize())
			_, _ = r.GetSlotList(true)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := &recorder{TB: t}
			r := newRig(rec)
			c.broken(r)
			rec.end()
			got := strings.Join(r.m.Violations(), "\n")
			if len(rec.errors) != 1 || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("the test was told of %d violations, and they are %q; want the one that it %s", len(rec.errors), got, c.want)
			}
		})
	}
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
