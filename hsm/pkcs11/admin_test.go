package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// station is a SoftHSM token as an administrator finds it, with a library in
// between that may lie.
type station struct {
	config TokenConfig
	lib    *liar
}

const stationPIN = "1357902468"

// newStation makes a token in a directory of its own. Not for parallel tests:
// SoftHSM has one configuration per process.
func newStation(t *testing.T) *station {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	text := "directories.tokendir = " + dir + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	path, err := checkModule(softModule)
	if err != nil {
		t.Fatalf("%v; run: apt-get install -y softhsm2", err)
	}
	ctx := p11.New(path)
	if ctx == nil {
		t.Fatalf("%s does not load", path)
	}
	initialise(t, ctx)
	lib := &liar{api: ctx, logins: make(map[string]int)}
	registry.Lock()
	before := registry.modules[path]
	m := newModule(path, lib)
	registry.modules[path] = m
	registry.Unlock()
	t.Cleanup(func() {
		// What was left in the library ends before the next test begins.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.alone(ctx, func() bool { return !m.initialised }, m.finalise); err != nil {
			t.Errorf("finalising: %v", err)
		}
		registry.Lock()
		defer registry.Unlock()
		delete(registry.modules, path)
		if before != nil {
			registry.modules[path] = before
		}
	})
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte(stationPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &station{config: TokenConfig{Name: "hsm", Module: softModule, Label: "ceremony", PINFile: pin}, lib: lib}
}

// initialise makes the token, and leaves the library as it found it.
func initialise(t *testing.T, ctx *p11.Ctx) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(ctx.Initialize())
	slots, err := ctx.GetSlotList(true)
	must(err)
	must(ctx.InitToken(slots[0], "so-pin-of-test", "ceremony"))
	slots, err = ctx.GetSlotList(true)
	must(err)
	session, err := ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	must(err)
	must(ctx.Login(session, p11.CKU_SO, "so-pin-of-test"))
	must(ctx.InitPIN(session, stationPIN))
	must(ctx.Finalize())
}

// liar is SoftHSM, except where it is told otherwise.
type liar struct {
	api
	tokenFlags   uint // added to those of the token
	withoutFlags uint // taken from those of the token
	attributes   map[uint]bool
	generate     func(private []*p11.Attribute) error
	openSession  func() error

	// mu guards what follows: how often what was called.
	mu        sync.Mutex
	logins    map[string]int
	generated int
}

func (l *liar) GetTokenInfo(slot uint) (p11.TokenInfo, error) {
	i, err := l.api.GetTokenInfo(slot)
	if i.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
		i.Flags = i.Flags&^l.withoutFlags | l.tokenFlags
	}
	return i, err
}

func (l *liar) Login(s p11.SessionHandle, user uint, pin string) error {
	l.mu.Lock()
	l.logins[pin]++
	l.mu.Unlock()
	return l.api.Login(s, user, pin)
}

func (l *liar) allLogins() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.logins {
		n += times
	}
	return n
}

func (l *liar) OpenSession(slot, flags uint) (p11.SessionHandle, error) {
	if l.openSession != nil {
		if err := l.openSession(); err != nil {
			return 0, err
		}
	}
	return l.api.OpenSession(slot, flags)
}

func (l *liar) GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error) {
	l.mu.Lock()
	l.generated++
	l.mu.Unlock()
	if l.generate != nil {
		if err := l.generate(private); err != nil {
			return 0, 0, err
		}
	}
	return l.api.GenerateKeyPair(s, m, public, private)
}

func (l *liar) GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, a []*p11.Attribute) ([]*p11.Attribute, error) {
	got, err := l.api.GetAttributeValue(s, o, a)
	for _, g := range got {
		if v, told := l.attributes[g.Type]; told && len(g.Value) == 1 {
			g.Value = p11.NewAttribute(g.Type, v).Value
		}
	}
	return got, err
}

func (s *station) make(t *testing.T, g GenerateConfig) *Generated {
	t.Helper()
	made, err := Generate(t.Context(), s.config, g)
	if err != nil {
		t.Fatalf("Generate(%+v): %v", g, err)
	}
	return made
}

// keys lists what is in the token.
func (s *station) keys(t *testing.T) []Object {
	t.Helper()
	_, all, err := ListKeys(t.Context(), s.config)
	if err != nil {
		t.Fatalf("ListKeys: %v", err)
	}
	return all
}

func (s *station) examine(t *testing.T, keys ...KeyConfig) []Finding {
	t.Helper()
	all, err := s.examination(t.Context(), keys...)
	if err != nil {
		t.Fatalf("Doctor: %v", err)
	}
	return all
}

func (s *station) examination(ctx context.Context, keys ...KeyConfig) (all []Finding, err error) {
	err = Doctor(ctx, DoctorConfig{
		Token: s.config, Keys: keys, Throughput: 20 * time.Millisecond, Report: func(f Finding) { all = append(all, f) },
	})
	return all, err
}

