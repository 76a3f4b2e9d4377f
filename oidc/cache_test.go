package oidc

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// keep fetches the standard keys with a cache in dir and returns its file.
func keep(t *testing.T, dir string, is Issuer) string {
	t.Helper()
	inBubble(t, &memory{}, Config{Issuers: []Issuer{is}, CacheDir: dir}, func(t *testing.T, v *Verifier) {
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Fatalf("Verify: %v", err)
		}
	})
	files := must(filepath.Glob(filepath.Join(dir, "*")))
	if len(files) != 1 {
		t.Fatalf("files %v, want one", files)
	}
	return files[0]
}

func TestKeptKeysBridgeAnOutageAtStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	name := keep(t, dir, memoryIssuer())
	for path, want := range map[string]os.FileMode{dir: 0o700, name: 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, %v; want %v", path, st.Mode(), err, want)
		}
	}
	down := &memory{down: true}
	inBubble(t, down, Config{CacheDir: dir}, func(t *testing.T, v *Verifier) {
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("provider down at start, keys kept: %v", err)
		}
		st := v.Ready()[0]
		if !st.Ready || st.Stale || st.Err == "" || !st.FetchedAt.Equal(time.Now()) {
			t.Errorf("status is %+v, want ready with an error", st)
		}
		time.Sleep(time.Hour)
		id, err := v.Verify(t.Context(), tokenNow(t))
		if err != nil || !id.Token.StaleKeys {
			t.Errorf("an hour later: %+v, %v; want a token verified with stale keys", id.Token, err)
		}
		time.Sleep(23 * time.Hour)
		_, err = v.Verify(t.Context(), tokenNow(t))
		wantRefusal(t, "a day later", err, ca.KindUnavailable, ca.ReasonIdpKeysStale)
	})
	// The clock of a bubble starts at the same time each time: this one is a
	// day later than the file, and the next one before it.
	inBubble(t, down, Config{CacheDir: dir, Clock: func() time.Time { return time.Now().Add(24 * time.Hour) }}, func(t *testing.T, v *Verifier) {
		at := time.Now().Add(24 * time.Hour)
		claims := claimsNow().with("iat", at.Unix()).with("exp", at.Add(time.Minute).Unix())
		_, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), claims))
		wantRefusal(t, "keys kept for a day", err, ca.KindUnavailable, ca.ReasonIdpKeysMissing)
	})
	past := must(New(Config{Issuers: []Issuer{memoryIssuer()}, CacheDir: dir, Clock: func() time.Time { return time.Unix(0, 0) }}))
	if err := past.Load(); err == nil || !strings.Contains(err.Error(), "future") {
		t.Errorf("keys of the future: got %v, want an error that says so", err)
	}
}

func TestKeptKeysAreReplacedByFetchedOnes(t *testing.T) {
	dir := t.TempDir()
	name := keep(t, dir, memoryIssuer())
	old := must(os.ReadFile(name))
	m := &memory{keys: newKeys("new")}
	inBubble(t, m, Config{CacheDir: dir}, func(t *testing.T, v *Verifier) {
		if _, err := v.Verify(t.Context(), newKeyToken(t, "new")); err != nil {
			t.Errorf("new key: %v", err)
		}
		_, err := v.Verify(t.Context(), tokenNow(t))
		wantRefusal(t, "key withdrawn while we were away", err, ca.KindInvalid, ca.ReasonKeyUnknown)
	})
	if bytes.Equal(old, must(os.ReadFile(name))) {
		t.Error("the file still has the old keys")
	}
}

func TestLoadBeforeRun(t *testing.T) {
	dir := t.TempDir()
	keep(t, dir, memoryIssuer())
	synctest.Test(t, func(t *testing.T) {
		v := must(New(Config{Issuers: []Issuer{memoryIssuer()}, CacheDir: dir}))
		if err := v.Load(); err != nil {
			t.Fatalf("Load: %v", err)
		}
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("loaded, never run: %v", err)
		}
	})
	empty := must(New(Config{Issuers: []Issuer{memoryIssuer()}, CacheDir: t.TempDir()}))
	if err := empty.Load(); err != nil || empty.Ready()[0].Ready {
		t.Errorf("nothing kept: %v, %+v; want neither an error nor keys", err, empty.Ready()[0])
	}
}

func TestKeptKeysOfAnotherSourceArePassedOver(t *testing.T) {
	for name, change := range map[string]func(*Issuer){
		"key set URL":     func(is *Issuer) { is.JWKSURL = "https://mirror.example/keys" },
		"discovery query": func(is *Issuer) { is.DiscoveryQuery = "appid=abc" },
	} {
		dir := t.TempDir()
		keep(t, dir, memoryIssuer())
		is := memoryIssuer()
		change(&is)
		inBubble(t, &memory{down: true}, Config{Issuers: []Issuer{is}, CacheDir: dir}, func(_ *testing.T, v *Verifier) {
			if st := v.Ready()[0]; st.Ready {
				t.Errorf("%s: keys of another source are used: %+v", name, st)
			}
		})
	}
}

