package stack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// softToken makes a token of SoftHSM with a key in it, and the part of a
// configuration that names both. Not for parallel tests.
func softToken(t *testing.T) (f *config.File, key config.Key, public crypto.PublicKey) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("softhsm2.conf", "directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "corp", "--so-pin", "24680246", "--pin", "13571357").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s\nis it installed? apt-get install -y softhsm2", err, out)
	}
	token := config.Token{
		Name: "hsm-a", Module: "/usr/lib/softhsm/libsofthsm2.so", Label: "corp", PINFile: write("pin", "13571357\n"), MaxSessions: 4,
	}
	made, err := pkcs11.Generate(t.Context(), TokenConfig(token), pkcs11.GenerateConfig{Object: "ca", Algorithm: "ecdsa-p256"})
	if err != nil {
		t.Fatal(err)
	}
	f = &config.File{Path: filepath.Join(dir, "mayfly.yaml"), Config: config.Config{Tokens: []config.Token{token}}}
	return f, config.Key{Tokens: []string{"hsm-a"}, Object: "ca"}, made.Key.Public
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
	rewrite("13571357\n", time.Minute)
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
	rewrite("13571357\n", 3*time.Minute)
	after := open(t, tokens, f, k, public)
	signs(t, after)
	closeKey(t, after)
}

func TestKeyThatCannotBeOpenedLeavesNoTokenOpen(t *testing.T) {
	f, k, public := softToken(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		key    config.Key
		public crypto.PublicKey
		words  string
	}{
		{"of another certificate", k, other.Public(), "is not the one of the certificate"},
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

func TestOpenKeyFindsThePublicKeyInTheToken(t *testing.T) {
	f, _, public := softToken(t)
	for _, k := range []config.Key{
		{Tokens: []string{"hsm-a"}, Object: "ca"}, {Tokens: []string{"hsm-a"}, URI: "pkcs11:object=ca;type=private"},
	} {
		key, err := OpenKey(t.Context(), f, "chains[0].key", k, nil)
		if err != nil {
			t.Fatalf("OpenKey(%+v): %v", k, err)
		}
		if !public.(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Errorf("OpenKey(%+v) has another public key than was made", k)
		}
		signs(t, key)
		closeKey(t, key)
	}
}

// readyKey is a key whose readiness a test sets.
type readyKey struct {
	hsm.Key
	ready func() error
	hangs func() bool
}

func (k readyKey) Ready() error { return k.ready() }
func (k readyKey) Hangs() bool  { return k.hangs() }

// While the other token of a pair signs, calls that hang are no reason to end.
func TestHangingCallsEndTheServiceOnceAKeyCannotSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		lost := errors.New("calls hang in its library")
		key := readyKey{ready: func() error {
			if time.Since(began) < time.Minute {
				return nil
			}
			return lost
		}, hangs: func() bool { return true }}
		s := &Stack{stuck: make(chan error, 1)}
		s.current.Store(&snapshot{plan: &plan{keys: []hsm.Key{key}}})
		hang := errors.New("all sessions are in calls that hang")
		s.hearOfStuck(hang)
		s.hearOfStuck(hang)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.watchTokens(ctx, cancel)
		if took := time.Since(began); took < time.Minute || took > time.Minute+stuckLook {
			t.Errorf("the service ended after %s, want a minute: when the key was lost", took)
		}
		if ctx.Err() == nil || !errors.Is(s.stuckErr, hang) || !errors.Is(s.stuckErr, lost) {
			t.Errorf("context %v, error %v; want an end for both reasons", ctx.Err(), s.stuckErr)
		}
	})
}

// Calls that hung came back; long after that the token is away, and comes back by
// itself. To end would be an outage: a start needs the token.
func TestTokenThatIsAwayAfterAHangEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := readyKey{ready: func() error { return errors.New("no token matches") }, hangs: func() bool { return false }}
		s := &Stack{stuck: make(chan error, 1)}
		s.current.Store(&snapshot{plan: &plan{keys: []hsm.Key{key, fileKey{}}}})
		s.hearOfStuck(errors.New("all sessions are in calls that hang"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		s.watchTokens(ctx, func() { t.Error("the service ended"); cancel() })
		if s.stuckErr != nil {
			t.Errorf("error %v, want none", s.stuckErr)
		}
	})
}

// fileKey is closed, and nothing can hang in it.
type fileKey struct{ hsm.Key }

func (fileKey) Ready() error { return errors.New("closed") }

func TestNoHangingCallsEndNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stack{stuck: make(chan error, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Hour, cancel)
		s.watchTokens(ctx, func() { t.Error("the service ended") })
		if s.stuckErr != nil {
			t.Errorf("error %v, want none", s.stuckErr)
		}
	})
}
