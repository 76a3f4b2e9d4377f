package keys

import (
	"bytes"
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// faultyToken is a token with a key, behind a library that counts and goes wrong on
// command.
func faultyToken(t *testing.T, key crypto.Signer) (*faultmodule.Module, config.Token) {
	t.Helper()
	soft := faultmodule.NewSoftHSM(t)
	soft.Token("corp")
	soft.Import("corp", "ca", "01", key)
	m := soft.Module()
	return m, tokenAt(t, m.Path)
}

// A supervisor starts a service again that could not start. The attempt of the first
// start is the only one until somebody writes the PIN's file.
func TestStartsSpendOneAttemptTogether(t *testing.T) {
	private := newKey(t)
	soft := faultmodule.NewSoftHSM(t)
	soft.Token("corp")
	soft.Import("corp", "ca", "01", private)
	state, pin := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "pin")
	k := config.Key{Tokens: []string{"hsm-a"}, Object: "ca"}
	// start is what a process does: another library, which remembers nothing.
	start := func() (*faultmodule.Module, error) {
		m := soft.Module()
		f := &config.File{Config: config.Config{Tokens: []config.Token{
			{Name: "hsm-a", Module: m.Path, Label: "corp", PINFile: pin, MaxSessions: 4},
		}}}
		tokens := &Tokens{State: state}
		key, err := tokens.Key(t.Context(), f, "chains[0].key", k, private.Public())
		if err == nil {
			closeKey(t, key)
		}
		return m, err
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(pin, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0000\n")
	for i := range 4 {
		m, err := start()
		if err == nil || m.Calls("Login") != max(0, 1-i) {
			t.Errorf("start %d with a wrong PIN: %d logins, error %v; want one login at the first", i+1, m.Calls("Login"), err)
		}
	}
	kept, err := os.ReadFile(filepath.Join(state, "refused-pins", "hsm-a.json"))
	if err != nil || bytes.Contains(kept, []byte("0000")) {
		t.Errorf("kept %s (%v), want nothing of the PIN", kept, err)
	}
	write(faultmodule.PIN + "\n")
	if m, err := start(); err != nil || m.Calls("Login") != 1 {
		t.Errorf("a start with the right PIN: %d logins, error %v", m.Calls("Login"), err)
	}
	if _, err := os.Stat(filepath.Join(state, "refused-pins", "hsm-a.json")); err == nil {
		t.Error("a PIN that the token accepted is still remembered as refused")
	}
}

// Tokens lock after three wrong attempts. Each chain of a rotation has a key, and
// a reload that is refused is tried again at every poll.
func TestWrongPINFileSpendsOneAttemptForAllChainsAndReloads(t *testing.T) {
	private := newKey(t)
	m, token := faultyToken(t, private)
	f := &config.File{Config: config.Config{Tokens: []config.Token{token}}}
	k := config.Key{Tokens: []string{"hsm-a"}, Object: "ca"}
	writePIN := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(token.PINFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(token.PINFile, at, at); err != nil {
			t.Fatal(err)
		}
	}
	writePIN("0000\n", time.Now())
	var tokens Tokens
	for range 4 { // start and polls
		for range 3 { // chains
			if _, err := tokens.Key(t.Context(), f, "chains[0].key", k, private.Public()); !pkcs11.RefusedPIN(err) {
				t.Fatalf("Key with a wrong PIN file = %v, want that the PIN was refused", err)
			}
		}
	}
	if got := m.Calls("Login"); got != 1 {
		t.Errorf("%d logins with a wrong PIN file, want 1", got)
	}
	writePIN(faultmodule.PIN+"\n", time.Now().Add(time.Minute))
	key := open(t, &tokens, f, k, private.Public())
	defer closeKey(t, key)
	signs(t, key)

	// The token forgets the login and its PIN is another one by now. Reloads find
	// that out without an attempt of their own.
	before := m.Calls("Login")
	m.Fail("Login", p11.CKR_PIN_INCORRECT, faultmodule.Forever)
	m.DropSessions()
	if _, err := key.Sign(t.Context(), make([]byte, 32), crypto.SHA256); err == nil {
		t.Fatal("a signature after the PIN was changed")
	}
	for range 5 {
		if _, err := tokens.Key(t.Context(), f, "chains[0].key", k, private.Public()); !pkcs11.RefusedPIN(err) {
			t.Errorf("Key on a token that refused the PIN = %v, want that it did", err)
		}
	}
	if got := m.Calls("Login") - before; got != 1 {
		t.Errorf("%d logins after the PIN was changed, want 1", got)
	}
	// It was changed back, and somebody says so.
	m.Reset()
	writePIN(faultmodule.PIN+"\n", time.Now().Add(2*time.Minute))
	again := open(t, &tokens, f, k, private.Public())
	defer closeKey(t, again)
	signs(t, again)
}
