package pkcs11

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"
)

func TestTokenIsMatchedByEverythingSaid(t *testing.T) {
	for _, c := range []struct {
		name  string
		cfg   TokenConfig
		spoil func(f *fake)
		want  string // empty: it is found
	}{
		{"label", TokenConfig{Label: "mayfly"}, nil, ""},
		{"serial", TokenConfig{Serial: "0001"}, nil, ""},
		{"all four", TokenConfig{Label: "mayfly", Serial: "0001", Manufacturer: "Fake", Model: "F1"}, nil, ""},
		{"URI", TokenConfig{URI: "pkcs11:token=mayfly;serial=0001"}, nil, ""},
		{"two tokens", TokenConfig{Label: "mayfly"}, func(f *fake) { f.twin = true },
			"2 tokens match pkcs11:token=mayfly, say which is meant: pkcs11:model=F1;manufacturer=Fake;serial=0001;token=mayfly, pkcs11:model=F1"},
		{"nothing said", TokenConfig{}, nil, "nothing says which token"},
		{"both ways", TokenConfig{URI: "pkcs11:token=mayfly", Label: "mayfly"}, nil, "one or the other"},
		{"URI of a key", TokenConfig{URI: "pkcs11:token=mayfly;object=ca"}, nil, "says more than"},
		{"URI of a slot", TokenConfig{URI: "pkcs11:token=mayfly;slot-id=7"}, nil, "says more than"},
		{"URI with a PIN file", TokenConfig{URI: "pkcs11:token=mayfly?pin-source=/etc/pin"}, nil, "says more than"},
		{"empty URI", TokenConfig{URI: "pkcs11:"}, nil, "says nothing"},
		{"one session", TokenConfig{Label: "mayfly", MaxSessions: 1}, nil, "2 to 1024"},
		{"no user PIN", TokenConfig{Label: "mayfly"}, func(f *fake) { f.info.Flags &^= p11.CKF_USER_PIN_INITIALIZED }, "no user PIN yet"},
	} {
		f := newFake(t, ecKey(t, elliptic.P256()))
		if c.spoil != nil {
			c.spoil(f)
		}
		c.cfg.Name, c.cfg.PINFile = "fake", pinFile(t, softPIN)
		m := newModule("/fake.so", f)
		m.refs = 1
		token, err := openToken(t.Context(), c.cfg, m)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: opening the token: %v, want an error with %q", c.name, err, c.want)
		}
		if token != nil {
			if err := token.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}
}

// Uninitialised tokens and other labels are away, not mistakes, and listed.
func TestTokenThatDoesNotMatchIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()))
		token := f.token(t, TokenConfig{Label: "another"})
		err := token.Ready()
		if want := "no token matches pkcs11:token=another; the library shows pkcs11:model=F1;manufacturer=Fake;serial=0001;token=mayfly"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Ready() = %v, want an error with %q", err, want)
		}
		if n := f.made("Login"); n != 0 {
			t.Errorf("%d logins to a token that is not meant", n)
		}
		f.set(func() { f.info.Label = "another" })
		time.Sleep(5 * time.Second)
		if err := token.Ready(); err != nil {
			t.Error(err)
		}
	})
}

func TestNewKeyRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(f *fake, cfg *KeyConfig)
		want  string // empty: it is accepted
	}{
		{"nothing wrong", func(*fake, *KeyConfig) {}, ""},
		{"label only", func(_ *fake, cfg *KeyConfig) { cfg.ID = nil }, ""},
		{"id only", func(_ *fake, cfg *KeyConfig) { cfg.Object = "" }, ""},
		{"no public object", func(f *fake, _ *KeyConfig) { f.keys[0].public = false }, ""},
		{"raw EC point", func(f *fake, _ *KeyConfig) { f.keys[0].rawPoint = true }, ""},
		{"always authenticate", func(f *fake, _ *KeyConfig) { f.keys[0].attributes[p11.CKA_ALWAYS_AUTHENTICATE] = yes }, ""},
		{"extractable by leave", func(f *fake, cfg *KeyConfig) {
			f.keys[0].attributes[p11.CKA_EXTRACTABLE], f.keys[0].attributes[p11.CKA_SENSITIVE] = yes, no
			cfg.AllowExtractable = true
		}, ""},
		{"a session lost meanwhile", func(f *fake, _ *KeyConfig) { f.failing("FindObjects", p11.CKR_SESSION_CLOSED, 1) }, ""},
		{"no name of the key", func(_ *fake, cfg *KeyConfig) { cfg.Object, cfg.ID = "", nil }, "neither its label nor its id"},
		{"no public key", func(_ *fake, cfg *KeyConfig) { cfg.Public = nil }, "no public key given"},
		{"curve", func(_ *fake, cfg *KeyConfig) { cfg.Public = ecKey(t, elliptic.P521()).private.Public() }, "P-521"},
		{"absent", func(_ *fake, cfg *KeyConfig) { cfg.Object = "other" },
			"holds no such private key: wanted pkcs11:id=%01;object=other;type=private, it shows pkcs11:id=%01;object=ca;type=private"},
		{"two", func(f *fake, cfg *KeyConfig) {
			cfg.ID = nil
			f.keys = append(f.keys, &fakeKey{label: "ca", id: []byte{2}, private: f.keys[0].private, attributes: sound()})
		}, "2 private keys match pkcs11:object=ca;type=private, say which is meant: pkcs11:id=%01;object=ca;type=private, pkcs11:id=%02;object=ca;type=private"},
		{"another public key", func(_ *fake, cfg *KeyConfig) { cfg.Public = ecKey(t, elliptic.P256()).private.Public() }, "not the one of the certificate"},
		{"another private key", func(f *fake, cfg *KeyConfig) {
			f.keys[0].public = false
			cfg.Public = ecKey(t, elliptic.P256()).private.Public()
		}, "test signature: it does not verify"},
		{"not for signing", func(f *fake, _ *KeyConfig) { f.keys[0].attributes[p11.CKA_SIGN] = no }, "not for signing"},
		{"extractable", func(f *fake, _ *KeyConfig) { f.keys[0].attributes[p11.CKA_EXTRACTABLE] = yes }, "can be extracted"},
		{"extractability unknown", func(f *fake, _ *KeyConfig) { delete(f.keys[0].attributes, p11.CKA_EXTRACTABLE) }, "can be extracted"},
		{"not sensitive", func(f *fake, _ *KeyConfig) { f.keys[0].attributes[p11.CKA_SENSITIVE] = no }, "not sensitive"},
		{"mechanism unknown", func(f *fake, _ *KeyConfig) { f.failing("SignInit", p11.CKR_MECHANISM_INVALID, 1) }, "CKR_MECHANISM_INVALID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t, ecKey(t, elliptic.P256()))
				token := f.token(t, TokenConfig{})
				cfg := f.config()
				c.spoil(f, &cfg)
				k, err := NewKey(t.Context(), []*Token{token}, cfg)
				if c.want != "" {
					if err == nil || !strings.Contains(err.Error(), c.want) {
						t.Errorf("NewKey = %v, want an error with %q", err, c.want)
					}
					if f.made("Login") != 1 || len(token.refs) != 0 {
						t.Errorf("after a refused key there were %d logins and %d keys are looked for, want 1 and 0", f.made("Login"), len(token.refs))
					}
					return
				}
				if err != nil {
					t.Fatalf("NewKey = %v", err)
				}
				if err := signWithin(k, time.Second); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A key of one entry that is gone must not keep another from signing.
func TestOneMissingKeyLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()))
		f.keys[1].label, f.keys[1].id = "log", []byte{2}
		token := f.token(t, TokenConfig{})
		first := f.key(t, token)
		second, err := NewKey(t.Context(), []*Token{token}, KeyConfig{Name: "log", Object: "log", Public: f.keys[1].private.Public()})
		if err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.keys[1].absent = true })
		f.reset()
		if err := signWithin(first, 3*time.Second); err != nil {
			t.Errorf("the key that is there: %v", err)
		}
		if signWithin(second, 3*time.Second) == nil || second.Ready() == nil {
			t.Error("the key that is gone signs or is ready")
		}
		if err := first.Ready(); err != nil {
			t.Error(err)
		}
		f.set(func() { f.keys[1].absent = false })
		time.Sleep(checkEvery + time.Second)
		if err := signWithin(second, time.Second); err != nil {
			t.Errorf("the key that is back: %v", err)
		}
	})
}

func TestRSAKeyOfTheFake(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t, &fakeKey{label: "ca", id: []byte{1}, private: key, public: true, attributes: sound()})
	k := f.key(t, f.token(t, TokenConfig{}))
	for _, bend := range []func([]byte) []byte{
		nil,
		func(raw []byte) []byte { raw[100] ^= 1; return raw },
		func(raw []byte) []byte { return raw[1:] },
		func(raw []byte) []byte { return append([]byte{0}, raw...) },
		func([]byte) []byte { return nil },
	} {
		f.set(func() { f.bend = bend })
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		sig, err := k.Sign(ctx, message[:], crypto.SHA256)
		cancel()
		if (err == nil) != (bend == nil) || (sig == nil) == (bend == nil) {
			t.Errorf("Sign with a bent signature: %v = %x, %v", bend != nil, sig, err)
		}
	}
}

func TestModuleOfOthersIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the owner of libraries can only be tested by root: run the tests with sudo")
	}
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib.so")
	good := func() {
		t.Helper()
		for _, err := range []error{os.WriteFile(lib, []byte("no library"), 0o644), os.Chmod(lib, 0o644), os.Chown(lib, 0, 0), os.Chmod(dir, 0o755), os.Chown(dir, 0, 0)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	link := filepath.Join(t.TempDir(), "link.so")
	if err := os.Symlink(lib, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path, want string
		spoil            func() error
	}{
		{"good", lib, "not a shared library", nil},
		{"link to a good one", link, "not a shared library", nil},
		{"relative", "lib.so", "absolute path", nil},
		{"name only", "libsofthsm2.so", "absolute path", nil},
		{"missing", lib + ".1", "no such file", nil},
		{"directory", dir, "not a regular file", nil},
		{"owner", lib, "belongs to user 1000: run chown root", func() error { return os.Chown(lib, 1000, 0) }},
		{"group writes", lib, "mode 0664): run chmod go-w", func() error { return os.Chmod(lib, 0o664) }},
		{"world writes", link, "run chmod go-w " + lib, func() error { return os.Chmod(lib, 0o646) }},
		{"owner of the directory", lib, "belongs to user 1000", func() error { return os.Chown(dir, 1000, 0) }},
		{"group writes the directory", lib, "run chmod go-w " + dir, func() error { return os.Chmod(dir, 0o775) }},
		{"sticky directory", lib, "not a shared library", func() error { return os.Chmod(dir, 0o777|os.ModeSticky) }},
	} {
		good()
		if c.spoil != nil {
			if err := c.spoil(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := openModule(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: openModule(%s) = %v, want an error with %q", c.name, c.path, err, c.want)
		}
	}
}
