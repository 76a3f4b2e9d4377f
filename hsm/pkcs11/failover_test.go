package pkcs11

import (
	"context"
	"crypto/elliptic"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// pair makes two tokens with the same key, in two libraries.
func pair(t *testing.T) (first, second *fake, k *Key) {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	twin := *key
	first, second = newFake(t, key), newFake(t, &twin)
	k = first.key(t, first.token(t, TokenConfig{Name: "first"}), second.token(t, TokenConfig{Name: "second"}))
	return first, second, k
}

func TestFailover(t *testing.T) {
	for name, ill := range map[string]func(f *fake){
		"away":   func(f *fake) { f.set(func() { f.away = true }) },
		"device": func(f *fake) { f.failing("Sign", p11.CKR_DEVICE_ERROR, 1<<30) },
		"vendor": func(f *fake) { f.failing("SignInit", p11.CKR_VENDOR_DEFINED+1, 1<<30) },
		"login":  func(f *fake) { f.failing("Login", p11.CKR_PIN_LOCKED, 1); f.reset() },
		"bent":   func(f *fake) { f.set(func() { f.bend = func(raw []byte) []byte { raw[0] ^= 1; return raw } }) },
		"full":   func(f *fake) { f.failing("Sign", p11.CKR_HOST_MEMORY, 1<<30) },
		"hangs":  func(f *fake) { f.hanging("Sign") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second, k := pair(t)
				used := second.made("Sign")
				for range 3 {
					if err := signWithin(k, time.Second); err != nil {
						t.Fatal(err)
					}
				}
				if got := second.made("Sign"); got != used {
					t.Errorf("the second token signed %d times while the first works", got-used)
				}
				ill(first)
				start := time.Now()
				if err := signWithin(k, 4*time.Second); err != nil || name == "full" && time.Since(start) > 100*time.Millisecond {
					t.Errorf("Sign = %v after %v", err, time.Since(start))
				}
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() {
						start := time.Now()
						if err := signWithin(k, 4*time.Second); err != nil {
							t.Errorf("Sign with an ill first token = %v", err)
						} else if took := time.Since(start); took > time.Second {
							t.Errorf("Sign with an ill first token took %v, want at most 1s", took)
						}
					})
				}
				wg.Wait()
				if err := k.Ready(); err != nil {
					t.Errorf("Ready() with a good second token = %v", err)
				}
				if got := first.made("Finalize"); got > 0 && name == "full" {
					t.Errorf("a token that is full was initialised anew %d times", got)
				}
			})
		})
	}
}

func TestBackToThePreferredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second, k := pair(t)
		if err := signWithin(k, time.Second); err != nil {
			t.Fatal(err)
		}
		first.set(func() { first.away = true })
		if err := signWithin(k, time.Second); err != nil {
			t.Fatal(err)
		}
		first.set(func() { first.away = false })
		time.Sleep(5 * time.Second)
		used, was := first.made("Sign"), second.made("Sign")
		if err := signWithin(k, time.Second); err != nil {
			t.Fatal(err)
		}
		if first.made("Sign") == used || second.made("Sign") != was {
			t.Error("with the preferred token healed the other one signed")
		}
	})
}

func TestFailoverRefusesMistakesOnTheSecond(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	for name, c := range map[string]struct {
		spoil func(second *fake)
		want  string
	}{
		"another key":   {func(f *fake) { f.keys[0].private = ecKey(t, elliptic.P256()).private }, "not the one of the certificate"},
		"no key":        {func(f *fake) { f.keys[0].absent = true }, "holds no such private key"},
		"two keys":      {func(f *fake) { f.keys = append(f.keys, f.keys[0]) }, "2 private keys match"},
		"extractable":   {func(f *fake) { f.keys[0].attributes[p11.CKA_EXTRACTABLE] = yes }, "can be extracted"},
		"not sensitive": {func(f *fake) { delete(f.keys[0].attributes, p11.CKA_SENSITIVE) }, "not sensitive"},
	} {
		synctest.Test(t, func(t *testing.T) {
			twin := *key
			twin.attributes = sound()
			first, second := newFake(t, key), newFake(t, &twin)
			c.spoil(second)
			tokens := []*Token{first.token(t, TokenConfig{Name: "first"}), second.token(t, TokenConfig{Name: "second"})}
			if _, err := NewKey(t.Context(), tokens, first.config()); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "token second") {
				t.Errorf("%s on the second token: NewKey = %v, want an error with %q", name, err, c.want)
			}
		})
	}
}

func TestSecondTokenMayBeAwayAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := ecKey(t, elliptic.P256())
		twin := *key
		first, second := newFake(t, key), newFake(t, &twin)
		second.set(func() { second.away = true })
		k := first.key(t, first.token(t, TokenConfig{Name: "first"}), second.token(t, TokenConfig{Name: "second"}))
		second.set(func() { second.away = false })
		time.Sleep(5 * time.Second)
		first.set(func() { first.away = true })
		if err := signWithin(k, time.Second); err != nil {
			t.Errorf("Sign with the first token away and the second back = %v", err)
		}
	})
}

// In one library, a token that is away must not end the other's sessions all the
// time.
func TestTwinInOneLibraryIsDisturbedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		m := newModule("/fake.so", f)
		m.refs = 2
		open := func(serial string) *Token {
			token, err := openToken(context.Background(), TokenConfig{Name: serial, Serial: serial, PINFile: pinFile(t, softPIN)}, m)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = token.Close(context.Background()) })
			return token
		}
		k := f.key(t, open("0001"))
		open("gone")
		for range 600 { // a minute
			if err := signWithin(k, 4*time.Second); err != nil {
				t.Errorf("Sign while the twin is away = %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.made("Finalize"); got == 0 || got > 2 {
			t.Errorf("in a minute the library was initialised anew %d times, want 1 or 2", got)
		}
	})
}
