package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// FuzzLoad holds that no file makes Load panic, that every refusal says where and
// what to do, and that a configuration written out again loads as the same one.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(strings.Replace(minimal, allowAll, ruled("name: a\n        when: |+\n          has(claims.a)\n\n\n        san: >-\n          uri(\"https://a/\",\n          'b')"), 1)))
	for _, name := range []string{"file-ca/mayfly.yaml", "file-ca/minimal.yaml", "keycloak/mayfly.yaml"} {
		text, err := os.ReadFile(filepath.Join(examples, "..", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const path = "/etc/mayfly/mayfly.yaml"
		first, err := parse(path, text, nil, now)
		if err != nil {
			ps, ok := errors.AsType[Problems](err)
			if !ok || len(ps) == 0 {
				t.Fatalf("got error %v (%T), want Problems, from:\n%q", err, err, text)
			}
			lines := 1 + strings.Count(string(text), "\n")
			for _, p := range ps {
				// A carriage return and some characters of Unicode end a YAML line too.
				if p.Line < 0 || (p.Line > lines && !strings.ContainsAny(string(text), "\r\u0085\u2028\u2029")) || p.Message == "" || p.File == "" {
					t.Errorf("got problem %+v in a file of %d lines:\n%q", p, lines, text)
				}
			}
			return
		}
		again, err := yaml.Marshal(first.Config)
		if err != nil {
			t.Fatalf("writing %+v: %v", first.Config, err)
		}
		second, err := parse(path, again, nil, now)
		if err != nil {
			t.Fatalf("loading again: %v, from:\n%s\nonce from:\n%q", err, again, text)
		}
		if diff := cmp.Diff(first.Config, second.Config, exact); diff != "" {
			t.Errorf("loaded again differs (-first +second):\n%s\nfrom:\n%s\nonce from:\n%q", diff, again, text)
		}
		if first.Digest != second.Digest {
			t.Errorf("loaded again has another digest, from:\n%s", again)
		}
	})
}
