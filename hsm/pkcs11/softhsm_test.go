package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/hsmtest"
)

const (
	softModule = "/usr/lib/softhsm/libsofthsm2.so"
	softPIN    = "1234-user"
)

// softHSM is a directory of SoftHSM tokens of a test's own.
type softHSM struct {
	t   testing.TB
	dir string
}

// newSoftHSM points SoftHSM, which reads its configuration at C_Initialize, to an
// empty directory. Tests that use it must not run in parallel.
func newSoftHSM(t testing.TB) *softHSM {
	t.Helper()
	if _, err := os.Stat(softModule); err != nil {
		t.Fatalf("%v: run apt-get install -y softhsm2", err)
	}
	h := &softHSM{t, t.TempDir()}
	tokens := filepath.Join(h.dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(h.dir, "softhsm2.conf")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	return h
}

// inside calls do with the library initialised.
func (h *softHSM) inside(do func(a *p11.Ctx)) {
	h.t.Helper()
	m, err := openModule(softModule)
	if err != nil {
		h.t.Fatal(err)
	}
	epoch, err := m.current(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := m.enter(epoch); err != nil {
		h.t.Fatal(err)
	}
	do(m.api.(*p11.Ctx))
	m.leave()
	if err := m.release(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

// token makes a token and calls fill with a session of its user.
func (h *softHSM) token(label string, fill func(a *p11.Ctx, s p11.SessionHandle)) {
	h.t.Helper()
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	h.inside(func(a *p11.Ctx) {
		slots, err := a.GetSlotList(true)
		must(err)
		slot := slots[len(slots)-1] // the one that is not initialised
		must(a.InitToken(slot, "so-pin-1", label))
		all, err := tokensPresent(a)
		must(err)
		for _, p := range all {
			if trim(p.info.Label) == label {
				slot = p.slot
			}
		}
		s, err := a.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		must(err)
		must(a.Login(s, p11.CKU_SO, "so-pin-1"))
		must(a.InitPIN(s, softPIN))
		must(a.Logout(s))
		must(a.Login(s, p11.CKU_USER, softPIN))
		fill(a, s)
		must(a.CloseSession(s))
	})
}

// pinFile writes a PIN where only its owner reads it.
func pinFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// softKey is what a test generates.
type softKey struct {
	label string
	id    []byte
	// bits is the size of an RSA key, 256 and 384 are curves.
	bits int
	// private changes the private key's template.
	private []*p11.Attribute
	// hidden leaves no public key object with the same id.
	hidden bool
}

var curveOIDs = map[int][]byte{
	256: {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	384: {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22},
}

func (k softKey) generate(t testing.TB, a *p11.Ctx, s p11.SessionHandle) crypto.PublicKey {
	t.Helper()
	public := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, !k.hidden), p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_LABEL, k.label), p11.NewAttribute(p11.CKA_ID, k.id),
	}
	mech := uint(p11.CKM_RSA_PKCS_KEY_PAIR_GEN)
	if oid := curveOIDs[k.bits]; oid != nil {
		mech = p11.CKM_EC_KEY_PAIR_GEN
		public = append(public, p11.NewAttribute(p11.CKA_EC_PARAMS, oid))
	} else {
		public = append(public, p11.NewAttribute(p11.CKA_MODULUS_BITS, k.bits), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	}
	private := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_LABEL, k.label), p11.NewAttribute(p11.CKA_ID, k.id),
	}
	if len(k.private) == 0 {
		private = append(private, p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
	}
	pub, _, err := a.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(mech, nil)}, public, append(private, k.private...))
	if err != nil {
		t.Fatalf("generating %+v: %v", k, err)
	}
	key, err := readPublic(a, s, pub)
	if err != nil {
		t.Fatalf("reading the public key of %+v: %v", k, err)
	}
	return key
}

func randomID(t testing.TB) []byte {
	t.Helper()
	id := make([]byte, 20)
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	return id
}

func openSoft(t testing.TB, cfg TokenConfig) *Token {
	t.Helper()
	cfg.Name, cfg.Module = "soft", softModule
	if cfg.PINFile == "" {
		cfg.PINFile = pinFile(t, softPIN+"\n")
	}
	token, err := OpenToken(t.Context(), cfg)
	if err != nil {
		t.Fatalf("OpenToken: %v", err)
	}
	t.Cleanup(func() {
		if err := token.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return token
}

func TestSoftHSMKeysKeepTheirPromises(t *testing.T) {
	h := newSoftHSM(t)
	bits := map[hsmtest.Kind]int{hsmtest.P256: 256, hsmtest.P384: 384, hsmtest.RSA2048: 2048, hsmtest.RSA3072: 3072, hsmtest.RSA4096: 4096}
	publics := make(map[hsmtest.Kind]crypto.PublicKey)
	h.token("mayfly", func(a *p11.Ctx, s p11.SessionHandle) {
		for kind, n := range bits {
			publics[kind] = softKey{label: string(kind), id: randomID(t), bits: n}.generate(t, a, s)
		}
	})
	token := openSoft(t, TokenConfig{Label: "mayfly"})
	hsmtest.RunStack(t, hsmtest.Stack{NewKey: func(tb testing.TB, kind hsmtest.Kind) (hsm.Key, error) {
		tb.Helper()
		return NewKey(tb.Context(), []*Token{token}, KeyConfig{Name: string(kind), Object: string(kind), Public: publics[kind]})
	}})
}

func TestSoftHSMUnusualKeysKeepTheirPromises(t *testing.T) {
	h := newSoftHSM(t)
	keys := map[string]softKey{
		"WithoutPublicObject": {label: "hidden", id: randomID(t), bits: 256, hidden: true},
		"AlwaysAuthenticate": {label: "always", id: randomID(t), bits: 256, private: []*p11.Attribute{
			p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false), p11.NewAttribute(p11.CKA_ALWAYS_AUTHENTICATE, true)}},
		"Extractable": {label: "extractable", id: randomID(t), bits: 256, private: []*p11.Attribute{
			p11.NewAttribute(p11.CKA_SENSITIVE, false), p11.NewAttribute(p11.CKA_EXTRACTABLE, true)}},
	}
	publics := make(map[string]crypto.PublicKey)
	h.token("mayfly", func(a *p11.Ctx, s p11.SessionHandle) {
		for name, k := range keys {
			publics[name] = k.generate(t, a, s)
		}
	})
	token := openSoft(t, TokenConfig{Label: "mayfly"})
	for name, k := range keys {
		t.Run(name, func(t *testing.T) {
			cfg := KeyConfig{Name: name, Object: k.label, ID: k.id, Public: publics[name], AllowExtractable: name == "Extractable"}
			hsmtest.Run(t, func(tb testing.TB) hsm.Key {
				tb.Helper()
				key, err := NewKey(tb.Context(), []*Token{token}, cfg)
				if err != nil {
					tb.Fatalf("NewKey: %v", err)
				}
				return key
			})
		})
	}
	cfg := KeyConfig{Name: "extractable", Object: "extractable", Public: publics["Extractable"]}
	if _, err := NewKey(t.Context(), []*Token{token}, cfg); err == nil {
		t.Error("NewKey with an extractable key = nil, want a refusal")
	}
}
