package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// problems loads text, which must be refused.
func problems(t testing.TB, text string) Problems {
	t.Helper()
	path := write(t, text)
	f, err := load(path, nil, now)
	if err == nil {
		t.Fatalf("loaded without a problem, got %+v, from:\n%s", f.Config, clipText(text))
	}
	ps, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("got error %v (%T), want Problems, from:\n%s", err, err, clipText(text))
	}
	return ps
}

func clipText(text string) string { return text[:min(len(text), 2000)] }

// refusal is a change to the minimal configuration, and the one problem that it
// must cause.
type refusal struct {
	name     string
	old, new string // the change: the first old becomes new; empty old appends
	line     int
	path     string
	message  string // part of it
}

func (r refusal) text(t testing.TB) string {
	t.Helper()
	if r.old == "" {
		return minimal + r.new
	}
	if !strings.Contains(minimal, r.old) {
		t.Fatalf("the minimal configuration does not contain %q", r.old)
	}
	return strings.Replace(minimal, r.old, r.new, 1)
}

func testRefusals(t *testing.T, table []refusal) {
	t.Helper()
	for _, r := range table {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			text := r.text(t)
			ps := problems(t, text)
			if len(ps) != 1 || ps[0].Line != r.line || ps[0].Path != r.path || !strings.Contains(ps[0].Message, r.message) {
				t.Errorf("got problems\n%v\nwant one at line %d: %s: ...%s...\nfrom:\n%s", ps, r.line, r.path, r.message, clipText(text))
			}
		})
	}
}