// wantFinding demands one finding of a level whose text holds some words.
func wantFinding(t *testing.T, all []Finding, level Level, words string) {
	t.Helper()
	for _, f := range all {
		if f.Level == level && strings.Contains(f.Text, words) {
			if f.Level > OK && f.Do == "" {
				t.Errorf("finding %q says not what to do", f.Text)
			}
			return
		}
	}
	t.Errorf("no %v with %q among:\n%s", level, words, findingsText(all))
}

func wantNoProblem(t *testing.T, all []Finding) {
	t.Helper()
	for _, f := range all {
		if f.Level == Problem {
			t.Errorf("problem %s: %s", f.Check, f.Text)
		}
	}
}

func findingsText(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "  %v %s: %s\n", f.Level, f.Check, f.Text)
	}
	return b.String()
}

func TestGenerateMakesEveryKindOfKeyForSigningOnly(t *testing.T) {
	s := newStation(t)
	for _, algorithm := range Algorithms {
		t.Run(algorithm, func(t *testing.T) {
			made := s.make(t, GenerateConfig{Object: "ca " + algorithm, Algorithm: algorithm})
			if made.Key.Algorithm != algorithm || len(made.Key.ID) != 20 || len(made.Notes) > 0 || len(made.Signature) == 0 {
				t.Errorf("made %s with id %x, signature %x, notes %q; want %s, 20 bytes, some, none", made.Key.Algorithm, made.Key.ID, made.Signature, made.Notes, algorithm)
			}
			for name, want := range map[string]bool{
				"CKA_TOKEN": true, "CKA_PRIVATE": true, "CKA_SENSITIVE": true, "CKA_SIGN": true, "CKA_LOCAL": true,
				"CKA_ALWAYS_SENSITIVE": true, "CKA_NEVER_EXTRACTABLE": true,
				"CKA_EXTRACTABLE": false, "CKA_DECRYPT": false, "CKA_UNWRAP": false, "CKA_DERIVE": false, "CKA_MODIFIABLE": false,
			} {
				if f := made.Key.Flag(name); !f.Known || f.Value != want {
					t.Errorf("%s = %v, want %v", name, f, want)
				}
			}
			found, err := FindObject(t.Context(), s.config, KeyConfig{Name: "ca", Object: "ca " + algorithm})
			if err != nil || found.Fingerprint() != made.Key.Fingerprint() || found.URI != made.Key.URI {
				t.Errorf("FindObject = %s, sha256 %s, error %v; want %s, sha256 %s", found.URI, found.Fingerprint(), err, made.Key.URI, made.Key.Fingerprint())
			}
		})
	}
	if n := len(s.keys(t)); n != len(Algorithms) {
		t.Errorf("the token holds %d keys, want %d", n, len(Algorithms))
	}
}

func TestGenerateRefusesNamesInUse(t *testing.T) {
	s := newStation(t)
	first := s.make(t, GenerateConfig{Object: "corp", ID: []byte{1, 2}, Algorithm: "ecdsa-p256"})
	for _, g := range []GenerateConfig{
		{Object: "corp", Algorithm: "ecdsa-p256"},
		{Object: "corp-2", ID: first.Key.ID, Algorithm: "ecdsa-p256"},
	} {
		made, err := Generate(t.Context(), s.config, g)
		if err == nil || made != nil || !strings.Contains(err.Error(), "already holds") {
			t.Errorf("Generate(%+v) = %v, %v; want nothing and that the name is in use", g, made, err)
		}
	}
	if s.lib.generated != 1 {
		t.Errorf("C_GenerateKeyPair was called %d times, want 1", s.lib.generated)
	}
	if all := s.keys(t); len(all) != 1 || all[0].Fingerprint() != first.Key.Fingerprint() {
		t.Errorf("the token holds %d keys, want the first alone", len(all))
	}
}

func TestGenerateRefusesBeforeTheTokenIsTouched(t *testing.T) {
	s := newStation(t)
	for _, g := range []GenerateConfig{
		{}, {Object: "a\nb"}, {Object: strings.Repeat("x", 65)}, {Object: "a", Algorithm: "ed25519"}, {Object: "a", ID: make([]byte, 65)},
	} {
		if _, err := Generate(t.Context(), s.config, g); err == nil {
			t.Errorf("Generate(%+v) made a key", g)
		}
	}
	if n := s.lib.allLogins(); n != 0 {
		t.Errorf("%d logins, want none", n)
	}
}

