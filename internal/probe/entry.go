package probe

import (
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
)

// Entry is what to write into the configuration.
type Entry struct {
	Name, Preset, URL, CAFile       string
	Algorithms, JWKSHosts, Loopback []string
	InsecureHTTP                    bool
	// Domain is a guess at the organization's domain.
	Domain string
	names  []string // of may_issue
	note   string
}

// presets recognise providers by their URL, which is all that they have in
// common. What a preset may issue is never guessed from the provider: the domain
// is that of the URL, and the reader is told to look.
var presets = []struct {
	name  string
	shape *regexp.Regexp
	uris  bool // its tokens are of machines
	note  string
}{
	{"keycloak", regexp.MustCompile(`/realms/[^/]+$`), false, "the domains of the people in this realm"},
	{"adfs", regexp.MustCompile(`/adfs$`), false, "the domains of user principal names"},
	{"entra", regexp.MustCompile(`^https://(login\.microsoftonline\.|sts\.windows\.net/)`), false, "the verified domains of the tenant"},
	{"github", regexp.MustCompile(`^https://token\.actions\.githubusercontent\.com|/_services/token$`), true, "the organization's repositories"},
	{"jenkins", regexp.MustCompile(`/oidc(/job/.+)?$`), true, "the jobs"},
	{"kubernetes", regexp.MustCompile(`^https://(kubernetes\.default\.svc|oidc\.eks\.|container\.googleapis\.com/|[^/]*\.oic\.prod-aks\.)`), true, "the namespaces"},
	{"gitlab", regexp.MustCompile(`^https://gitlab\.[^/]+$`), true, "the groups whose pipelines may sign"},
}

func newEntry(u *url.URL, cfg Config) Entry {
	e := Entry{
		Name: "idp", Preset: "generic", URL: cfg.URL, CAFile: cfg.CAFile, InsecureHTTP: u.Scheme == "http",
		Domain: domain(u.Hostname()), note: "the domains of the people at this provider",
	}
	e.names = []string{"email_domains: [" + e.Domain + "]"}
	for _, p := range presets {
		if p.shape.MatchString(cfg.URL) {
			e.Name, e.Preset, e.note = p.name, p.name, p.note
			if p.uris {
				e.names = []string{`uri_prefixes: ["https://` + e.Domain + `/"]`}
			}
			break
		}
	}
	return e
}

var label = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// domain takes the last two labels of a host, or an example: one that is too wide
// or wrong is refused or seen, and the comment beside it asks to look.
func domain(host string) string {
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	if n := len(labels); n >= 2 && label.MatchString(labels[n-1]) && label.MatchString(labels[n-2]) {
		return labels[n-2] + "." + labels[n-1]
	}
	return "corp.example"
}

// write writes the entry as a block that a configuration can contain.
func (e Entry) write(w io.Writer) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("issuers:")
	line("  - name: %s", e.Name)
	if e.Preset != "generic" {
		line("    preset: %s", e.Preset)
	}
	line("    url: %s", quote(e.URL))
	line("    audiences: [sigstore]  # the client at the provider, or what jobs ask for")
	if len(e.Algorithms) > 0 {
		line("    algorithms: [%s]", strings.Join(e.Algorithms, ", "))
	}
	if e.CAFile != "" {
		line("    ca_file: %s", quote(e.CAFile))
	}
	if e.InsecureHTTP {
		line("    insecure_http: true")
	}
	if len(e.JWKSHosts) > 0 {
		line("    jwks_hosts: [%s]", quotes(e.JWKSHosts))
	}
	if len(e.Loopback) > 0 {
		line("    allow_loopback: [%s]", quotes(e.Loopback))
	}
	if e.Preset == "generic" {
		line("    allow: all  # or rules, see docs/policy.md")
		line("    san: email")
	}
	line("    may_issue:  # %s; nothing else", e.note)
	for _, n := range e.names {
		line("      %s", n)
	}
}

func quotes(list []string) string {
	var quoted []string
	for _, s := range list {
		quoted = append(quoted, quote(s))
	}
	return strings.Join(quoted, ", ")
}

// quote writes a YAML scalar that means itself whatever it holds.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
