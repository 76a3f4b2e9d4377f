package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLoadRefusesLogsOfOthers(t *testing.T) {
	const logs = "logs: disabled"
	embedded := func(text string) string { return "logs:\n  - {name: a, embedded: {" + text + "}}" }
	submission := func(text string) string { return embedded("submission: {" + text + "}") }
	const taken = "tls: {certificate: c, key: k}, client_ca: ca, issuers: [i]"
	remote := func(text string) string {
		return "logs:\n  - {name: a, remote: {url: \"https://log.example\", public_key: k, " + text + "}}"
	}
	trusted := func(text string) string { return logs + "\ntrusted_logs:\n  - {" + text + "}" }
	const replica = "name: b, url: https://b.example/log/b, public_key: k, from: 2026-01-01T00:00:00Z"
	testRefusals(t, []refusal{
		{"log key that is nowhere", logs, embedded("key: {}"), 18, "logs[0].embedded.key", "remove it for a key"},
		{"log key on an unknown token", logs, embedded("key: {tokens: [hsm], object: l}"), 18, "logs[0].embedded.key.tokens[0]", "no token"},
		{"log key in a file and on a token", logs, embedded("key: {file: f, tokens: [hsm], object: l}"), 18, "logs[0].embedded.key.tokens", "in a file or on tokens"},
		{"submission nowhere", logs, submission(taken), 18, "logs[0].embedded.submission.address", "required"},
		{"submission at the service", logs, submission(`address: ":8443", ` + taken), 18, "logs[0].embedded.submission.address", "is taken"},
		{"submission at no address", logs, submission(`address: "8443", ` + taken), 18, "logs[0].embedded.submission.address", "write host:port"},
		{"submission without a certificate", logs, submission(`address: ":1", tls: {key: k}, client_ca: ca, issuers: [i]`), 18, "logs[0].embedded.submission.tls.certificate", "required"},
		{"submission without a key", logs, submission(`address: ":1", tls: {certificate: c}, client_ca: ca, issuers: [i]`), 18, "logs[0].embedded.submission.tls.key", "required"},
		{"submission by anybody", logs, submission(`address: ":1", tls: {certificate: c, key: k}, issuers: [i]`), 18, "logs[0].embedded.submission.client_ca", "required"},
		{"submission of anything", logs, submission(`address: ":1", tls: {certificate: c, key: k}, client_ca: ca`), 18, "logs[0].embedded.submission.issuers", "required"},
		{"submission of one issuer twice", logs, submission(`address: ":1", tls: {certificate: c, key: k}, client_ca: ca, issuers: [i, i]`), 18, "logs[0].embedded.submission.issuers[1]", "given before"},
		{"client certificate without a key", logs, remote("client_certificate: c"), 18, "logs[0].remote.client_key", "wanted"},
		{"client key without a certificate", logs, remote("client_key: k"), 18, "logs[0].remote.client_certificate", "wanted"},
		{"log that takes too long", logs, remote("timeout: 3s"), 18, "logs[0].remote.timeout", "from 500ms to 2.5s"},
		{"log read in the clear", logs, remote("monitoring_url: http://log.example"), 18, "logs[0].remote.monitoring_url", "use https"},
		{"trusted log without a name", logs, trusted(strings.Replace(replica, "name: b, ", "", 1)), 19, "trusted_logs[0].name", "required"},
		{"trusted log without a URL", logs, trusted(strings.Replace(replica, "url: https://b.example/log/b, ", "", 1)), 19, "trusted_logs[0].url", "required"},
		{"trusted log without a key", logs, trusted(strings.Replace(replica, "public_key: k, ", "", 1)), 19, "trusted_logs[0].public_key", "required"},
		{"trusted log without a beginning", logs, trusted(strings.Replace(replica, ", from: 2026-01-01T00:00:00Z", "", 1)), 19, "trusted_logs[0].from", "required"},
		{"trusted log that ends first", logs, trusted(replica + ", until: 2025-01-01T00:00:00Z"), 19, "trusted_logs[0].until", "follow from"},
		{"trusted logs of one name", logs, trusted(replica + "}\n  - {" + replica), 20, "trusted_logs[1].name", "line 19"},
		{"trusted log of an own log's name", logs, embedded("") + "\ntrusted_logs:\n  - {" + strings.Replace(replica, "name: b", "name: a", 1) + "}", 20, "trusted_logs[0].name", "line 18"},
		{"audit of itself", logs, logs + "\nlog_audit: {journals: [state/audit]}", 18, "log_audit.journals[0]", "elsewhere"},
		{"audit of one replica twice", logs, logs + "\nlog_audit: {journals: [a, ./a]}", 18, "log_audit.journals[1]", "given before"},
		{"audit all the time", logs, logs + "\nlog_audit: {interval: 1s}", 18, "log_audit.interval", "from 5s to 10m"},
	})
}

func TestLoadReadsLogs(t *testing.T) {
	text := strings.Replace(minimal, "logs: disabled", `logs:
  - name: local
    embedded:
      key: {tokens: [hsm], object: log}
      submission: {address: ":8444", tls: {certificate: c, key: k}, client_ca: ca, issuers: [i]}
  - {name: far, remote: {url: https://log.example/2026, public_key: k, client_certificate: c, client_key: k, token_file: t, monitoring_url: https://tiles.example}}
tokens: [{name: hsm, module: /lib/p11.so, label: l, pin_file: pin}]
trusted_logs: [{name: b, url: https://b.example/log/b, public_key: k, from: 2026-01-01T00:00:00Z, until: 2026-02-01T00:00:00Z}]
log_audit: {journals: [b]}`, 1)
	path := write(t, text)
	f := mustLoad(t, path, nil)
	at := func(name string) string { return filepath.Join(filepath.Dir(path), name) }
	want := Logs{List: []Log{
		{Name: "local", Embedded: &EmbeddedLog{
			Key: &Key{Tokens: []string{"hsm"}, Object: "log"},
			Submission: &LogSubmission{
				Address: ":8444", TLS: TLS{Certificate: at("c"), Key: at("k")}, ClientCA: at("ca"),
				Issuers: []string{at("i")}, PerClient: Rate{6000, time.Minute},
			},
		}},
		{Name: "far", Remote: &RemoteLog{
			URL: "https://log.example/2026", PublicKey: at("k"), ClientCertificate: at("c"), ClientKey: at("k"),
			TokenFile: at("t"), Timeout: 2500 * time.Millisecond, MonitoringURL: "https://tiles.example",
		}},
	}}
	if diff := cmp.Diff(want, f.Logs); diff != "" {
		t.Errorf("logs differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(AuditLog{Journals: []string{at("b")}, Interval: 30 * time.Second}, f.LogAudit); diff != "" {
		t.Errorf("log_audit differs (-want +got):\n%s", diff)
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	other := []TrustedLog{{Name: "b", URL: "https://b.example/log/b", PublicKey: at("k"), From: from, Until: from.AddDate(0, 1, 0)}}
	if diff := cmp.Diff(other, f.TrustedLogs); diff != "" {
		t.Errorf("trusted_logs differ (-want +got):\n%s", diff)
	}
	if got := mustLoad(t, write(t, minimal), nil).LogAudit.Interval; got != 30*time.Second {
		t.Errorf("got interval %v without one in the file, want 30s", got)
	}
}
