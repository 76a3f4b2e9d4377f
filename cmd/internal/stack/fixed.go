package stack

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/mayfly-ca/mayfly/config"
)

// restartNeeded lists what a reload cannot change: doors that are open, directories
// that are locked, and what the server was made with. A part of a new configuration
// is never taken into use: it would be one that nobody has written.
func restartNeeded(old, f *config.File) config.Problems {
	var problems config.Problems
	for _, c := range []struct {
		path     string
		was, now any
	}{
		{"listen.address", old.Listen.Address, f.Listen.Address},
		{"listen.tls.certificate", old.Listen.TLS.Certificate, f.Listen.TLS.Certificate},
		{"listen.tls.key", old.Listen.TLS.Key, f.Listen.TLS.Key},
		{"listen.plaintext", old.Listen.Plaintext, f.Listen.Plaintext},
		{"listen.trusted_proxies", old.Listen.TrustedProxies, f.Listen.TrustedProxies},
		{"metrics", old.Metrics, f.Metrics},
		{"state", old.State, f.State},
		{"admin.socket", old.AdminSocket(), f.AdminSocket()},
		{"shutdown", old.Shutdown, f.Shutdown},
		{"logging.format", old.Logging.Format, f.Logging.Format},
		{"limits.per_identity", old.Limits.PerIdentity, f.Limits.PerIdentity},
		{"limits.per_address", old.Limits.PerAddress, f.Limits.PerAddress},
		{"limits.in_flight", old.Limits.InFlight, f.Limits.InFlight},
		{"limits.token_size", old.Limits.TokenSize, f.Limits.TokenSize},
		{"logs", embeddedLogsOf(old), embeddedLogsOf(f)},
	} {
		if !reflect.DeepEqual(c.was, c.now) {
			problems = append(problems, f.Problem(c.path, "restart to change this; until then, write what it was: %v", c.was))
		}
	}
	return problems
}

// embeddedLogsOf names the logs in the state directory, with where each keeps its
// record and who may submit to it.
func embeddedLogsOf(f *config.File) []string {
	var logs []string
	for _, l := range f.Logs.List {
		if l.Embedded == nil {
			continue
		}
		text := "{name: " + l.Name + ", embedded: {"
		if l.Embedded.CheckpointRecord != "" {
			text += "checkpoint_record: " + l.Embedded.CheckpointRecord
		}
		if s := l.Embedded.Submission; s != nil {
			text += fmt.Sprintf(" submission: {address: %q, tls: {certificate: %s, key: %s}, client_ca: %s, issuers: [%s], per_client: %v}",
				s.Address, s.TLS.Certificate, s.TLS.Key, s.ClientCA, strings.Join(s.Issuers, ", "), s.PerClient)
		}
		logs = append(logs, text+"}}")
	}
	return logs
}
