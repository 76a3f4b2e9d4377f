package pkcs11

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// A configuration with three chains on one token opens it three times when it
// cannot be opened, and a reload that is refused is tried again every 30 s: one
// attempt is spent, whatever the entries call the token.
func TestRefusedPINIsSpentOnceInAProcess(t *testing.T) {
	f := newFake(t, ecKey(t, elliptic.P256()))
	wrong := pinFile(t, "0000\n")
	m := newModule("/fake.so", f)
	m.refs = 1 << 10
	open := func(cfg TokenConfig) error {
		cfg.PINFile = wrong
		token, err := openToken(t.Context(), cfg, m)
		if err == nil {
			err = token.Close(context.Background())
			t.Errorf("%+v was opened with a wrong PIN, Close = %v", cfg, err)
		}
		return err
	}
	for range 5 {
		for _, cfg := range []TokenConfig{{Name: "a", Label: "mayfly"}, {Name: "b", URI: "pkcs11:serial=0001"}} {
			if err := open(cfg); classify(err) != classFatal {
				t.Errorf("%+v: %v, want that the PIN was refused", cfg, err)
			}
		}
	}
	if got := f.made("Login"); got != 1 {
		t.Errorf("%d logins with one wrong PIN, want 1", got)
	}
	// Somebody says that it is worth another attempt.
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(wrong, later, later); err != nil {
		t.Fatal(err)
	}
	_ = open(TokenConfig{Name: "a", Label: "mayfly"})
	_ = open(TokenConfig{Name: "a", Label: "mayfly"})
	if got := f.made("Login"); got != 2 {
		t.Errorf("%d logins after the PIN's file was written again, want 2", got)
	}
	f.set(func() { f.sessions = nil })
}

// With CKA_ALWAYS_AUTHENTICATE each signature gives the PIN: those under way when
// the token's PIN is changed spend one attempt together.
func TestSignaturesSpendOneAttemptTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := ecKey(t, elliptic.P256())
		key.attributes[p11.CKA_ALWAYS_AUTHENTICATE] = yes
		f := newFake(t, key)
		k := f.key(t, f.token(t, TokenConfig{}))
		before := f.made("Login")
		f.set(func() {
			f.wantPIN = "changed by somebody"
			f.before = func(call string) error {
				if call == "Login" {
					time.Sleep(100 * time.Millisecond) // of the bubble: all others come meanwhile
				}
				return nil
			}
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
				defer cancel()
				if sig, err := k.Sign(ctx, message[:], crypto.SHA256); err == nil {
					t.Errorf("a signature %x without the right PIN", sig)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		if got := f.made("Login") - before; got != 1 {
			t.Errorf("%d attempts with a PIN that is wrong now, want 1", got)
		}
	})
}
