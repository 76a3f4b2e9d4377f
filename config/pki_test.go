package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onToken is the minimal configuration's key on a token, in line 16, with the
// token in line 17.
func onToken(key, token string) string {
	return "key: {" + key + "}\ntokens:\n  - {" + token + "}\n"
}

const (
	keyLine  = "key: {file: corp.key}\n"
	goodKey  = "tokens: [hsm], object: ca"
	goodName = "name: hsm, module: /lib/p11.so, pin_file: pin"
	good     = goodName + ", label: l"
)

func TestLoadRefusesTokensAndTheirKeys(t *testing.T) {
	key := func(text string) string { return onToken(text, good) }
	token := func(text string) string { return onToken(goodKey, text) }
	testRefusals(t, []refusal{
		{"key in a file and on a token", keyLine, key("file: f, " + goodKey), 16, "chains[0].key.tokens", "in a file or on tokens"},
		{"key by object without tokens", keyLine, key("object: ca"), 16, "chains[0].key.tokens", "name those that hold the key"},
		{"key on an unknown token", keyLine, key("tokens: [hsm, hms], object: ca"), 16, "chains[0].key.tokens[1]", `no token "hms"`},
		{"key on a token twice", keyLine, key("tokens: [hsm, hsm], object: ca"), 16, "chains[0].key.tokens[1]", "given before"},
		{"key with a passphrase on a token", keyLine, key(goodKey + ", passphrase_file: p"), 16, "chains[0].key.passphrase_file", "has a PIN"},
		{"any key of a token", keyLine, key("tokens: [hsm]"), 16, "chains[0].key.object", "which key"},
		{"key by URI and object", keyLine, key(goodKey + ", uri: \"pkcs11:object=ca\""), 16, "chains[0].key.uri", "takes the place"},
		{"key by another URI", keyLine, key("tokens: [hsm], uri: \"https://hsm\""), 16, "chains[0].key.uri", "pkcs11:"},
		{"key by a URI with a PIN", keyLine, key("tokens: [hsm], uri: \"pkcs11:object=ca?pin-value=1234\""), 16, "chains[0].key.uri", "must not be in the file"},
		{"key by an empty id", keyLine, key("tokens: [hsm], id: \"\""), 16, "chains[0].key.id", "which key"},
		{"key by an odd id", keyLine, key("tokens: [hsm], id: \"0x1\""), 16, "chains[0].key.id", "in hexadecimal"},
		{"key by a number", keyLine, key("tokens: [hsm], id: 11"), 16, "chains[0].key.id", "in quotes"},
		{"key by an endless id", keyLine, key("tokens: [hsm], id: \"" + strings.Repeat("01", 65) + "\""), 16, "chains[0].key.id", "up to 64 bytes"},
		{"token without a module", keyLine, token("name: hsm, label: l, pin_file: p"), 18, "tokens[0].module", "required"},
		{"token with a relative module", keyLine, token("name: hsm, label: l, pin_file: p, module: p11.so"), 18, "tokens[0].module", "not an absolute path"},
		{"token with a module of dots", keyLine, token("name: hsm, label: l, pin_file: p, module: /lib/../tmp/p11.so"), 18, "tokens[0].module", "not an absolute path"},
		{"any token", keyLine, token(goodName), 18, "tokens[0]", "which token"},
		{"token by URI and label", keyLine, token(good + ", uri: \"pkcs11:token=l\""), 18, "tokens[0].uri", "takes the place"},
		{"token by a URI of nothing", keyLine, token(goodName + ", uri: \"pkcs11:\""), 18, "tokens[0].uri", "such as pkcs11:token="},
		{"token by a URI with a PIN", keyLine, token(goodName + ", uri: \"pkcs11:token=l?pin-value=1\""), 18, "tokens[0].uri", "must not be in the file"},
		{"token without a PIN", keyLine, token("name: hsm, label: l, module: /lib/p11.so"), 18, "tokens[0].pin_file", "required"},
		{"token with one session", keyLine, token(good + ", max_sessions: 1"), 18, "tokens[0].max_sessions", "from 2 to 1024"},
		{"token with a serial that is a number", keyLine, token(good + ", serial: 17"), 18, "tokens[0].serial", "quotes"},
		{"tokens of one name", keyLine, token(good + "}\n  - {" + good), 19, "tokens[1].name", "line 18"},
	})
}

