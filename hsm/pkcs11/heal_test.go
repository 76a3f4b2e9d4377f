package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
)

func TestTokenThatGoesAndComesBack(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t, ecKey(t, elliptic.P256()))
			k := f.key(t, f.token(t, TokenConfig{}))
			f.set(func() { f.away = true })
			f.reset()
			if err := signWithin(k, 4*time.Second); err == nil {
				t.Error("Sign with a token that is away succeeded")
			}
			time.Sleep(away)
			if k.Ready() == nil {
				t.Errorf("away for %v, Ready() = nil", away)
			}
			f.set(func() { f.away, f.slot = false, f.slot+5 }) // into another slot
			back := time.Now()
			for signWithin(k, time.Second) != nil {
				if time.Since(back) > 5*time.Second {
					t.Fatalf("away for %v, no signature 5 s after it was back", away)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

func TestTokenAwayAtStartIsFoundLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		f.set(func() { f.away = true })
		token := f.token(t, TokenConfig{})
		if _, err := NewKey(t.Context(), []*Token{token}, f.config()); err == nil || !strings.Contains(err.Error(), "no token matches pkcs11:serial=0001;token=mayfly") {
			t.Errorf("NewKey with its only token away = %v, want why", err)
		}
		f.set(func() { f.away = false })
		time.Sleep(5 * time.Second)
		if err := signWithin(f.key(t, token), time.Second); err != nil {
			t.Error(err)
		}
	})
}

// Idle tokens are asked, so that readiness does not wait for the first client.
func TestForgottenLoginIsNoticedWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{}))
		f.set(f.logout)
		time.Sleep(checkEvery + 3*time.Second)
		if got := f.made("Login"); got != 2 {
			t.Errorf("%d logins after the token forgot the first, want 2", got)
		}
		if err := k.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// Observed with SoftHSM: a token that comes back shows no keys until the library
// is initialised anew.
func TestAbsentKeyInitialisesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := ecKey(t, elliptic.P256())
		f := newFake(t, key)
		k := f.key(t, f.token(t, TokenConfig{}))
		f.set(func() {
			key.absent = true
			f.before = func(call string) error {
				if call == "Initialize" { // under mu
					key.absent = false
				}
				return nil
			}
		})
		f.reset()
		if err := signWithin(k, 4*time.Second); err != nil {
			t.Errorf("Sign = %v, want a signature after C_Finalize and C_Initialize", err)
		}
		if got := f.made("Finalize"); got != 1 {
			t.Errorf("C_Finalize was called %d times, want once", got)
		}
	})
}

// A token that comes back with another key under the same name must not sign.
func TestSwappedKeyIsNotUsed(t *testing.T) {
	for _, public := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			key := ecKey(t, elliptic.P256())
			key.public = public
			f := newFake(t, key)
			k := f.key(t, f.token(t, TokenConfig{}))
			good, other := key.private, ecKey(t, elliptic.P256()).private
			f.set(func() { key.private = other })
			f.reset()
			if err := signWithin(k, 4*time.Second); err == nil {
				t.Error("a swapped key signed")
			}
			if k.Ready() == nil {
				t.Error("Ready() with a swapped key = nil")
			}
			f.set(func() { key.private = good })
			time.Sleep(5 * time.Second)
			if err := signWithin(k, time.Second); err != nil {
				t.Errorf("with its own key back Sign = %v", err)
			}
		})
	}
}

func TestPINFileIsReadAtEachLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		pin := pinFile(t, softPIN+"\n")
		k := f.key(t, f.token(t, TokenConfig{PINFile: pin}))
		f.set(func() { f.wantPIN = "new" })
		if err := os.WriteFile(pin, []byte("new\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f.reset()
		if err := signWithin(k, 3*time.Second); err != nil {
			t.Errorf("with the new PIN in the file Sign = %v", err)
		}
		// A file that cannot be read costs no attempt, and is tried again.
		if err := os.Chmod(pin, 0o644); err != nil {
			t.Fatal(err)
		}
		logins := f.made("Login")
		f.reset()
		if err := signWithin(k, 3*time.Second); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
			t.Errorf("with a PIN file open to all Sign = %v", err)
		}
		if got := f.made("Login"); got != logins {
			t.Errorf("%d logins without a PIN", got-logins)
		}
		if err := os.Chmod(pin, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if err := signWithin(k, time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestDangerousPINStatesSpendNoAttempt(t *testing.T) {
	for flag, want := range map[uint]string{
		p11.CKF_USER_PIN_LOCKED:        "locked",
		p11.CKF_USER_PIN_FINAL_TRY:     "one wrong attempt",
		p11.CKF_USER_PIN_TO_BE_CHANGED: "changed first",
	} {
		f := newFake(t, ecKey(t, elliptic.P256()))
		f.info.Flags |= flag
		if _, err := f.tryToken(t, TokenConfig{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("token with flag %#x: %v, want an error with %q", flag, err, want)
		}
		if n := f.made("Login"); n != 0 {
			t.Errorf("token with flag %#x: %d logins", flag, n)
		}
	}
}

func TestSessionsAreBounded(t *testing.T) {
	for _, c := range []struct {
		allowed    uint
		configured int
		want       int // the most that were open
	}{
		{2, 0, 2}, {2, 8, 2}, {16, 0, 8}, {16, 4, 4}, {16, 64, 16}, {0, 0, 8}, {^uint(0), 0, 8}, {^uint(0), 3, 3}, {4, 0, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t, ecKey(t, elliptic.P256()))
			f.info.MaxSessionCount = c.allowed
			k := f.key(t, f.token(t, TokenConfig{MaxSessions: c.configured}))
			f.set(func() {
				f.before = func(call string) error {
					if call == "Sign" {
						time.Sleep(time.Millisecond) // so that all overlap
					}
					return nil
				}
			})
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if err := signWithin(k, 3*time.Second); err != nil {
						t.Errorf("%+v: Sign = %v", c, err)
					}
				})
			}
			wg.Wait()
			if f.mostOpen != c.want {
				t.Errorf("%+v: at most %d sessions were open", c, f.mostOpen)
			}
		})
	}
}

