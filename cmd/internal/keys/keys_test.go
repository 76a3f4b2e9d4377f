package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// softToken makes a token of SoftHSM with a key in it, and the part of a
// configuration that names both. Not for parallel tests.
func softToken(t *testing.T) (f *config.File, key config.Key, public crypto.PublicKey) {
	t.Helper()
	soft := faultmodule.NewSoftHSM(t)
	soft.Token("corp")
	t.Setenv("SOFTHSM2_CONF", soft.Conf)
	private := newKey(t)
	soft.Import("corp", "ca", "01", private)
	token := tokenAt(t, soft.Library)
	f = &config.File{Path: filepath.Join(t.TempDir(), "mayfly.yaml"), Config: config.Config{Tokens: []config.Token{token}}}
	return f, config.Key{Tokens: []string{"hsm-a"}, Object: "ca"}, private.Public()
}

// tokenAt is the entry of the token corp behind a library.
func tokenAt(t *testing.T, library string) config.Token {
	t.Helper()
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(faultmodule.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Token{Name: "hsm-a", Module: library, Label: "corp", PINFile: pin, MaxSessions: 4}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signs(t *testing.T, k hsm.Key) {
	t.Helper()
	digest := sha256.Sum256([]byte("to be signed"))
	sig, err := k.Sign(t.Context(), digest[:], crypto.SHA256)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("signature %x does not verify", sig)
	}
}

// logins is how often a token was logged in to.
func logins(t *testing.T, r *prometheus.Registry) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "mayfly_hsm_logins_total" {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func open(t *testing.T, tokens *Tokens, f *config.File, k config.Key, public crypto.PublicKey) hsm.Key {
	t.Helper()
	key, err := tokens.Key(t.Context(), f, "chains[0].key", k, public)
	if err != nil {
		t.Fatalf("Key(%+v): %v", k, err)
	}
	return key
}

func closeKey(t *testing.T, k hsm.Key) {
	t.Helper()
	if err := k.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// A reload opens the keys of the next configuration before those of the one
// before are closed.
func TestKeysOfTwoConfigurationsShareALogin(t *testing.T) {
	f, k, public := softToken(t)
	registry := prometheus.NewRegistry()
	tokens := &Tokens{Registerer: registry}
	before := open(t, tokens, f, k, public)
	signs(t, before)
	after := open(t, tokens, f, k, public)
	closeKey(t, before)
	signs(t, after)
	if n := logins(t, registry); n != 1 {
		t.Errorf("%v logins for two keys, want 1", n)
	}
	closeKey(t, after)
	closeKey(t, after)
	if len(tokens.open) != 0 {
		t.Errorf("%d tokens are open after the last key was closed, want none", len(tokens.open))
	}
	if err := after.Ready(); err == nil {
		t.Error("a closed key is ready")
	}
}

// A token that refused its PIN tries none by itself, and no reload makes it,
// unless the file has changed.
func TestTokenThatRefusedItsPINIsOpenedAnewWithANewFile(t *testing.T) {
	f, k, public := softToken(t)
	good := f.Tokens[0].PINFile
	registry := prometheus.NewRegistry()
	tokens := &Tokens{Registerer: registry}
	rewrite := func(text string, after time.Duration) {
		t.Helper()
		if err := os.WriteFile(good, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(after)
		if err := os.Chtimes(good, at, at); err != nil {
			t.Fatal(err)
		}
	}
	before := open(t, tokens, f, k, public)
	rewrite(faultmodule.PIN+"\n", time.Minute)
	ready := open(t, tokens, f, k, public)
	if n := logins(t, registry); n != 1 || len(tokens.open) != 1 {
		t.Errorf("%v logins and %d tokens after the file of a ready token was written again, want 1 and 1", n, len(tokens.open))
	}
	closeKey(t, ready)
	closeKey(t, before)

	rewrite("00000000\n", 2*time.Minute)
	if key, err := tokens.Key(t.Context(), f, "chains[0].key", k, public); err == nil {
		t.Errorf("a wrong PIN opened %v", key)
	}
	rewrite(faultmodule.PIN+"\n", 3*time.Minute)
	after := open(t, tokens, f, k, public)
	signs(t, after)
	closeKey(t, after)
}

func TestKeyThatCannotBeOpenedLeavesNoTokenOpen(t *testing.T) {
	f, k, public := softToken(t)
	for _, c := range []struct {
		name   string
		key    config.Key
		public crypto.PublicKey
		words  string
	}{
		{"of another certificate", k, newKey(t).Public(), "is not the one of the certificate"},
		{"without certificate", k, nil, "known by its certificate"},
		{"absent", config.Key{Tokens: k.Tokens, Object: "ca-2"}, public, "no such private key"},
		{"on a token that is not configured", config.Key{Tokens: []string{"hsm-a", "hsm-z"}, Object: "ca"}, public, `no token "hsm-z"`},
		{"by a URI of a certificate", config.Key{Tokens: k.Tokens, URI: "pkcs11:object=ca;type=cert"}, public, "type=private"},
		{"by a URI that also names a token", config.Key{Tokens: k.Tokens, URI: "pkcs11:token=other;object=ca"}, public, "the entry in tokens says"},
		{"by a URI that names no key", config.Key{Tokens: k.Tokens, URI: "pkcs11:type=private"}, public, "names no key"},
	} {
		tokens := &Tokens{}
		key, err := tokens.Key(t.Context(), f, "chains[0].key", c.key, c.public)
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("key %s: %v, %v; want an error with %q", c.name, key, err, c.words)
		}
		if len(tokens.open) != 0 {
			t.Errorf("key %s: %d tokens stay open", c.name, len(tokens.open))
		}
	}
}

func TestOpenFindsThePublicKeyInTheToken(t *testing.T) {
	f, _, public := softToken(t)
	for _, k := range []config.Key{
		{Tokens: []string{"hsm-a"}, Object: "ca"}, {Tokens: []string{"hsm-a"}, URI: "pkcs11:object=ca;type=private"},
	} {
		key, err := Open(t.Context(), f, "chains[0].key", k, nil)
		if err != nil {
			t.Fatalf("Open(%+v): %v", k, err)
		}
		if !public.(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Errorf("Open(%+v) has another public key than was made", k)
		}
		signs(t, key)
		closeKey(t, key)
	}
}
