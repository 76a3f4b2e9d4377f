package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

// fake is a PKCS#11 library with one token, which keeps the rules of PKCS#11 and
// fails the test when its user breaks them: a session used by two at a time, a
// handle of before C_Finalize, C_Finalize under a running call, two logins at a
// time, more sessions than there may be.
type fake struct {
	tb testing.TB

	// mu guards what follows.
	mu          sync.Mutex
	slot        uint
	info        p11.TokenInfo
	away        bool
	twin        bool // another token has the same label and serial
	initialised bool
	loggedIn    bool
	next        uint
	sessions    map[p11.SessionHandle]*fakeSession
	keys        []*fakeKey
	// alias maps the handles given out in this login to keys.
	alias map[p11.ObjectHandle]*fakeKey
	// before is asked at the beginning of each call, without mu; its error is
	// the answer. It may block.
	before func(call string) error
	// bend changes what C_Sign returns.
	bend func(raw []byte) []byte
	// wantPIN is the right PIN.
	wantPIN          string
	running, logging int
	calls            map[string]int
	mostOpen         int
}

type fakeSession struct {
	busy   bool
	search []p11.ObjectHandle
	active *fakeKey
	mech   uint
	authed bool
}

type fakeKey struct {
	label      string
	id         []byte
	private    crypto.Signer
	public     bool // has a public key object, too
	rawPoint   bool
	absent     bool
	attributes map[uint][]byte
}

var yes, no = []byte{1}, []byte{0}

func newFake(tb testing.TB, keys ...*fakeKey) *fake {
	tb.Helper()
	f := &fake{
		tb: tb, slot: 7, next: 100, wantPIN: softPIN, keys: keys,
		info: p11.TokenInfo{
			Label: "mayfly  ", SerialNumber: "0001", ManufacturerID: "Fake", Model: "F1",
			Flags: p11.CKF_TOKEN_INITIALIZED | p11.CKF_USER_PIN_INITIALIZED | p11.CKF_LOGIN_REQUIRED, MaxSessionCount: 0,
		},
		calls: make(map[string]int),
	}
	tb.Cleanup(f.settled)
	return f
}

// settled checks what must hold in the end.
func (f *fake) settled() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sessions) != 0 || f.running != 0 {
		f.tb.Errorf("after the test %d sessions are open and %d calls run, want none", len(f.sessions), f.running)
	}
}

func ecKey(tb testing.TB, curve elliptic.Curve) *fakeKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return &fakeKey{label: "ca", id: []byte{1}, private: k, public: true, attributes: sound()}
}

func sound() map[uint][]byte {
	return map[uint][]byte{p11.CKA_SIGN: yes, p11.CKA_SENSITIVE: yes, p11.CKA_EXTRACTABLE: no}
}

// begin is the beginning of each call. What it returns ends the call.
func (f *fake) begin(call string, s p11.SessionHandle) (*fakeSession, func(), error) {
	f.mu.Lock()
	f.calls[call]++
	if !f.initialised {
		f.mu.Unlock()
		f.tb.Errorf("%s while the library is not initialised", call)
		return nil, nil, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)
	}
	f.running++
	before := f.before
	session := f.sessions[s]
	if session != nil {
		if session.busy {
			f.tb.Errorf("%s: session %d is in two calls at a time", call, s)
		}
		session.busy = true
	}
	f.mu.Unlock()
	end := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
		if session != nil {
			session.busy = false
		}
	}
	var err error
	if before != nil {
		err = before(call)
	}
	f.mu.Lock()
	switch {
	case err != nil:
	case f.away && call != "CloseSession" && call != "GetSlotList":
		err = p11.Error(p11.CKR_TOKEN_NOT_PRESENT)
	case s != 0 && f.sessions[s] == nil:
		err = p11.Error(p11.CKR_SESSION_HANDLE_INVALID)
	}
	f.mu.Unlock()
	if err != nil {
		end()
		return nil, nil, err
	}
	return session, end, nil
}

func (f *fake) Initialize(...p11.InitializeOption) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["Initialize"]++
	if f.before != nil {
		if err := f.before("Initialize"); err != nil {
			return err
		}
	}
	f.initialised, f.sessions = true, make(map[p11.SessionHandle]*fakeSession)
	f.alias = make(map[p11.ObjectHandle]*fakeKey)
	return nil
}

func (f *fake) Finalize() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["Finalize"]++
	if f.running > 0 {
		f.tb.Errorf("C_Finalize under %d running calls", f.running)
	}
	f.initialised, f.loggedIn, f.sessions = false, false, nil
	return nil
}

func (f *fake) GetInfo() (p11.Info, error) { return p11.Info{}, nil }

func (f *fake) GetSlotList(bool) ([]uint, error) {
	_, end, err := f.begin("GetSlotList", 0)
	if err != nil {
		return nil, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.away:
		return nil, nil
	case f.twin:
		return []uint{f.slot, f.slot + 1}, nil
	}
	return []uint{f.slot}, nil
}

