package pkcs11

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// allCodes returns every return value that PKCS#11 names, and two that it does
// not.
func allCodes(t *testing.T) []uint {
	t.Helper()
	codes := []uint{p11.CKR_VENDOR_DEFINED + 0x17, 0x1234}
	for c := uint(1); c < 0x400; c++ {
		if strings.Contains(p11.Error(c).Error(), "CKR_") {
			codes = append(codes, c)
		}
	}
	if len(codes) < 80 {
		t.Fatalf("found %d codes only", len(codes))
	}
	return codes
}

func eachCode(t *testing.T, do func(t *testing.T, code uint)) {
	for _, code := range allCodes(t) {
		t.Run(fmt.Sprintf("0x%X", code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { do(t, code) })
		})
	}
}

var message = sha256.Sum256([]byte("to be signed"))

// signWithin signs, under a bound.
func signWithin(k *Key, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	sig, err := k.Sign(ctx, message[:], crypto.SHA256)
	if err == nil && len(sig) == 0 {
		return fmt.Errorf("no signature and no error")
	}
	return err
}

// An error in a signature is mended where it can be, once, within the call.
func TestSignMendsWhatCanBeMended(t *testing.T) {
	for _, call := range []string{"SignInit", "Sign"} {
		t.Run(call, func(t *testing.T) {
			eachCode(t, func(t *testing.T, code uint) {
				f := newFake(t, ecKey(t, elliptic.P256()))
				token := f.token(t, TokenConfig{})
				k := f.key(t, token)
				if err := signWithin(k, time.Second); err != nil {
					t.Fatal(err)
				}
				opened, logins := f.made("OpenSession"), f.made("Login")
				f.failing(call, code, 1)
				err := signWithin(k, 3*time.Second)
				c := classify(&callError{"C_" + call, p11.Error(code)})
				if refused := c == classCaller || c == classFatal; (err != nil) != refused {
					t.Errorf("Sign while C_%s gives %v once (%v) = %v, want an error: %v", call, p11.Error(code), c, err, refused)
				}
				again := signWithin(k, time.Second)
				if (again != nil) != (c == classFatal) || (token.Ready() != nil) != (c == classFatal) {
					t.Errorf("after C_%s gave %v (%v) Sign = %v, Ready() = %v", call, p11.Error(code), c, again, token.Ready())
				}
				wantLogins := logins
				if c.broken() && c != classFatal {
					wantLogins++
				}
				if got := f.made("Login"); got != wantLogins {
					t.Errorf("after C_%s gave %v (%v) there were %d logins, want %d", call, p11.Error(code), c, got, wantLogins)
				}
				if c != classFatal && f.made("OpenSession") == opened {
					t.Errorf("after C_%s gave %v (%v) the same session was used again", call, p11.Error(code), c)
				}
			})
		})
	}
}

func TestOpenSessionErrorsAreMended(t *testing.T) {
	eachCode(t, func(t *testing.T, code uint) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{})
		k := f.key(t, token)
		// The next signature needs a new session.
		f.failing("Sign", p11.CKR_DATA_LEN_RANGE, 1)
		if err := signWithin(k, time.Second); err == nil {
			t.Fatal("Sign succeeded while C_Sign fails")
		}
		f.failing("OpenSession", code, 1)
		err := signWithin(k, 3*time.Second)
		c := classify(&callError{"C_OpenSession", p11.Error(code)})
		if (err != nil) != (c == classFatal) {
			t.Errorf("Sign while C_OpenSession gives %v once (%v) = %v", p11.Error(code), c, err)
		}
	})
}

// Whatever a login says, it is never asked twice with a PIN that was refused, and
// anything else is tried again until it works, soon.
func TestLoginErrors(t *testing.T) {
	eachCode(t, func(t *testing.T, code uint) {
		c := classify(&callError{"C_Login", p11.Error(code)})
		if code == p11.CKR_USER_ALREADY_LOGGED_IN {
			return // it is success
		}
		f := newFake(t, ecKey(t, elliptic.P256()))
		k := f.key(t, f.token(t, TokenConfig{}))
		f.reset()
		f.failing("Login", code, 1)
		_ = signWithin(k, 4*time.Second)
		time.Sleep(5 * time.Second)
		err := signWithin(k, time.Second)
		if (err != nil) != (c == classFatal) {
			t.Errorf("5 s after a login that gave %v (%v) once Sign = %v", p11.Error(code), c, err)
		}
		if c == classFatal {
			time.Sleep(time.Hour)
			if got := f.made("Login"); got != 2 {
				t.Errorf("an hour after a login that gave %v there were %d logins, want the first and the refused one", p11.Error(code), got)
			}
			if k.Ready() == nil {
				t.Errorf("after a login that gave %v Ready() = nil", p11.Error(code))
			}
		}
	})
}

func TestLoginErrorsAtStart(t *testing.T) {
	eachCode(t, func(t *testing.T, code uint) {
		c := classify(&callError{"C_Login", p11.Error(code)})
		if code == p11.CKR_USER_ALREADY_LOGGED_IN {
			return
		}
		f := newFake(t, ecKey(t, elliptic.P256()))
		f.failing("Login", code, 1)
		token, err := f.tryToken(t, TokenConfig{})
		if c == classFatal {
			if err == nil {
				t.Fatalf("opening a token whose login gives %v succeeded", p11.Error(code))
			}
			if got := f.made("Login"); got != 1 {
				t.Errorf("opening a token whose login gives %v made %d logins, want 1", p11.Error(code), got)
			}
			return
		}
		if err != nil {
			t.Fatalf("opening a token whose login gives %v once: %v", p11.Error(code), err)
		}
		defer token.Close(context.Background())
		time.Sleep(5 * time.Second)
		if err := token.Ready(); err != nil {
			t.Errorf("5 s after a first login that gave %v Ready() = %v", p11.Error(code), err)
		}
		if err := signWithin(f.key(t, token), time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestSearchErrorsHeal(t *testing.T) {
	for _, call := range []string{"FindObjectsInit", "FindObjects", "FindObjectsFinal", "GetAttributeValue", "GetSlotList", "GetTokenInfo"} {
		t.Run(call, func(t *testing.T) {
			eachCode(t, func(t *testing.T, code uint) {
				f := newFake(t, ecKey(t, elliptic.P256()))
				k := f.key(t, f.token(t, TokenConfig{}))
				f.reset()
				f.failing(call, code, 1)
				_ = signWithin(k, 4*time.Second)
				time.Sleep(5 * time.Second)
				if err := signWithin(k, time.Second); err != nil && classify(&callError{"", p11.Error(code)}) != classFatal {
					t.Errorf("5 s after C_%s gave %v once Sign = %v", call, p11.Error(code), err)
				}
			})
		})
	}
}
