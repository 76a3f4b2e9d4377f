package freeze_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/freeze"
)

func open(t *testing.T, path string) *freeze.List {
	t.Helper()
	l, err := freeze.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// request is one of alice with a key of her own.
func request(t *testing.T) ca.Request {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := ca.Identity{IssuerName: "keycloak", Subject: "f:1:alice", Email: "Alice@corp.example", EmailVerified: true}
	digest := sha256.Sum256([]byte(id.Subject))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	proven, err := ca.ProveSignature(spki, sig, id)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Request{Identity: id, Key: proven}
}

func allow(context.Context, ca.Request) (ca.Decision, error) {
	san, err := ca.EmailSAN("alice@corp.example")
	return ca.Decision{Rule: "all", SAN: san}, err
}

func TestGuardRefusesWhatIsFrozenAtOnce(t *testing.T) {
	r := request(t)
	spki := r.Key.SPKIHash()
	for _, tc := range []struct {
		name  string
		entry freeze.Entry
		hit   bool
	}{
		{"subject", freeze.Entry{Kind: freeze.Identity, Value: "f:1:alice"}, true},
		{"email in any case", freeze.Entry{Kind: freeze.Identity, Value: "ALICE@corp.example"}, true},
		{"at the issuer", freeze.Entry{Kind: freeze.Identity, Value: "alice@corp.example", Issuer: "keycloak"}, true},
		{"at another issuer", freeze.Entry{Kind: freeze.Identity, Value: "alice@corp.example", Issuer: "gitlab"}, false},
		{"somebody else", freeze.Entry{Kind: freeze.Identity, Value: "bob@corp.example"}, false},
		{"subject in another case", freeze.Entry{Kind: freeze.Identity, Value: "F:1:ALICE"}, false},
		{"issuer", freeze.Entry{Kind: freeze.Issuer, Value: "keycloak"}, true},
		{"other issuer", freeze.Entry{Kind: freeze.Issuer, Value: "gitlab"}, false},
		{"key", freeze.Entry{Kind: freeze.Key, Value: strings.ToUpper(hex.EncodeToString(spki[:]))}, true},
		{"other key", freeze.Entry{Kind: freeze.Key, Value: strings.Repeat("0a", 32)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "frozen.json")
			l := open(t, path)
			guard := l.Guard(allow)
			if _, err := guard(t.Context(), r); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := l.Freeze(tc.entry); err != nil {
				t.Fatal(err)
			}
			check := func(when string, guard ca.Policy) {
				_, err := guard(t.Context(), r)
				refusal, ok := errors.AsType[*ca.Refusal](err)
				if got := ok && refusal.Reason == ca.ReasonFrozen && refusal.Kind == ca.KindDenied; got != tc.hit {
					t.Errorf("%s: %v, want a refusal: %v", when, err, tc.hit)
				}
			}
			check("at once", guard)
			check("after a restart", open(t, path).Guard(allow))
			if err := l.Unfreeze(tc.entry); err != nil {
				t.Fatal(err)
			}
			if _, err := guard(t.Context(), r); err != nil {
				t.Errorf("thawed: %v", err)
			}
			if n := len(open(t, path).Entries()); n != 0 {
				t.Errorf("%d entries are left in the file", n)
			}
		})
	}
}

func TestGuardLetsPolicyRefuseFirst(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "frozen.json"))
	if err := l.Freeze(freeze.Entry{Kind: freeze.Issuer, Value: "keycloak"}); err != nil {
		t.Fatal(err)
	}
	denied := ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no rule")
	_, err := l.Guard(func(context.Context, ca.Request) (ca.Decision, error) { return ca.Decision{}, denied })(t.Context(), request(t))
	if !errors.Is(err, error(denied)) {
		t.Errorf("got %v, want policy's own refusal", err)
	}
}

func TestFreezeRefusesEntriesThatWouldFreezeNothing(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "frozen.json"))
	for name, e := range map[string]freeze.Entry{
		"no value":            {Kind: freeze.Identity},
		"no kind":             {Value: "alice"},
		"unknown kind":        {Kind: "group", Value: "x"},
		"key in base64":       {Kind: freeze.Key, Value: "abcd"},
		"issuer at an issuer": {Kind: freeze.Issuer, Value: "a", Issuer: "b"},
		"endless":             {Kind: freeze.Identity, Value: strings.Repeat("a", 1025)},
	} {
		if err := l.Freeze(e); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := l.Unfreeze(freeze.Entry{Kind: freeze.Identity, Value: "nobody"}); err == nil {
		t.Error("thawing what is not frozen looks like success")
	}
}

// What was copied from a mail or a terminal may hold more than one sees, and
// would be compared with names that never have it.
func TestFreezeRefusesWhatNobodySees(t *testing.T) {
	for _, value := range []string{" alice@corp.example", "alice@corp.example\n", "alice@corp.example\u200b", "\u202ealice@corp.example", "a\x00", "a\xff"} {
		for _, e := range []freeze.Entry{
			{Kind: freeze.Identity, Value: value},
			{Kind: freeze.Issuer, Value: value},
			{Kind: freeze.Identity, Value: "alice@corp.example", Issuer: value},
		} {
			l := open(t, filepath.Join(t.TempDir(), "frozen.json"))
			if err := l.Freeze(e); err == nil || len(l.Entries()) != 0 {
				t.Errorf("%s %q at issuer %q: got %v and %d entries, want an error and none", e.Kind, e.Value, e.Issuer, err, len(l.Entries()))
			}
		}
	}
}

func TestFreezingTwiceKeepsOneEntry(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "frozen.json"))
	for _, note := range []string{"first", "second"} {
		if err := l.Freeze(freeze.Entry{Kind: freeze.Issuer, Value: "keycloak", Note: note}); err != nil {
			t.Fatal(err)
		}
	}
	if e := l.Entries(); len(e) != 1 || e[0].Note != "second" || e[0].At.IsZero() {
		t.Errorf("entries %+v, want the second alone", e)
	}
}

func TestOpenRefusesADamagedList(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "frozen", "cut off": `[{"kind":"issuer","val`, "unknown member": `[{"kind":"issuer","value":"x","until":"2030"}]`,
		"unknown kind": `[{"kind":"group","value":"x"}]`, "two lists": "[][]", "empty file": "",
	} {
		path := filepath.Join(t.TempDir(), "frozen.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := freeze.Open(path, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, filepath.Join(dir, "frozen.json"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Freeze(freeze.Entry{Kind: freeze.Issuer, Value: "keycloak"}); err == nil || len(l.Entries()) != 0 {
		t.Errorf("got %v and %d entries, want an error and none: what is not on disk must not count", err, len(l.Entries()))
	}
}

// FuzzOpen: whatever the file holds, Open reads it or says why not, and what it
// reads can be written and read again.
func FuzzOpen(f *testing.F) {
	f.Add(`[{"kind":"issuer","value":"keycloak","at":"2026-11-22T09:00:00Z"}]`)
	f.Add(`[{"kind":"key","value":"` + strings.Repeat("AB", 32) + `"}]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "frozen.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := freeze.Open(path, nil)
		if err != nil {
			return
		}
		before := len(l.Entries())
		if err := l.Freeze(freeze.Entry{Kind: freeze.Key, Value: strings.Repeat("00", 32)}); err != nil {
			t.Fatal(err)
		}
		if after := len(open(t, path).Entries()); after < before || after > before+1 {
			t.Errorf("%d entries became %d", before, after)
		}
	})
}