func TestDamagedKeptKeysAreNotUsed(t *testing.T) {
	edit := func(f func(map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, name string) {
			var c map[string]any
			if err := json.Unmarshal(must(os.ReadFile(name)), &c); err != nil {
				t.Fatal(err)
			}
			f(c)
			if err := os.WriteFile(name, must(json.Marshal(c)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	rewrite := func(f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, name string) {
			if err := os.WriteFile(name, f(must(os.ReadFile(name))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, damage := range map[string]func(*testing.T, string){
		"empty":           rewrite(func([]byte) []byte { return nil }),
		"torn":            rewrite(func(b []byte) []byte { return b[:len(b)/2] }),
		"twice":           rewrite(func(b []byte) []byte { return append(b, b...) }),
		"huge":            rewrite(func([]byte) []byte { return bytes.Repeat([]byte(" "), maxCacheBytes+1) }),
		"other version":   edit(func(c map[string]any) { c["version"] = 2 }),
		"younger":         edit(func(c map[string]any) { c["fetchedAt"] = "2000-01-01T00:00:01Z" }),
		"other keys":      edit(func(c map[string]any) { c["keys"] = newKeys("rsa") }),
		"other issuer":    edit(func(c map[string]any) { c["issuer"] = "https://other.example" }),
		"no checksum":     edit(func(c map[string]any) { delete(c, "checksum") }),
		"unknown member":  edit(func(c map[string]any) { c["more"] = 1 }),
		"writable by all": func(t *testing.T, name string) { succeed(t, os.Chmod(name, 0o666)) },
		"a directory":     func(t *testing.T, name string) { succeed(t, os.Remove(name)); succeed(t, os.Mkdir(name, 0o700)) },
		"a link": func(t *testing.T, name string) {
			succeed(t, os.Rename(name, name+".real"))
			succeed(t, os.Symlink(name+".real", name))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := keep(t, dir, memoryIssuer())
			damage(t, file)
			var log bytes.Buffer
			cfg := Config{CacheDir: dir, Logger: slog.New(slog.NewJSONHandler(&log, nil))}
			inBubble(t, &memory{down: true}, cfg, func(t *testing.T, v *Verifier) {
				if st := v.Ready()[0]; st.Ready {
					t.Errorf("damaged keys are used: %+v", st)
				}
			})
			if !strings.Contains(log.String(), "reading kept issuer keys failed") {
				t.Errorf("the log does not tell:\n%s", log.String())
			}
		})
	}
}

// A disk that takes nothing is no reason to do without the keys.
func TestKeysWorkWithoutADisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	succeed(t, os.WriteFile(file, nil, 0o600))
	var log bytes.Buffer
	cfg := Config{CacheDir: filepath.Join(file, "keys"), Logger: slog.New(slog.NewJSONHandler(&log, nil))}
	inBubble(t, &memory{}, cfg, func(t *testing.T, v *Verifier) {
		if _, err := v.Verify(t.Context(), tokenNow(t)); err != nil {
			t.Errorf("Verify: %v", err)
		}
	})
	if !strings.Contains(log.String(), "keeping issuer keys on disk failed") {
		t.Errorf("the log does not tell:\n%s", log.String())
	}
}

// A disk that takes no new file must not bring a withdrawn key back at the next
// start, nor cost us the keys when none was withdrawn.
func TestWithdrawnKeysAreNotKeptByADiskThatFails(t *testing.T) {
	for name, tc := range map[string]struct {
		keys string
		stay bool
	}{
		"same key":  {string(newKeys("k1")), true},
		"other key": {string(jwkSet(publicJWK(rsaKey1().Public()).with("kid", "k1"))), false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			is := memoryIssuer()
			first := must(New(Config{Issuers: []Issuer{is}, CacheDir: dir})).issuers[0]
			first.succeeded(must(parseKeySet(newKeys("k1"))), first.clock(), -1)
			file := first.cacheFile()
			if _, err := os.Stat(file); err != nil {
				t.Fatalf("nothing was kept: %v", err)
			}
			set := must(parseKeySet([]byte(tc.keys)))
			set.keys[0].raw = []byte("{") // cannot be written
			first.succeeded(set, first.clock(), -1)
			if _, err := os.Stat(file); (err == nil) != tc.stay {
				t.Errorf("the file of the old keys: %v, want it there: %v", err, tc.stay)
			}
		})
	}
}

func TestSecretsAreNotKept(t *testing.T) {
	dir := t.TempDir()
	m := &memory{keys: jwkSet(publicJWK(rsaKey1().Public()).with("kid", "rsa"), publicJWK(rsaKey2().Public()).with("kid", "x").with("d", "c2VjcmV0"))}
	inBubble(t, m, Config{CacheDir: dir}, func(*testing.T, *Verifier) {})
	name := must(filepath.Glob(filepath.Join(dir, "*")))[0]
	c, err := readCached(name)
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	if bytes.Contains(c.Keys, []byte("c2VjcmV0")) || !bytes.Contains(c.Keys, []byte(`"rsa"`)) {
		t.Errorf("kept %s, want the usable key only", c.Keys)
	}
}
