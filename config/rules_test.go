package config

import (
	"errors"
	"strings"
	"testing"
)

// second appends an issuer with its own name, URL and may_issue.
func second(san, mayIssue string) string {
	return "  - name: other\n    url: https://other.example\n    audiences: [sigstore]\n    allow: all\n    san: " + san + "\n    may_issue: {" + mayIssue + "}\nchains:\n"
}

func TestLoadRefusesUnsafeService(t *testing.T) {
	testRefusals(t, []refusal{
		{"neither TLS nor plaintext", "  plaintext: true", "  plaintext: false", 1, "listen", "plaintext: true if a proxy"},
		{"TLS and plaintext", "plaintext: true", "plaintext: true\n  tls: {certificate: a, key: b}", 2, "listen.plaintext", "exclude each other"},
		{"TLS without a key", "plaintext: true", "tls: {certificate: a}", 2, "listen.tls.key", "required with"},
		{"TLS without a certificate", "plaintext: true", "tls: {key: a}", 2, "listen.tls.certificate", "required with"},
		{"address without a port", "plaintext: true", "plaintext: true\n  address: localhost", 3, "listen.address", "write host:port"},
		{"address with a named port", "plaintext: true", "plaintext: true\n  address: localhost:https", 3, "listen.address", "not a port"},
		{"address with a large port", "plaintext: true", "plaintext: true\n  address: localhost:65536", 3, "listen.address", "from 0 to 65535"},
		{"address with an empty port", "plaintext: true", "plaintext: true\n  address: \"localhost:\"", 3, "listen.address", "not a port"},
		{"address with a bad host", "plaintext: true", "plaintext: true\n  address: a_b:1", 3, "listen.address", "neither a host name"},
		{"metrics without a port", "state: state", "state: state\nmetrics: localhost", 5, "metrics", "write host:port"},
		{"metrics on the service", "state: state", "state: state\nmetrics: :8443", 5, "metrics", "another port"},
		{"everyone a proxy", "plaintext: true", "plaintext: true\n  trusted_proxies: [0.0.0.0/0]", 3, "listen.trusted_proxies[0]", "choose its own address"},
		{"everyone a proxy in IPv6", "plaintext: true", "plaintext: true\n  trusted_proxies: [\"::/0\"]", 3, "listen.trusted_proxies[0]", "choose its own address"},
		{"no public URL", "public_url: https://ca.corp.example\n", "", 0, "public_url", "required"},
		{"public URL over http", "https://ca.corp.example", "http://ca.corp.example", 3, "public_url", "write an https URL"},
		{"public URL with a slash", "https://ca.corp.example", "https://ca.corp.example/", 3, "public_url", "without a slash"},
		{"public URL with dots", "https://ca.corp.example", "https://ca.corp.example/a/../b", 3, "public_url", "dot segments"},
		{"public URL with an escape", "https://ca.corp.example", "https://ca.corp.example/a%2fb", 3, "public_url", "escapes"},
		{"public URL with a query", "https://ca.corp.example", "https://ca.corp.example?x", 3, "public_url", "query or fragment"},
		{"public URL with a fragment", "https://ca.corp.example", "\"https://ca.corp.example#\"", 3, "public_url", "query or fragment"},
		{"public URL with a user", "https://ca.corp.example", "https://u@ca.corp.example", 3, "public_url", "user name or password"},
		{"public URL without a scheme", "https://ca.corp.example", "ca.corp.example", 3, "public_url", "absolute URL"},
		{"public URL without a host", "https://ca.corp.example", "https:///x", 3, "public_url", "absolute URL"},
		{"public URL with a bad port", "https://ca.corp.example", "https://ca.corp.example:0", 3, "public_url", "port"},
		{"public URL with an empty port", "https://ca.corp.example", "\"https://ca.corp.example:\"", 3, "public_url", "port"},
		{"public URL in another alphabet", "https://ca.corp.example", "https://cа.corp.example", 3, "public_url", "in ASCII"},
		{"public URL with half an address", "https://ca.corp.example", "https://127.1", 3, "public_url", "nor an IP address"},
		{"no state", "state: state\n", "", 0, "state", "required"},
		{"endless shutdown", "state: state", "state: state\nshutdown: 1h", 5, "shutdown", "from 1s to 5m"},
		{"no shutdown", "state: state", "state: state\nshutdown: 0s", 5, "shutdown", "from 1s to 5m"},
		{"unknown level", "state: state", "state: state\nlogging: {level: warning}", 5, "logging.level", "debug, info, warn, error"},
		{"unknown format", "state: state", "state: state\nlogging: {format: xml}", 5, "logging.format", "json, text"},
		{"nothing in flight", "state: state", "state: state\nlimits: {in_flight: 0}", 5, "limits.in_flight", "from 1 to 65536"},
		{"everything in flight", "state: state", "state: state\nlimits: {in_flight: 65537}", 5, "limits.in_flight", "from 1 to 65536"},
		{"tiny tokens", "state: state", "state: state\nlimits: {token_size: 1023B}", 5, "limits.token_size", "from 1KiB to 64KiB"},
		{"huge tokens", "state: state", "state: state\nlimits: {token_size: 65537B}", 5, "limits.token_size", "65537B is out of bounds"},
	})
}