func TestLoadRefusesAuthorities(t *testing.T) {
	all := func(entries ...string) string {
		return "authorities:\n  - {" + strings.Join(entries, "}\n  - {") + "}\nlogs: disabled"
	}
	one := func(rest string) string { return all("name: team, " + rest) }
	const logs = "logs: disabled"
	const issued = "    may_issue:\n      email_domains: [corp.example]\n"
	testRefusals(t, []refusal{
		{"default as an authority", logs, all("name: default, path_prefix: /d"), 18, "authorities[0].name", "always exists"},
		{"authority without a name", logs, all("path_prefix: /d"), 18, "authorities[0].name", "required"},
		{"authority that nobody finds", logs, all("name: team"), 18, "authorities[0]", "where clients find"},
		{"authorities of one name", logs, all("name: a, path_prefix: /a", "name: a, path_prefix: /b"), 19, "authorities[1].name", "line 18"},
		{"host with a port", logs, one(`hosts: ["a.example:8443"]`), 18, "authorities[0].hosts[0]", "without port"},
		{"host in capitals", logs, one("hosts: [A.example]"), 18, "authorities[0].hosts[0]", "lower case"},
		{"host that is an address", logs, one(`hosts: ["10.0.0.1"]`), 18, "authorities[0].hosts[0]", "not a host name"},
		{"host that is a wildcard", logs, one(`hosts: ["*.example"]`), 18, "authorities[0].hosts[0]", "not a host name"},
		{"host of two authorities", logs, all("name: a, hosts: [a.example]", "name: b, hosts: [b.example, a.example]"), 19, "authorities[1].hosts[1]", "line 18"},
		{"host of the service", logs, one("hosts: [ca.corp.example]"), 18, "authorities[0].hosts[0]", "host of public_url"},
		{"prefix without a slash", logs, one("path_prefix: team"), 18, "authorities[0].path_prefix", "write a slash"},
		{"prefix with a slash behind", logs, one("path_prefix: /team/"), 18, "authorities[0].path_prefix", "write a slash"},
		{"prefix of two segments", logs, one("path_prefix: /team/a"), 18, "authorities[0].path_prefix", "write a slash"},
		{"prefix that looks like gRPC", logs, one("path_prefix: /dev.sigstore.fulcio.v2.CA"), 18, "authorities[0].path_prefix", "write a slash"},
		{"prefix of the API", logs, one("path_prefix: /api"), 18, "authorities[0].path_prefix", "belongs to the service"},
		{"prefix of two authorities", logs, all("name: a, path_prefix: /t", "name: b, path_prefix: /t"), 19, "authorities[1].path_prefix", "line 18"},
		{"rule for an authority without chains", allowAll + issued, ruled("{name: a, san: email(claims.email), authority: team}") + issued + "authorities: [{name: team, path_prefix: /team}]\n", 10, "issuers[0].rules[0].authority", "no chain has"},
	})
}