func TestLoadRefusesWhatIsWrittenWrongly(t *testing.T) {
	testRefusals(t, []refusal{
		{"unknown key", "state: state", "state: state\nmetrisc: x", 5, "metrisc", "did you mean metrics?"},
		{"unknown key by prefix", "key: {file: corp.key}", "key: {file: corp.key, passphrase: hunter2}", 16, "chains[0].key.passphrase", "did you mean passphrase_file?"},
		{"unknown key in other case", "state: state", "state: state\nMetrics: x", 5, "Metrics", "did you mean metrics?"},
		{"unknown key like none", "state: state", "state: state\nzzzzzzzz: x", 5, "zzzzzzzz", "use one of listen,"},
		{"unknown key with a dash", "name: kc", "name: kc\n    clock-skew: 1s", 7, "issuers[0].clock-skew", "did you mean clock_skew?"},
		{"unknown key with dots", "state: state", "state: state\nlisten.address: x", 5, `"listen.address"`, "unknown key"},
		{"key that is a number", "state: state", "state: state\n7: x", 5, "7", "unknown key"},
		{"key that is a list", "state: state", "state: state\n[a]: x", 5, "?", "unknown key"},
		{"merge key", "state: state", "state: state\n<<: {metrics: x}", 5, `"<<"`, "unknown key"},
		{"duplicate key", "state: state", "state: state\nstate: other", 5, "state", "before, in line 4"},
		{"duplicate key inside", "name: kc", "name: kc\n    name: kd", 7, "issuers[0].name", "before, in line 6"},
		{"duplicate key of another style", "state: state", "state: state\n\"state\": other", 5, "state", "before, in line 4"},
		{"no value", "state: state", "state:", 4, "state", "no value"},
		{"null", "state: state", "state: ~", 4, "state", "no value"},
		{"no value for a list", "audiences: [sigstore]", "audiences:", 8, "issuers[0].audiences", "no value"},
		{"number for text", "name: kc", "name: 17", 6, "issuers[0].name", "quotes"},
		{"boolean for text", "state: state", "state: true", 4, "state", "quotes"},
		{"date for text", "name: kc", "name: 2026-11-01", 6, "issuers[0].name", "quotes"},
		{"keys for text", "state: state", "state: {dir: x}", 4, "state", "a single value belongs here, not keys and values"},
		{"list for text", "state: state", "state:\n  - a", 4, "state", "a single value belongs here, not a list"},
		{"text for a list", "audiences: [sigstore]", "audiences: sigstore", 8, "issuers[0].audiences", "a list belongs here"},
		{"keys for a list", "issuers:\n", "profiles: {name: x}\nissuers:\n", 5, "profiles", "a list belongs here"},
		{"text for keys", "key: {file: corp.key}", "key: corp.key", 16, "chains[0].key", "keys belong here"},
		{"text for a list entry", "logs: disabled", "logs: [local]", 17, "logs[0]", "keys belong here"},
		{"control character", "state: state", `state: "a\tb"`, 4, "state", "control or invisible"},
		{"invisible character", "state: state", "state: a\u200bb", 4, "state", "control or invisible"},
		{"endless text", "state: state", "state: " + strings.Repeat("a", 5000), 4, "state", "shorten it"},
		{"anchor", "state: state", "state: &s state", 4, "state", "anchors are not accepted"},
		{"tag", "state: state", "state: !!str state", 4, "state", "tags are not accepted"},
		{"tag of a map", "key: {file: corp.key}", "key: !x {file: corp.key}", 16, "chains[0].key", "tags are not accepted"},
		{"quoted boolean", "plaintext: true", `plaintext: "true"`, 2, "listen.plaintext", "without quotes"},
		{"yes for true", "plaintext: true", `plaintext: yes`, 2, "listen.plaintext", "true or false"},
		{"bare number for a duration", "state: state", "state: state\nshutdown: 15", 5, "shutdown", "a number without a unit"},
		{"bare zero for a duration", "logs: disabled", "logs: disabled\nprofiles:\n  - {name: p, backdate: 0}", 19, "profiles[0].backdate", "a number without a unit"},
		{"unknown unit of a duration", "state: state", "state: state\nshutdown: 1d", 5, "shutdown", "write a duration"},
		{"rate without a unit", "state: state", "state: state\nlimits: {per_address: 60}", 5, "limits.per_address", "such as 60/min"},
		{"rate of another unit", "state: state", "state: state\nlimits: {per_address: 60/day}", 5, "limits.per_address", "use s, min or h"},
		{"rate of nothing", "state: state", "state: state\nlimits: {per_identity: 0/s}", 5, "limits.per_identity", "from 1 to 1000000"},
		{"rate with a fraction", "state: state", "state: state\nlimits: {per_identity: 1.5/s}", 5, "limits.per_identity", "whole number"},
		{"size without a unit", "state: state", "state: state\nlimits: {token_size: 16384}", 5, "limits.token_size", "such as 16KiB"},
		{"size of another unit", "state: state", "state: state\nlimits: {token_size: 16KB}", 5, "limits.token_size", "such as 16KiB"},
		{"number in octal", "state: state", "state: state\nlimits: {in_flight: 010}", 5, "limits.in_flight", "decimal digits"},
		{"number in words", "state: state", "state: state\nlimits: {in_flight: many}", 5, "limits.in_flight", "decimal digits"},
		{"quoted number", "state: state", "state: state\nlimits: {in_flight: \"8\"}", 5, "limits.in_flight", "without quotes"},
		{"number beyond any int", "state: state", "state: state\nlimits: {in_flight: 99999999999999999999}", 5, "limits.in_flight", "whole number"},
		{"date without a time", "name: corp\n", "name: corp\n    activate: 2026-11-01\n", 15, "chains[0].activate", "RFC 3339"},
		{"year that cannot be meant", "name: corp\n", "name: corp\n    activate: 0202-11-01T00:00:00Z\n", 15, "chains[0].activate", "the year 202 cannot"},
		{"logs by another word", "logs: disabled", "logs: off", 17, "logs", "or the word disabled"},
		{"logs by keys", "logs: disabled", "logs: {name: x}", 17, "logs", "or the word disabled"},
		{"proxy with host bits", "plaintext: true", "plaintext: true\n  trusted_proxies: [10.0.0.1/8]", 3, "listen.trusted_proxies[0]", "write 10.0.0.0/8"},
		{"proxy by name", "plaintext: true", "plaintext: true\n  trusted_proxies:\n    - 10.0.0.1\n    - proxy", 5, "listen.trusted_proxies[1]", "write an address"},
		{"proxy with a zone", "plaintext: true", "plaintext: true\n  trusted_proxies: [\"fe80::1%eth0\"]", 3, "listen.trusted_proxies[0]", "write an address"},
		{"proxy as mapped IPv4", "plaintext: true", "plaintext: true\n  trusted_proxies: [\"::ffff:10.0.0.1\"]", 3, "listen.trusted_proxies[0]", "without the ::ffff:"},
		{"second document", "", "---\nstate: other\n", 18, "", "a second document"},
		{"second document that is empty", "", "---\n", 18, "", "a second document"},
	})
}