func (f *fake) GetSlotInfo(uint) (p11.SlotInfo, error) { return p11.SlotInfo{}, nil }

func (f *fake) GetTokenInfo(uint) (p11.TokenInfo, error) {
	_, end, err := f.begin("GetTokenInfo", 0)
	if err != nil {
		return p11.TokenInfo{}, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.info, nil
}

func (f *fake) GetMechanismList(uint) ([]*p11.Mechanism, error) { return nil, nil }

func (f *fake) GetMechanismInfo(uint, []*p11.Mechanism) (p11.MechanismInfo, error) {
	return p11.MechanismInfo{}, nil
}

func (f *fake) OpenSession(slot, _ uint) (p11.SessionHandle, error) {
	_, end, err := f.begin("OpenSession", 0)
	if err != nil {
		return 0, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if slot != f.slot {
		return 0, p11.Error(p11.CKR_SLOT_ID_INVALID)
	}
	if n := f.info.MaxSessionCount; n != 0 && n != ^uint(0) && len(f.sessions) >= int(n) {
		return 0, p11.Error(p11.CKR_SESSION_COUNT)
	}
	f.next++
	s := p11.SessionHandle(f.next)
	f.sessions[s] = &fakeSession{}
	f.mostOpen = max(f.mostOpen, len(f.sessions))
	return s, nil
}

func (f *fake) CloseSession(s p11.SessionHandle) error {
	_, end, err := f.begin("CloseSession", s)
	if err != nil {
		return err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, s)
	if len(f.sessions) == 0 {
		f.logout()
	}
	return nil
}

// logout makes all handles of private keys void. The caller holds mu.
func (f *fake) logout() {
	f.loggedIn = false
	f.alias = make(map[p11.ObjectHandle]*fakeKey)
}

// reset is what a token does that loses power for a moment.
func (f *fake) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
	f.logout()
}

func (f *fake) GetSessionInfo(s p11.SessionHandle) (p11.SessionInfo, error) {
	_, end, err := f.begin("GetSessionInfo", s)
	if err != nil {
		return p11.SessionInfo{}, err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loggedIn {
		return p11.SessionInfo{State: stateROUser}, nil
	}
	return p11.SessionInfo{}, nil
}

func (f *fake) Login(s p11.SessionHandle, user uint, pin string) error {
	f.mu.Lock()
	f.logging++
	if f.logging > 1 && user == p11.CKU_USER {
		f.tb.Error("two logins at a time")
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.logging--
		f.mu.Unlock()
	}()
	session, end, err := f.begin("Login", s)
	if err != nil {
		return err
	}
	defer end()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case user == p11.CKU_CONTEXT_SPECIFIC && session.active == nil:
		return p11.Error(p11.CKR_OPERATION_NOT_INITIALIZED)
	case pin != f.wantPIN:
		return p11.Error(p11.CKR_PIN_INCORRECT)
	case user == p11.CKU_CONTEXT_SPECIFIC:
		session.authed = true
		return nil
	case f.loggedIn:
		return p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)
	}
	f.loggedIn = true
	return nil
}

// set changes the fake.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// made returns how often a call was made.
func (f *fake) made(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

// failing has the next n calls of a name fail.
func (f *fake) failing(call string, code uint, n int) {
	f.set(func() {
		f.before = func(c string) error {
			if c != call {
				return nil
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if n == 0 {
				return nil
			}
			n--
			return p11.Error(code)
		}
	})
}

// tryToken opens a token of the fake, in a library of its own.
func (f *fake) tryToken(tb testing.TB, cfg TokenConfig) (*Token, error) {
	tb.Helper()
	if cfg.Name == "" {
		cfg.Name = "fake"
	}
	if cfg.Label == "" && cfg.URI == "" {
		cfg.Label, cfg.Serial = "mayfly", "0001"
	}
	if cfg.PINFile == "" {
		cfg.PINFile = pinFile(tb, softPIN+"\n")
	}
	m := newModule("/fake.so", f)
	m.refs = 1
	return openToken(context.Background(), cfg, m)
}

func (f *fake) token(tb testing.TB, cfg TokenConfig) *Token {
	tb.Helper()
	t, err := f.tryToken(tb, cfg)
	if err != nil {
		tb.Fatalf("opening the token: %v", err)
	}
	tb.Cleanup(func() {
		if err := t.Close(context.Background()); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return t
}

func (f *fake) config() KeyConfig {
	return KeyConfig{Name: "ca", Object: f.keys[0].label, ID: f.keys[0].id, Public: f.keys[0].private.Public()}
}

// key opens the first key of the fake on tokens.
func (f *fake) key(tb testing.TB, tokens ...*Token) *Key {
	tb.Helper()
	k, err := NewKey(context.Background(), tokens, f.config())
	if err != nil {
		tb.Fatalf("NewKey: %v", err)
	}
	return k
}
