package config

import (
	"strings"
	"testing"
)

// alone is a configuration of a log without a certificate authority.
const alone = `listen:
  plaintext: true
public_url: https://log.corp.example
state: state
logs:
  - name: shared
    embedded:
      submission: {address: ":8444", tls: {certificate: c, key: k}, client_ca: ca, issuers: [i]}
`

func TestLoadReadsALogAlone(t *testing.T) {
	f, err := Load(write(t, alone), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !f.LogAlone() {
		t.Errorf("LogAlone of\n%s\ngot false, want true", alone)
	}
	if f, err = Load(write(t, minimal), nil); err != nil || f.LogAlone() {
		t.Errorf("LogAlone of\n%s\ngot true (%v), want false", minimal, err)
	}
}

// Only a log that others may submit to may do without issuers and chains, and
// nothing stands beside it that nobody would look at.
func TestLoadRefusesHalfALogAlone(t *testing.T) {
	const tsa = "timestamp_authorities: [{url: https://tsa.example, certificates: t}]\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"without submission", alone[:strings.Index(alone, "      submission")] + "      checkpoint_record: r\n", []string{"chains", "issuers"}},
		{"with issuers", alone + minimal[strings.Index(minimal, "issuers:"):strings.Index(minimal, "chains:")], []string{"chains"}},
		{"with a timestamp authority", alone + tsa, []string{"timestamp_authorities"}},
		{"with another log", alone + "  - {name: far, remote: {url: https://log.example, public_key: k}}\n", []string{"logs[1]"}},
		{"with profiles", alone + "profiles: [{name: long}]\n", []string{"profiles"}},
		{"without a state directory", strings.Replace(alone, "state: state\n", "", 1), []string{"state"}},
	} {
		var got []string
		for _, p := range problems(t, c.text) {
			got = append(got, p.Path)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: got problems at %q, want %q", c.name, got, c.want)
		}
	}
}
