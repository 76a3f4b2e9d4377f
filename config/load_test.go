package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// now is when the tests take place.
var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// exact compares unexported fields too; netip.Prefix has nothing else.
var exact = cmp.Exporter(func(reflect.Type) bool { return true })

const examples = "../deploy/examples/file-ca"

// minimal is the smallest configuration that loads, one key to a line.
const minimal = `listen:
  plaintext: true
public_url: https://ca.corp.example
state: state
issuers:
  - name: kc
    url: https://kc.corp.example
    audiences: [sigstore]
    allow: all
    san: email
    may_issue:
      email_domains: [corp.example]
chains:
  - name: corp
    certificates: corp.pem
    key: {file: corp.key}
logs: disabled
`

// write puts text into a file of a new directory.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mayfly.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t testing.TB, path string, flags *pflag.FlagSet) *File {
	t.Helper()
	f, err := load(path, flags, now)
	if err != nil {
		t.Fatalf("load(%s): got error\n%v", path, err)
	}
	return f
}

func TestLoadReadsTheExamples(t *testing.T) {
	full := mustLoad(t, filepath.Join(examples, "mayfly.yaml"), nil)
	small := mustLoad(t, filepath.Join(examples, "minimal.yaml"), nil)

	// What the commented example writes out as defaults must be the defaults;
	// those that a preset may change are the ones without a preset.
	want := small.Config
	want.Metrics = "127.0.0.1:9090"
	want.Chains[0].Activate = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	want.Issuers[0].Accept = AcceptIDToken
	want.Issuers[0].Algorithms = []string{"RS256"}
	want.Issuers[0].MaxTokenAge, want.Issuers[0].MaxTokenLifetime = time.Hour, day
	want.Logs.List[0].Embedded.CheckpointRecord = "/srv/other-disk/mayfly-checkpoint"
	if diff := cmp.Diff(want, full.Config, exact); diff != "" {
		t.Errorf("mayfly.yaml differs from minimal.yaml with defaults (-minimal +full):\n%s", diff)
	}
}

func TestLoadMakesPathsAbsolute(t *testing.T) {
	path := write(t, minimal)
	c := mustLoad(t, path, nil).Config
	dir := filepath.Dir(path)
	for _, tt := range []struct{ key, got, want string }{
		{"state", c.State, filepath.Join(dir, "state")},
		{"chains[0].certificates", c.Chains[0].Certificates, filepath.Join(dir, "corp.pem")},
		{"chains[0].key.file", c.Chains[0].Key.File, filepath.Join(dir, "corp.key")},
		{"listen.tls.key", c.Listen.TLS.Key, ""},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.key, tt.got, tt.want)
		}
	}
}

func TestLoadNamesTheMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent.yaml")
	_, err := Load(path, nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("Load(%s): got error %v, want one that is fs.ErrNotExist, names the path and says --config", path, err)
	}
	if _, err := Load("", nil); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf(`Load(""): got error %v, want one that says --config`, err)
	}
}

func TestParseReadsWhatLoadReads(t *testing.T) {
	path := write(t, minimal)
	loaded := mustLoad(t, path, nil)
	parsed, err := Parse(path, []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(loaded.Config, parsed.Config, exact); diff != "" || parsed.Path != path || parsed.Digest != loaded.Digest {
		t.Errorf("got another configuration at %s, want that at %s (-loaded +parsed):\n%s", parsed.Path, path, diff)
	}
	if _, err := Parse(path, []byte("state: 7\n")); err == nil || !strings.HasPrefix(err.Error(), path+":") {
		t.Errorf("got error %v, want problems in %s", err, path)
	}
}