func TestTokenWithOneSessionIsRefused(t *testing.T) {
	f := newFake(t, ecKey(t, elliptic.P256()))
	f.info.MaxSessionCount = 1
	if _, err := f.tryToken(t, TokenConfig{}); err == nil || !strings.Contains(err.Error(), "allows one session") {
		t.Errorf("opening a token with one session: %v", err)
	}
}

// Others have sessions as well: what the token refuses counts, not what it says.
func TestFewerSessionsThanPromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{MaxSessions: 16}))
		f.set(func() {
			f.info.MaxSessionCount = 4
			f.before = func(call string) error {
				if call == "Sign" {
					time.Sleep(time.Millisecond)
				}
				return nil
			}
		})
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if err := signWithin(k, 4*time.Second); err != nil {
					t.Errorf("Sign = %v", err)
				}
			})
		}
		wg.Wait()
		if got := f.made("Login"); got != 1 {
			t.Errorf("%d logins, want 1: a token that is full is not ill", got)
		}
	})
}

// A hundred signers lose their token at once, and one login brings it back.
func TestOneLoginForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{}))
		if err := signWithin(k, time.Second); err != nil {
			t.Fatal(err)
		}
		f.reset()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := signWithin(k, 4*time.Second); err != nil {
					t.Errorf("Sign = %v", err)
				}
			})
		}
		wg.Wait()
		if got := f.made("Login"); got != 2 {
			t.Errorf("%d logins, want 2", got)
		}
	})
}

// One call in a hundred fails with some code, fifty sign at a time.
func TestFaultSoak(t *testing.T) {
	var codes []uint
	for _, c := range allCodes(t) {
		if classify(p11.Error(c)) != classFatal {
			codes = append(codes, c)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{MaxSessions: 8})
		k := f.key(t, token)
		public := f.keys[0].private.Public().(*ecdsa.PublicKey)
		var faults atomic.Int64
		var closing atomic.Bool // the last C_CloseSession failed
		f.set(func() {
			f.before = func(call string) error {
				if call == "Initialize" {
					return nil
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				if rand.IntN(100) != 0 || call == "CloseSession" && closing.Swap(true) {
					if call == "CloseSession" {
						closing.Store(false)
					}
					return nil
				}
				faults.Add(1)
				code := codes[rand.IntN(len(codes))]
				if call == "CloseSession" && classify(p11.Error(code)) == classSession {
					code = p11.CKR_DEVICE_ERROR // not a lie that the session is no more
				}
				return p11.Error(code)
			}
			f.bend = func(raw []byte) []byte {
				if rand.IntN(100) == 0 {
					faults.Add(1)
					raw[rand.IntN(len(raw))] ^= 1 << rand.IntN(8)
				}
				return raw
			}
		})
		var good, bad atomic.Int64
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
					sig, err := k.Sign(ctx, message[:], crypto.SHA256)
					cancel()
					switch {
					case err != nil:
						bad.Add(1)
					case !ecdsa.VerifyASN1(public, message[:], sig):
						t.Errorf("a wrong signature was returned: %x", sig)
					default:
						good.Add(1)
					}
				}
			})
		}
		wg.Wait()
		f.set(func() { f.before, f.bend = nil, nil })
		time.Sleep(5 * time.Second)
		if err := signWithin(k, time.Second); err != nil {
			t.Errorf("after the faults Sign = %v", err)
		}
		t.Logf("%d good, %d errors, %d faults, at most %d sessions, %d logins, %d initialisations",
			good.Load(), bad.Load(), faults.Load(), f.mostOpen, f.made("Login"), f.made("Initialize"))
		if faults.Load() < 20 || good.Load() < 900 {
			t.Errorf("%d good signatures of 1000 with %d faults, want at least 900 and 20", good.Load(), faults.Load())
		}
		if f.mostOpen > 8 {
			t.Errorf("%d sessions were open, want at most 8", f.mostOpen)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		token.mu.Lock()
		defer token.mu.Unlock()
		if len(f.sessions) != token.open {
			t.Errorf("the token has %d sessions, and %d are known of", len(f.sessions), token.open)
		}
	})
}

// A session whose connection was replaced while it signed is not used again.
func TestSessionOfAnOlderLoginIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{})
		k := f.key(t, token)
		entered, goOn := make(chan struct{}), make(chan struct{})
		var seen atomic.Bool
		f.set(func() {
			f.before = func(call string) error {
				if call == "Sign" && !seen.Swap(true) {
					close(entered)
					<-goOn
				}
				return nil
			}
		})
		result := make(chan error, 1)
		go func() { result <- signWithin(k, 4*time.Second) }()
		<-entered
		token.mu.Lock()
		conn := token.conn
		token.mu.Unlock()
		token.broken(conn, errors.New("for the test"))
		synctest.Wait()
		time.Sleep(time.Second)
		closed := f.made("CloseSession")
		close(goOn)
		if err := <-result; err != nil {
			t.Errorf("the signature under way = %v", err)
		}
		synctest.Wait()
		if got := f.made("CloseSession"); got != closed+1 {
			t.Errorf("the session of the older login was closed %d times, want once", got-closed)
		}
	})
}
