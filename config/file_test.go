package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDigestIsOfTheEffectiveConfiguration(t *testing.T) {
	dir := t.TempDir()
	digest := func(text string) [32]byte {
		t.Helper()
		f, err := parse(filepath.Join(dir, "mayfly.yaml"), []byte(text), nil, now)
		if err != nil {
			t.Fatal(err)
		}
		return f.Digest
	}
	first := digest(minimal)
	for _, tt := range []struct {
		name, text string
		same       bool
	}{
		{"nothing changed", minimal, true},
		{"comment", "# comment\n" + minimal, true},
		{"order and style", strings.Replace(minimal, "listen:\n  plaintext: true\n", "", 1) + "listen: {\"plaintext\": true}\n", true},
		{"default written out", minimal + "shutdown: 15000ms\nprofiles: [{name: default, backdate: 30s}]\n", true},
		{"path spelled differently", strings.Replace(minimal, "state: state", "state: "+dir+"/./state", 1), true},
		{"limit", minimal + "limits: {in_flight: 255}\n", false},
		{"audience", strings.Replace(minimal, "[sigstore]", "[sigstore, other]", 1), false},
		{"proxy", strings.Replace(minimal, "plaintext: true", "plaintext: true\n  trusted_proxies: [10.0.0.1]", 1), false},
		{"log", strings.Replace(minimal, "logs: disabled", "logs: [{name: a, embedded: {}}]", 1), false},
		{"activation", strings.Replace(minimal, "name: corp\n", "name: corp\n    activate: 2026-11-01T00:00:00Z\n", 1), false},
	} {
		if got := digest(tt.text) == first; got != tt.same {
			t.Errorf("%s: got same digest %v, want %v", tt.name, got, tt.same)
		}
	}
}

func TestProblemPointsAtTheNearestLine(t *testing.T) {
	path := write(t, minimal)
	f := mustLoad(t, path, flags(t, "--state=/elsewhere"))
	for _, tt := range []struct {
		key  string
		file string
		line int
	}{
		{"public_url", path, 3},
		{"chains[0]", path, 14},
		{"chains[0].key.file", path, 16},
		{"chains[0].key.passphrase_file", path, 16}, // absent, but the key is there
		{"issuers[0].refresh", path, 6},
		{"issuers[7]", path, 5},
		{"metrics", path, 0},
		{"state", "--state", 0},
	} {
		got := f.Problem(tt.key, "%d of %s", 1, "a kind")
		want := Problem{File: tt.file, Line: tt.line, Path: tt.key, Message: "1 of a kind"}
		if got != want {
			t.Errorf("Problem(%q): got %+v, want %+v", tt.key, got, want)
		}
	}
	if got, want := f.Problem("chains[0].key.file", "x").String(), path+":16: chains[0].key.file: x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReferencesListsFilesThatMustExist(t *testing.T) {
	text := strings.NewReplacer(
		"plaintext: true", "tls: {certificate: /tls.crt, key: /tls.key}",
		"name: kc", "name: kc\n    ca_file: /ca.pem",
		"{file: corp.key}", `{file: /corp.key, passphrase_file: /pass}
  - {name: next, certificates: /next.pem, cross_signed: [/a.pem, b/c.pem], activate: 2027-01-01T00:00:00Z, key: {tokens: [t], id: "01"}}
tokens: [{name: t, label: l, module: /lib/p11.so, pin_file: /pin}]`,
		"certificates: corp.pem", "certificates: /corp.pem",
		"logs: disabled", `logs:
  - {name: a, embedded: {checkpoint_record: /record}}
  - {name: b, remote: {url: "https://log.example", public_key: /b.pub, ca_file: /b.pem}}
timestamp_authorities: [{url: "https://tsa.example", certificates: /tsa.pem}]`,
	).Replace(minimal)
	path := write(t, text)
	want := []FileRef{
		{KeyPath: "listen.tls.certificate", Path: "/tls.crt"},
		{KeyPath: "listen.tls.key", Path: "/tls.key"},
		{KeyPath: "issuers[0].ca_file", Path: "/ca.pem"},
		{KeyPath: "tokens[0].module", Path: "/lib/p11.so", Library: true},
		{KeyPath: "tokens[0].pin_file", Path: "/pin"},
		{KeyPath: "chains[0].certificates", Path: "/corp.pem"},
		{KeyPath: "chains[0].key.file", Path: "/corp.key"},
		{KeyPath: "chains[0].key.passphrase_file", Path: "/pass"},
		{KeyPath: "chains[1].certificates", Path: "/next.pem"},
		{KeyPath: "chains[1].cross_signed[0]", Path: "/a.pem"},
		{KeyPath: "chains[1].cross_signed[1]", Path: filepath.Join(filepath.Dir(path), "b/c.pem")},
		{KeyPath: "logs[1].remote.public_key", Path: "/b.pub"},
		{KeyPath: "logs[1].remote.ca_file", Path: "/b.pem"},
		{KeyPath: "timestamp_authorities[0].certificates", Path: "/tsa.pem"},
	}
	if diff := cmp.Diff(want, References(mustLoad(t, path, nil).Config)); diff != "" {
		t.Errorf("References differs (-want +got):\n%s", diff)
	}
}

func TestChainIsActiveFromActivateUntilRetire(t *testing.T) {
	at := func(hour int) time.Time { return now.Add(time.Duration(hour) * time.Hour) }
	for _, tt := range []struct {
		name             string
		activate, retire time.Time
		active, retired  bool
	}{
		{"always", time.Time{}, time.Time{}, true, false},
		{"from now", now, time.Time{}, true, false},
		{"later", at(1), time.Time{}, false, false},
		{"within", at(-1), at(1), true, false},
		{"until now", at(-1), now, false, true},
		{"over", at(-2), at(-1), false, true},
	} {
		c := Chain{Activate: tt.activate, Retire: tt.retire}
		if c.Active(now) != tt.active || c.Retired(now) != tt.retired {
			t.Errorf("%s: got active %v, retired %v, want %v, %v", tt.name, c.Active(now), c.Retired(now), tt.active, tt.retired)
		}
	}
}

func TestRateAndSizeRoundTrip(t *testing.T) {
	for _, s := range []string{"1/s", "60/min", "1000000/h"} {
		if r, err := ParseRate(s); err != nil || r.String() != s {
			t.Errorf("ParseRate(%q): got %v, error %v, want the same", s, r, err)
		}
	}
	for _, s := range []string{"", "/", "/s", "1", "1/", "-1/s", "+1/s", "01/s", "1/m", "1/s/s", " 1/s", "1 /s", "1000001/s", "1_0/s"} {
		if r, err := ParseRate(s); err == nil {
			t.Errorf("ParseRate(%q): got %v, want an error", s, r)
		}
	}
	for s, want := range map[string]Size{"0B": 0, "1B": 1, "1023B": 1023, "1KiB": 1024, "1536B": 1536, "64KiB": 65536, "2MiB": 2 << 20} {
		if got, err := ParseSize(s); err != nil || got != want || got.String() != s {
			t.Errorf("ParseSize(%q): got %v = %d bytes, error %v, want %d bytes", s, got, int64(got), err, int64(want))
		}
	}
	for _, s := range []string{"", "B", "KiB", "1", "1K", "1kB", "-1B", "1.5KiB", "1 KiB", "01B", "9999999999MiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q): got %v, want an error", s, got)
		}
	}
}