// What is wrong with the file as a whole leaves nothing else to report.
func TestLoadRefusesWhatIsNoConfiguration(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [*" + p + strings.Repeat(", *"+p, 8) + "]\n"
	}
	for _, tt := range []struct {
		name, text string
		line       int
		path       string
		message    string
	}{
		{"empty", "", 1, "", "the file is empty"},
		{"comments only", "# nothing\n\n# here\n", 1, "", "the file is empty"},
		{"list", "- a\n- b\n", 1, "", "keys belong here, not a list"},
		{"text", "\nhello\n", 2, "", "keys belong here, not a single value"},
		{"deep nesting", "state: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), 1, "state" + strings.Repeat("[0]", maxDepth), "nested too deeply"},
		{"not YAML", "state: state\nlisten: [a\n", 1, "", "not valid YAML"},
		{"tab as indentation", "listen:\n\taddress: x\n", 2, "", "not valid YAML"},
		{"second document that is not YAML", minimal + "---\nlogs: [a\n", 18, "", "not valid YAML"},
		{"unknown alias", "state: *nowhere\n", 0, "", "not valid YAML"},
		{"not UTF-8", "state: x\n# caf\xe9\n", 2, "", "byte 0xe9 is not UTF-8"},
		{"UTF-16", "\xff\xfes\x00", 1, "", "byte 0xff is not UTF-8"},
		{"too large", minimal + strings.Repeat("#", maxFile), 0, "", "larger than 1048576 bytes"},
		{"alias bomb", bomb, 1, "a", "anchors are not accepted"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			ps := problems(t, tt.text)
			at := slices.IndexFunc(ps, func(p Problem) bool {
				return p.Line == tt.line && p.Path == tt.path && strings.Contains(p.Message, tt.message)
			})
			if at < 0 {
				t.Errorf("got problems\n%v\nwant one at line %d: %s: ...%s...", ps, tt.line, tt.path, tt.message)
			}
		})
	}
}

// A reviewer must not be shown one mistake per attempt.
func TestLoadReportsAllProblemsInTheOrderOfTheFile(t *testing.T) {
	path := write(t, `listen: {adress: ":1", plaintext: true}
public_url: http://ca.corp.example
shutdown: 15
issuers:
  - name: Keycloak
    url: https://kc.corp.example
    audiences: [a, a]
    allow: some
    san: name
chains:
  - {name: corp, certificates: c.pem}
logs: []
`)
	_, err := load(path, nil, now)
	ps, ok := errors.AsType[Problems](err)
	if !ok {
		t.Fatalf("got error %v, want Problems", err)
	}
	var got []string
	for _, p := range ps {
		if p.File != path {
			t.Errorf("problem %v: got file %q, want %q", p, p.File, path)
		}
		got = append(got, strings.Join(strings.SplitN(strings.TrimPrefix(p.String(), path+":"), ":", 3)[:2], ""))
	}
	want := []string{
		" state " + strings.SplitN(ps[0].Message, ":", 2)[0], // nowhere in the file
		"1 listen.adress", "2 public_url", "3 shutdown", "5 issuers[0].name", "7 issuers[0].audiences[1]",
		"8 issuers[0].allow", "9 issuers[0].san", "11 chains[0].key", "12 logs",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s\nfrom\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"), err)
	}
}

// A value that cannot be read is one problem, not also the absence of a value.
func TestLoadDoesNotReportEchoes(t *testing.T) {
	for _, key := range []string{"state: 7", "public_url: [x]"} {
		name, _, _ := strings.Cut(key, ":")
		var text []string
		for line := range strings.Lines(minimal) {
			if !strings.HasPrefix(line, name+":") {
				text = append(text, line)
			}
		}
		if ps := problems(t, strings.Join(text, "")+key+"\n"); len(ps) != 1 || ps[0].Path != name {
			t.Errorf("%s: got problems\n%v\nwant one at %s", key, ps, name)
		}
	}
}

func TestProblemMessagesNeverEchoSecretsInUnknownKeys(t *testing.T) {
	ps := problems(t, strings.Replace(minimal, "key: {file: corp.key}", "key: {file: corp.key, passphrase: hunter2}", 1))
	if strings.Contains(ps.Error(), "hunter2") {
		t.Errorf("got %v, want no value of an unknown key in it", ps)
	}
}