func TestLoadRefusesWhatCertificatesShouldNotSay(t *testing.T) {
	const logs = "logs: disabled"
	profile := func(text string) string { return logs + "\nprofiles:\n  - {name: p, " + text + "}" }
	chain := func(text string) string { return "name: corp\n    " + text }
	both := "crl_url: http://pki.corp.example/a.crl\n    certificates: corp.pem\n    key: {file: corp.key}\nprofiles:\n  - {name: p, no_rev_avail: true}\n"
	testRefusals(t, []refusal{
		{"policy by name", logs, profile("policies: [code-signing]"), 19, "profiles[0].policies[0]", "object identifier"},
		{"policy with a leading zero", logs, profile("policies: [1.3.06]"), 19, "profiles[0].policies[0]", "object identifier"},
		{"policy below no root", logs, profile("policies: [3.1.2]"), 19, "profiles[0].policies[0]", "object identifier"},
		{"policy of a second arc that cannot be", logs, profile("policies: [1.40.2]"), 19, "profiles[0].policies[0]", "object identifier"},
		{"policy twice", logs, profile("policies: [1.3.6, 1.3.6]"), 19, "profiles[0].policies[1]", "given before"},
		{"policies without end", logs, profile("policies: [2.5.1.1, 2.5.1.2, 2.5.1.3, 2.5.1.4, 2.5.1.5, 2.5.1.6, 2.5.1.7, 2.5.1.8, 2.5.1.9]"), 19, "profiles[0].policies", "at most 8"},
		{"no revocation and where it is", "name: corp\n    certificates: corp.pem\n    " + keyLine, chain(both), 19, "profiles[0].no_rev_avail", "line 14"},
		{"list by another scheme", "name: corp\n", chain("crl_url: ldap://pki.corp.example/a\n"), 15, "chains[0].crl_url", "http://"},
		{"endless URL", "name: corp\n", chain("ca_issuers_url: http://pki.corp.example/" + strings.Repeat("a", 256) + "\n"), 15, "chains[0].ca_issuers_url", "shorten it"},
		{"lead of no time", "name: corp\n", chain("min_lead: 0s\n"), 15, "chains[0].min_lead", "from 1m to 2160h"},
		{"the same path twice", "name: corp\n", chain("cross_signed: [a.pem, ./a.pem]\n"), 15, "chains[0].cross_signed[1]", "given before"},
	})
}

func TestLoadReadsTokensAuthoritiesAndChains(t *testing.T) {
	text := strings.NewReplacer(
		"name: corp\n", `name: corp
    cross_signed: [cross.pem]
    min_lead: 48h
    emergency: true
    ca_issuers_url: http://pki.corp.example/a.cer
    crl_url: http://pki.corp.example/a.crl
`,
		keyLine, `key: {tokens: [a, b], object: ca, id: "0102", allow_extractable: true}
  - {name: team, authority: team, certificates: t.pem, key: {tokens: [b], uri: "pkcs11:object=team"}}
tokens:
  - {name: a, module: /lib/a.so, uri: "pkcs11:token=a", pin_file: pin}
  - {name: b, module: /lib/b.so, label: b, serial: "1", manufacturer: m, model: x, pin_file: pin, max_sessions: 1024}
authorities:
  - {name: team, hosts: [team.corp.example, t.corp.example], path_prefix: /team}
profiles:
  - {name: p, policies: [1.3.6.1.4.1.99999.1, 2.16.840.1]}
admin: {socket: run/admin.sock}
`).Replace(minimal)
	path := write(t, text)
	f := mustLoad(t, path, nil)
	c := f.Chains[0]
	if c.MinLead != 48*time.Hour || !c.Emergency || len(c.CrossSigned) != 1 || !filepath.IsAbs(c.CrossSigned[0]) || len(c.Key.Tokens) != 2 || c.Key.ID != "0102" {
		t.Errorf("got chain %+v, want what the file says, from:\n%s", c, text)
	}
	if got := f.Chains[1].MinLead; got != 24*time.Hour {
		t.Errorf("got min_lead %v without one in the file, want 24h", got)
	}
	if a, b := f.Tokens[0].MaxSessions, f.Tokens[1].MaxSessions; a != 8 || b != 1024 {
		t.Errorf("got max_sessions %d and %d, want 8 and 1024", a, b)
	}
	if got, want := f.AdminSocket(), filepath.Join(filepath.Dir(path), "run/admin.sock"); got != want {
		t.Errorf("got socket %s, want %s", got, want)
	}
	small := mustLoad(t, write(t, minimal), nil)
	if got, want := small.AdminSocket(), filepath.Join(small.State, "admin.sock"); got != want {
		t.Errorf("got socket %s, want %s", got, want)
	}
}