func TestLoadRefusesUnsafeIssuers(t *testing.T) {
	const name = "name: kc"
	const url = "https://kc.corp.example"
	testRefusals(t, []refusal{
		{"no name", name, "refresh: 10m", 6, "issuers[0].name", "required"},
		{"name with a space", name, "name: k c", 6, "issuers[0].name", "lower-case"},
		{"name with a slash", name, "name: k/c", 6, "issuers[0].name", "lower-case"},
		{"name of dots", name, "name: ..", 6, "issuers[0].name", "letter or digit at both ends"},
		{"name in capitals", name, "name: KC", 6, "issuers[0].name", "lower-case"},
		{"same name", "chains:\n", strings.Replace(second("email", "email_domains: [other.example]"), "name: other", "name: kc", 1), 13, "issuers[1].name", "in line 6"},
		{"no URL", "    url: " + url + "\n", "", 6, "issuers[0].url", "required"},
		{"same URL but for case port and slash", "chains:\n", strings.Replace(second("email", "email_domains: [other.example]"), "https://other.example", "https://KC.corp.example:443/", 1), 14, "issuers[1].url", "line 6 has the same URL"},
		{"http", url, "http://kc.corp.example", 7, "issuers[0].url", "use https"},
		{"http on loopback unsaid", url, "http://127.0.0.1:8080", 7, "issuers[0].url", "use https"},
		{"http elsewhere", url, "http://kc.corp.example\n    insecure_http: true", 8, "issuers[0].insecure_http", "loopback host only"},
		{"http on a host called like loopback", url, "http://localhost.corp.example\n    insecure_http: true", 8, "issuers[0].insecure_http", "loopback host only"},
		{"insecure https", url, url + "\n    insecure_http: true", 8, "issuers[0].insecure_http", "remove this key"},
		{"URL with a query", url, url + "?a=b", 7, "issuers[0].url", "query or fragment"},
		{"URL with a backslash", url, url + `/a\b`, 7, "issuers[0].url", "backslash"},
		{"URL of another kind", url, "ldap://kc", 7, "issuers[0].url", "https://"},
		{"no audience", "[sigstore]", "[]", 8, "issuers[0].audiences", "required"},
		{"empty audience", "[sigstore]", `[""]`, 8, "issuers[0].audiences[0]", "empty"},
		{"same audience", "[sigstore]", "[a, a]", 8, "issuers[0].audiences[1]", "in line 8"},
		{"same extra audience", name, name + "\n    extra_audiences: [a, a]", 7, "issuers[0].extra_audiences[1]", "before"},
		{"empty authorized party", name, name + "\n    authorized_parties: [\"\"]", 7, "issuers[0].authorized_parties[0]", "empty"},
		{"no algorithm", name, name + "\n    algorithms: []", 7, "issuers[0].algorithms", "the list is empty"},
		{"algorithm none", name, name + "\n    algorithms: [none]", 7, "issuers[0].algorithms[0]", "not known"},
		{"symmetric algorithm", name, name + "\n    algorithms: [RS256, HS256]", 7, "issuers[0].algorithms[1]", "not known"},
		{"same algorithm", name, name + "\n    algorithms: [RS256, RS256]", 7, "issuers[0].algorithms[1]", "before"},
		{"URL as key host", name, name + "\n    jwks_hosts: [\"https://kc\"]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"path in a key host", name, name + "\n    jwks_hosts: [kc/x]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"empty port of a key host", name, name + "\n    jwks_hosts: [\"kc:\"]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"key host without brackets", name, name + "\n    jwks_hosts: [\"::1\"]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"key host in brackets", name, name + "\n    jwks_hosts: [\"[kc]\"]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"user of a key host", name, name + "\n    jwks_hosts: [u@kc]", 7, "issuers[0].jwks_hosts[0]", "without https://"},
		{"key host in capitals", name, name + "\n    jwks_hosts: [KC]", 7, "issuers[0].jwks_hosts[0]", "lower case"},
		{"large skew", name, name + "\n    clock_skew: 2m1s", 7, "issuers[0].clock_skew", "from 1s to 2m"},
		{"no skew", name, name + "\n    clock_skew: 0s", 7, "issuers[0].clock_skew", "from 1s to 2m"},
		{"old tokens", name, name + "\n    max_token_age: 25h", 7, "issuers[0].max_token_age", "from 1m to 24h"},
		{"lasting tokens", name, name + "\n    max_token_lifetime: 169h", 7, "issuers[0].max_token_lifetime", "from 1m to 168h"},
		{"hasty refresh", name, name + "\n    refresh: 59s", 7, "issuers[0].refresh", "from 1m to 24h"},
		{"stale before refreshed twice", name, name + "\n    max_stale: 19m", 7, "issuers[0].max_stale", "from 20m to 168h"},
		{"default stale below slow refresh", name, name + "\n    refresh: 24h", 6, "issuers[0].max_stale", "from 48h to 168h"},
		{"no allow", "    allow: all\n", "", 6, "issuers[0].allow", "required without rules"},
		{"other allow", "allow: all", "allow: some", 9, "issuers[0].allow", "write `allow: all`"},
		{"no SAN", "    san: email\n", "", 6, "issuers[0].san", "required"},
		{"other SAN", "san: email", "san: username", 10, "issuers[0].san", "email, uri"},
		{"no domains", "email_domains: [corp.example]", "uri_prefixes: [\"https://a.example/\"]", 11, "issuers[0].may_issue.email_domains", "required for san email"},
		{"no prefixes", "san: email", "san: uri", 11, "issuers[0].may_issue.uri_prefixes", "required for san uri"},
		{"no issuers", "issuers:\n  - name: kc\n    url: https://kc.corp.example\n    audiences: [sigstore]\n    allow: all\n    san: email\n    may_issue:\n      email_domains: [corp.example]\n", "", 0, "issuers", "required"},
	})
}

func TestLoadRefusesNamesThatAreTooWide(t *testing.T) {
	var table []refusal
	for _, d := range []string{"corp", "Corp.example", "*.example", "*", "*.*.corp.example", "a*.corp.example", ".corp.example", "corp.example.", "@corp.example", "corp..example", "-a.example", "b\u00fccher.example", "10.0.0.1", "corp.example/x", "corp example.org"} {
		table = append(table, refusal{"domain " + strings.ReplaceAll(d, "/", "|"), "[corp.example]", `["` + d + `"]`, 12, "issuers[0].may_issue.email_domains[0]", "write a domain"})
	}
	for _, p := range []struct{ prefix, message string }{
		{"https://ci.corp.example", "put a slash at the end"},
		{"https://ci.corp.example/team", "put a slash at the end"},
		{"http://ci.corp.example/", "starts with https:// or spiffe://"},
		{"urn:x", "absolute URL"},
		{"/relative/", "absolute URL"},
		{"https:///", "absolute URL"},
		{"https://u@ci.corp.example/", "user name"},
		{"https://ci.corp.example/?", "query or fragment"},
		{"https://ci.corp.example/a//", "empty or dot segments"},
		{"https://ci.corp.example//", "empty or dot segments"},
		{"https://ci.corp.example/../", "empty or dot segments"},
		{"https://ci.corp.example/a/./", "empty or dot segments"},
		{"https://ci.corp.example/%61/", "escapes"},
		{"https://CI.corp.example/", "lower case"},
		{"HTTPS://ci.corp.example/", "lower case"},
		{"https://ci.corp.example:443/", "443"},
		{"https://ci.corp.example./", "neither a host name"},
		{"https://*.corp.example/", "neither a host name"},
		{"spiffe://corp.example:8443/", "has no port"},
		{"https://ci.corp.example/\u00e4/", "outside ASCII"},
		{"https://ci.corp.example/a b/", "outside ASCII"},
	} {
		table = append(table, refusal{"prefix " + strings.ReplaceAll(p.prefix, "/", "|"), "email_domains: [corp.example]", "email_domains: [corp.example]\n      uri_prefixes: [\"" + p.prefix + "\"]", 13, "issuers[0].may_issue.uri_prefixes[0]", p.message})
	}
	testRefusals(t, table)
}

func TestLoadRefusesOverlapBetweenIssuers(t *testing.T) {
	domain := func(first, other string) refusal {
		return refusal{first + " and " + other, "[corp.example]", `["` + first + `"]` + "\n" + strings.TrimSuffix(second("email", `email_domains: [x.example, "`+other+`"]`), "\nchains:\n"), 0, "", ""}
	}
	for _, tt := range []struct {
		r       refusal
		key     string
		line    int
		overlap bool
	}{
		{domain("corp.example", "corp.example"), "issuers[1].may_issue.email_domains[1]", 18, true},
		{domain("*.corp.example", "*.corp.example"), "issuers[1].may_issue.email_domains[1]", 18, true},
		{domain("*.corp.example", "a.b.corp.example"), "issuers[1].may_issue.email_domains[1]", 18, true},
		{domain("a.corp.example", "*.corp.example"), "issuers[0].may_issue.email_domains[0]", 12, true},
		{domain("*.a.corp.example", "*.corp.example"), "issuers[0].may_issue.email_domains[0]", 12, true},
		{domain("corp.example", "*.corp.example"), "", 0, false},
		{domain("corp.example", "a.corp.example"), "", 0, false},
		{domain("*.corp.example", "evilcorp.example"), "", 0, false},
	} {
		testOverlap(t, tt.r.name, tt.r.text(t), tt.key, tt.line, tt.overlap)
	}
	prefix := func(first, other string) string {
		text := strings.Replace(minimal, "email_domains: [corp.example]", `email_domains: [corp.example]`+"\n      uri_prefixes: [\""+first+`"]`, 1)
		return strings.Replace(text, "chains:\n", second("uri", `uri_prefixes: ["`+other+`"]`), 1)
	}
	for _, tt := range []struct {
		first, other, key string
		line              int
		overlap           bool
	}{
		{"https://ci.example/", "https://ci.example/", "issuers[1].may_issue.uri_prefixes[0]", 19, true},
		{"https://ci.example/", "https://ci.example/team/a/", "issuers[1].may_issue.uri_prefixes[0]", 19, true},
		{"https://ci.example/team/", "https://ci.example/", "issuers[0].may_issue.uri_prefixes[0]", 13, true},
		{"spiffe://ci.example/", "https://ci.example/", "", 0, false},
		{"https://ci.example/a/", "https://ci.example/ab/", "", 0, false},
		{"https://ci.example/", "https://ci.example:8443/", "", 0, false},
	} {
		testOverlap(t, tt.first+" and "+tt.other, prefix(tt.first, tt.other), tt.key, tt.line, tt.overlap)
	}
	// One issuer may say the same thing twice in different widths.
	mustLoad(t, write(t, strings.Replace(minimal, "[corp.example]", `[corp.example, "*.corp.example", a.corp.example]`, 1)), nil)
}

func testOverlap(t *testing.T, name, text, key string, line int, overlap bool) {
	t.Helper()
	_, err := load(write(t, text), nil, now)
	ps, _ := errors.AsType[Problems](err)
	switch {
	case !overlap && err != nil:
		t.Errorf("%s: got error %v, want none", name, err)
	case overlap && (len(ps) != 1 || ps[0].Path != key || ps[0].Line != line || !strings.Contains(ps[0].Message, "overlaps with")):
		t.Errorf("%s: got error\n%v\nwant an overlap at line %d: %s", name, err, line, key)
	}
}

func TestLoadRefusesUnusableBackends(t *testing.T) {
	const logs = "logs: disabled"
	remote := "logs:\n  - name: b\n    remote: {url: https://log.example, public_key: b.pub}"
	profile := func(text string) string { return logs + "\nprofiles:\n  - name: p\n    " + text }
	chain := func(text string) string { return "name: corp\n    " + text }
	testRefusals(t, []refusal{
		{"long certificates", logs, profile("lifetime: 10m1s"), 20, "profiles[0].lifetime", "from 1m to 10m"},
		{"brief certificates", logs, profile("lifetime: 59s"), 20, "profiles[0].lifetime", "from 1m to 10m"},
		{"certificates of odd length", logs, profile("lifetime: 90500ms"), 20, "profiles[0].lifetime", "whole seconds"},
		{"far backdate", logs, profile("backdate: 61s"), 20, "profiles[0].backdate", "from 0s to 1m"},
		{"negative backdate", logs, profile("backdate: -1s"), 20, "profiles[0].backdate", "from 0s to 1m"},
		{"odd backdate", logs, profile("backdate: 1500ms"), 20, "profiles[0].backdate", "whole seconds"},
		{"certificates expired at birth", logs, profile("lifetime: 60s\n    backdate: 60s"), 21, "profiles[0].backdate", "shorter than lifetime"},
		{"no keys", logs, profile("keys: []"), 20, "profiles[0].keys", "the list is empty"},
		{"unknown keys", logs, profile("keys: [rsa-1024]"), 20, "profiles[0].keys[0]", "ecdsa-p256"},
		{"same profile", logs, profile("lifetime: 5m") + "\n  - name: p", 21, "profiles[1].name", "line 19"},
		{"no chains", "chains:\n  - name: corp\n    certificates: corp.pem\n    key: {file: corp.key}\n", "", 0, "chains", "required"},
		{"empty chains", "chains:\n  - name: corp\n    certificates: corp.pem\n    key: {file: corp.key}\n", "chains: []\n", 13, "chains", "required"},
		{"chain without certificates", "    certificates: corp.pem\n", "", 14, "chains[0].certificates", "required"},
		{"chain without a key", "    key: {file: corp.key}\n", "", 14, "chains[0].key", "required until"},
		{"passphrase without a key", "{file: corp.key}", "{passphrase_file: p}", 16, "chains[0].key.file", "required with"},
		{"key as its passphrase", "{file: corp.key}", "{file: a, passphrase_file: ./a}", 16, "chains[0].key.passphrase_file", "the key file itself"},
		{"bad authority", "    key: {file: corp.key}\n", "    key: {file: corp.key}\n  - {name: next, authority: A, certificates: n.pem, key: {file: n.key}}\n", 17, "chains[1].authority", "no authority \"A\""},
		{"another authority only", "chains:\n  - name: corp\n", "authorities: [{name: tenant, path_prefix: /tenant}]\nchains:\n  - name: corp\n    authority: tenant\n", 14, "chains", "is active now"},
		{"chain of tomorrow only", "name: corp\n", chain("activate: 2026-11-23T00:00:00Z\n"), 13, "chains", "is active now"},
		{"retired chain only", "name: corp\n", chain("retire: 2026-11-22T09:00:00Z\n"), 13, "chains", "is active now"},
		{"published too late", "name: corp\n", chain("publish_from: 2026-11-02T00:00:00Z\n    activate: 2026-11-01T00:00:00Z\n"), 15, "chains[0].publish_from", "precede activate"},
		{"retired too early", "    key: {file: corp.key}\n", "    key: {file: corp.key}\n  - name: next\n    certificates: n.pem\n    key: {file: n.key}\n    activate: 2027-11-01T00:00:00Z\n    retire: 2027-10-01T00:00:00Z\n", 21, "chains[1].retire", "follow activate"},
		{"two chains at once", "    key: {file: corp.key}\n", "    key: {file: corp.key}\n  - name: next\n    certificates: n.pem\n    key: {file: n.key}\n", 17, "chains[1].activate", "line 14"},
		{"no logs", logs, "", 0, "logs", "required"},
		{"empty logs", logs, "logs: []", 17, "logs", "required"},
		{"log of no kind", logs, "logs:\n  - name: b", 18, "logs[0]", "embedded: {}"},
		{"log of both kinds", logs, remote + "\n    embedded: {}", 18, "logs[0]", "two entries"},
		{"two embedded logs", logs, "logs:\n  - {name: a, embedded: {}}\n  - {name: b, embedded: {}}", 19, "logs[1].embedded", "line 18"},
		{"checkpoint record in the state", logs, "logs:\n  - name: a\n    embedded:\n      checkpoint_record: ./state/log/record", 20, "logs[0].embedded.checkpoint_record", "elsewhere"},
		{"same log name", logs, remote + "\n  - {name: b, embedded: {}}", 20, "logs[1].name", "line 18"},
		{"log over http", logs, strings.Replace(remote, "https:", "http:", 1), 19, "logs[0].remote.url", "loopback host only"},
		{"log without a URL", logs, strings.Replace(remote, "url: https://log.example, ", "", 1), 19, "logs[0].remote.url", "required"},
		{"log without a public key", logs, strings.Replace(remote, ", public_key: b.pub", "", 1), 19, "logs[0].remote.public_key", "cannot be verified"},
		{"embedded log as a flag", logs, "logs:\n  - {name: a, embedded: true}", 18, "logs[0].embedded", "keys belong here"},
		{"embedded log without a value", logs, "logs:\n  - name: a\n    embedded:", 19, "logs[0].embedded", "no value"},
		{"timestamps from nowhere", logs, logs + "\ntimestamp_authorities:\n  - certificates: a", 19, "timestamp_authorities[0].url", "required"},
		{"timestamps without certificates", logs, logs + "\ntimestamp_authorities:\n  - url: http://tsa.example", 19, "timestamp_authorities[0].certificates", "required"},
		{"timestamps twice", logs, logs + "\ntimestamp_authorities:\n  - {url: http://tsa.example, certificates: a}\n  - {url: \"http://tsa.example:80/\", certificates: a}", 20, "timestamp_authorities[1].url", "line 19"},
	})
}

func TestLoadAccepts(t *testing.T) {
	for _, tt := range []struct{ name, old, new string }{
		{"public URL on loopback", "https://ca.corp.example", "http://127.0.0.1:8080"},
		{"public URL with a path", "https://ca.corp.example", "https://corp.example/mayfly"},
		{"issuer on loopback", "https://kc.corp.example", "http://localhost:8080/realms/eng\n    insecure_http: true"},
		{"issuer URL with a slash", "https://kc.corp.example", "https://kc.corp.example/"},
		{"IPv6", "plaintext: true", "plaintext: true\n  address: \"[::1]:0\""},
		{"key hosts", "name: kc", "name: kc\n    jwks_hosts: [keys.example, \"keys.example:8443\", \"[::1]:80\", \"[::1]\"]"},
		{"no backdate", "logs: disabled", "logs: disabled\nprofiles: [{name: default, backdate: 0s}]"},
		{"retired chain without a key", "    key: {file: corp.key}\n", "    key: {file: corp.key}\n  - name: old\n    certificates: o.pem\n    activate: 2025-01-01T00:00:00Z\n    retire: 2026-01-01T00:00:00Z\n"},
		{"SPIFFE", "email_domains: [corp.example]", "email_domains: [corp.example]\n      uri_prefixes: [\"spiffe://corp.example/ci/\", \"https://ci.example:8443/\"]"},
		{"log on loopback", "logs: disabled", "logs: [{name: b, remote: {url: \"http://[::1]:80/log\", public_key: b.pub}}]"},
		{"end of document", "logs: disabled", "logs: disabled\n..."},
		{"byte order mark", "listen:", "\ufefflisten:"},
	} {
		path := write(t, refusal{old: tt.old, new: tt.new}.text(t))
		if _, err := load(path, nil, now); err != nil {
			t.Errorf("%s: got error\n%v\nwant none", tt.name, err)
		}
	}
}