// There are tokens that take a template and do as they like.
func TestGenerateFailsWhenTheTokenIgnoredTheTemplate(t *testing.T) {
	for name, lie := range map[string]map[uint]bool{
		"extractable":            {p11.CKA_EXTRACTABLE: true},
		"not sensitive":          {p11.CKA_SENSITIVE: false},
		"decrypts":               {p11.CKA_DECRYPT: true},
		"was not made inside":    {p11.CKA_LOCAL: false},
		"was once extractable":   {p11.CKA_NEVER_EXTRACTABLE: false},
		"is gone after the call": {p11.CKA_TOKEN: false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStation(t)
			s.lib.attributes = lie
			made, err := Generate(t.Context(), s.config, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
			if err == nil || !strings.Contains(err.Error(), "did not make the key as asked") {
				t.Errorf("Generate with a token that made it %s: %v", name, err)
			}
			if made == nil || len(made.Attributes) == 0 || made.Signature != nil {
				t.Errorf("made = %+v; want what was read back, and no signature", made)
			}
			if n := len(s.keys(t)); n != 1 {
				t.Errorf("the token holds %d keys; the one that it made must stay", n)
			}
		})
	}
}

func TestGenerateDoesWithoutModifiable(t *testing.T) {
	s := newStation(t)
	s.lib.generate = func(private []*p11.Attribute) error {
		for _, a := range private {
			if a.Type == p11.CKA_MODIFIABLE {
				return p11.Error(p11.CKR_TEMPLATE_INCONSISTENT)
			}
		}
		return nil
	}
	made := s.make(t, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
	if s.lib.generated != 2 || len(made.Notes) == 0 || !strings.Contains(made.Notes[0], "CKA_MODIFIABLE") {
		t.Errorf("%d calls, notes %q; want 2, and a note about CKA_MODIFIABLE", s.lib.generated, made.Notes)
	}
}

// An error that says nothing may have left a key behind.
func TestGenerateTriesNothingTwice(t *testing.T) {
	s := newStation(t)
	s.lib.generate = func([]*p11.Attribute) error { return p11.Error(p11.CKR_DEVICE_ERROR) }
	if _, err := Generate(t.Context(), s.config, GenerateConfig{Object: "corp"}); !errors.Is(err, p11.Error(p11.CKR_DEVICE_ERROR)) {
		t.Errorf("Generate = %v, want CKR_DEVICE_ERROR", err)
	}
	if s.lib.generated != 1 {
		t.Errorf("C_GenerateKeyPair was called %d times, want 1", s.lib.generated)
	}
}

// Whoever gave up waiting must not believe that nothing was made.
func TestGenerateSaysThatAKeyMayComeLate(t *testing.T) {
	s := newStation(t)
	hang := make(chan struct{})
	s.lib.generate = func([]*p11.Attribute) error { <-hang; return nil }
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	made, err := Generate(ctx, s.config, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
	if made != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "may make it all the same") {
		t.Errorf("Generate = %v, %v; want nothing, and that the key may be made yet", made, err)
	}
	close(hang)
}

func TestListNamesEveryToken(t *testing.T) {
	s := newStation(t)
	library, entries, err := List(t.Context(), s.config.Module)
	if err != nil || len(library.SHA256) != 64 || library.Cryptoki == "" {
		t.Fatalf("List = %+v, %v", library, err)
	}
	// SoftHSM always has an empty slot for the next token.
	if len(entries) != 2 || entries[0].Label != "ceremony" || !entries[0].Initialized || entries[1].Initialized {
		t.Errorf("entries = %+v; want the token, and one that is not initialised", entries)
	}
	again := s.config
	again.Label, again.URI = "", entries[0].URI
	if _, _, err := ListKeys(t.Context(), again); err != nil {
		t.Errorf("logging in by the URI that List printed, %s: %v", again.URI, err)
	}
	if s.lib.allLogins() != 1 {
		t.Errorf("%d logins, want the one of ListKeys", s.lib.allLogins())
	}
}

// What cannot be called cannot delete: the seam to the library has nothing that
// destroys, overwrites or initialises.
func TestNothingInTheSeamDestroys(t *testing.T) {
	for _, forbidden := range []string{"DestroyObject", "SetAttributeValue", "InitToken", "InitPIN", "SetPIN"} {
		sources, err := filepath.Glob("*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range sources {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(text), "."+forbidden+"(") {
				t.Errorf("%s calls %s", file, forbidden)
			}
		}
	}
}

// Two people make the key of the same chain at the same moment, each finding the
// name free: both keys would match, and the service would start with neither.
func TestGenerateNoticesATwinMadeAtTheSameTime(t *testing.T) {
	s := newStation(t)
	var first *Generated
	s.lib.generate = func([]*p11.Attribute) error {
		s.lib.generate = nil
		first = s.make(t, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
		return nil
	}
	made, err := Generate(t.Context(), s.config, GenerateConfig{Object: "corp", Algorithm: "ecdsa-p256"})
	if err == nil || !strings.Contains(err.Error(), "made at the same time") {
		t.Errorf("the second of two keys with one name: %v, want that another was made at the same time", err)
	}
	if made == nil || first == nil || made.Key.Fingerprint() == first.Key.Fingerprint() {
		t.Errorf("made %+v beside %+v, want another key, for the minutes", made, first)
	}
	if n := len(s.keys(t)); n != 2 {
		t.Errorf("the token holds %d keys, want both", n)
	}
}
