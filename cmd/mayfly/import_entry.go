package main

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
)

// entry is an issuer of Mayfly in the making.
type entry struct {
	source       fulcioIssuer
	name, preset string
	insecure     bool   // plain http on loopback
	san          string // of the short form, or empty with a rule
	rule         config.Rule
	may          config.MayIssue
	notes, todos []string
	refused      string // why there is no entry
}

func (e *entry) todo(format string, args ...any) {
	e.todos = append(e.todos, fmt.Sprintf(format, args...))
}
func (e *entry) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

// Fulcio's types of issuers that have no templates of their own.
const (
	fulcioEmail      = "email"
	fulcioUsername   = "username"
	fulcioURI        = "uri"
	fulcioSPIFFE     = "spiffe"
	fulcioKubernetes = "kubernetes"
	fulcioCI         = "ci-provider"
	fulcioChainguard = "chainguard-identity"
)

// translate makes an entry of an issuer of Fulcio. The name is one that names
// does not have yet.
func translate(is fulcioIssuer, providers map[string]fulcioProvider, names map[string]bool) *entry {
	e := &entry{source: is, name: nameFor(is.url, names)}
	if e.refused = e.unusable(); e.refused != "" {
		return e
	}
	e.general()
	defer e.checkPreset()
	defer e.warnOfShared()
	switch is.kind {
	case fulcioEmail:
		e.email()
	case fulcioUsername:
		e.username()
	case fulcioURI:
		e.uri()
	case fulcioSPIFFE:
		e.spiffe()
	case fulcioKubernetes:
		e.kubernetes()
	case fulcioChainguard:
		e.preset = config.PresetGeneric
		e.rule = config.Rule{Name: "identities", SAN: fmt.Sprintf("uri(%q, path(claims.sub))", strings.TrimSuffix(is.url, "/"))}
		e.may.URIPrefixes = []string{slashed(is.url)}
		e.todo("Mayfly refuses tokens with the claim act, which says that somebody acts for somebody else. Fulcio does not look at it.")
	case fulcioCI:
		p, ok := providers[is.provider]
		if !ok {
			e.refused = fmt.Sprintf("its ci-provider %q is not in ci-issuer-metadata, so Fulcio refuses all its tokens", clipped(is.provider))
			return e
		}
		e.provider(is.provider, p)
	default:
		p, ok := builtinProviders[is.kind]
		if !ok {
			e.refused = fmt.Sprintf("its type %q cannot be translated; if it is a pipeline, describe it in ci-issuer-metadata and import it again", clipped(is.kind))
			return e
		}
		e.provider(is.kind, p)
	}
	return e
}

// checkPreset drops a preset that would refuse the issuer's URL: the rules are
// written out anyway.
func (e *entry) checkPreset() {
	row, ok := policy.Preset(e.preset)
	if ok && !e.source.wildcard && row.CheckIssuer(e.source.url) != nil {
		e.preset = ""
	}
}

// unusable says why an issuer cannot be an entry of ours.
func (e *entry) unusable() string {
	is := e.source
	for _, text := range []string{is.url, is.audience, is.subjectDomain, is.trustDomain} {
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "it contains an invisible character"
		}
	}
	if is.audience == "" {
		return "it has no client-id"
	}
	u, err := url.Parse(is.url)
	switch {
	case is.wildcard:
		return ""
	case err != nil || u.Hostname() == "" || u.User != nil || strings.ContainsAny(is.url, "?# "):
		return "its URL is not an absolute URL without user, query and fragment"
	case u.Scheme == "https":
		return ""
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		e.insecure = true
		return ""
	}
	return "its URL is not https; whoever is on the way could replace its keys"
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// general says what is the same for issuers of every type.
func (e *entry) general() {
	is := e.source
	if is.description != "" || is.contact != "" {
		e.note("%s", strings.TrimSpace(strings.Join([]string{is.description, is.contact}, " ")))
	}
	if is.key != is.url {
		e.note("In the file it stands under %s.", is.key)
	}
	if is.caCert != "" {
		e.todo("put the certificate under ca-cert into a file and name it with ca_file. It replaces the system's roots; Fulcio adds it to them.")
	}
	if is.environment != "" {
		e.note("environment %q had no effect in Fulcio.", is.environment)
	}
	if is.issuerClaim != "" {
		e.todo("Fulcio writes the claim %s into certificates as their issuer. Mayfly writes %s, which verifiers have to be told.", is.issuerClaim, is.url)
	}
	for _, k := range is.unknown {
		e.todo("the key %q is unknown, here and in Fulcio; see what was meant.", k)
	}
}

// shared are the issuers of services that everybody can have an account with, and
// the claim by which a condition tells one organization's tokens from another's,
// as far as there is one that cannot be chosen freely.
var shared = map[string]string{
	"accounts.google.com":                 "hd",
	"agent.buildkite.com":                 "organization_slug",
	"allow.pub":                           "",
	"gitlab.com":                          "namespace_path",
	"issuer.enforce.dev":                  "",
	"oauth2.sigstore.dev":                 "",
	"oidc.codefresh.io":                   "account_name",
	"token.actions.githubusercontent.com": "repository_owner",
}

// warnOfShared says what an entry would do that is as wide as Fulcio's. No prefix
// narrower than the service's own can be known from the file.
func (e *entry) warnOfShared() {
	u, err := url.Parse(e.source.url)
	if err != nil || e.refused != "" {
		return
	}
	claim, ok := shared[u.Hostname()]
	if !ok {
		return
	}
	yours := "list no domain under may_issue in which others have addresses"
	if len(e.may.URIPrefixes) > 0 {
		yours = fmt.Sprintf("narrow uri_prefixes, which are as wide as in Fulcio, to what is yours, such as %sORGANIZATION/", e.may.URIPrefixes[0])
	}
	if claim != "" {
		yours += fmt.Sprintf(", and let a rule ask for it, such as when: 'claims.%s == \"ORGANIZATION\"'", claim)
	}
	e.todo("anybody in the world can have a token of %s: %s.", u.Hostname(), yours)
}

func (e *entry) email() {
	e.san = config.SANEmail
	e.may.EmailDomains = []string{e.placeholder()}
	e.todo("replace %s by the domains whose addresses this issuer can vouch for. Fulcio takes any.", e.placeholder())
	if e.source.skipEmailVerification {
		e.todo("Fulcio takes addresses that nobody verified (skip-email-verification); Mayfly does not. For AD FS and Entra ID there are presets. " +
			"If everyone's address is set by administrators, write rules: [{name: people, san: email(claims.email)}] and trusted_claims: [email] instead of allow and san.")
	}
}

func (e *entry) username() {
	domain := e.source.subjectDomain
	if !plainDomain.MatchString(domain) {
		e.refused = fmt.Sprintf("its subject-domain %q is not a domain in lower case", clipped(domain))
		return
	}
	e.rule = config.Rule{Name: "users", SAN: fmt.Sprintf("username(claims.sub, %q)", domain)}
	e.may.UsernameDomains = []string{domain}
}

func (e *entry) uri() {
	u, err := url.Parse(e.source.subjectDomain)
	if err != nil || (u.Scheme != "https" && u.Scheme != "spiffe") || u.Host == "" || u.Host != strings.ToLower(u.Host) {
		e.refused = fmt.Sprintf("its subject-domain %q is not an https or spiffe URL with a host in lower case, and certificates name nothing else", clipped(e.source.subjectDomain))
		return
	}
	e.san = config.SANURI
	e.may.URIPrefixes = []string{u.Scheme + "://" + u.Host + "/"} // Fulcio compares no more
}

func (e *entry) spiffe() {
	domain := e.source.trustDomain
	if !plainDomain.MatchString(domain) {
		e.refused = fmt.Sprintf("its spiffe-trust-domain %q is not a host name in lower case", clipped(domain))
		return
	}
	e.preset = config.PresetSPIFFE
	e.rule = config.Rule{Name: "workloads", SAN: "spiffe(claims.sub)"}
	e.may.URIPrefixes = []string{"spiffe://" + domain + "/"}
}

// plainDomain is a host name as config demands it of names that certificates
// carry.
var plainDomain = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

const kubernetesBase = "https://kubernetes.io/namespaces"

func (e *entry) kubernetes() {
	e.preset = config.PresetKubernetes
	e.rule = config.Rule{
		Name: "service-accounts",
		SAN: fmt.Sprintf(`uri(%q, dns1123(claims["kubernetes.io"].namespace), "serviceaccounts", dns1123(claims["kubernetes.io"].serviceaccount.name))`,
			kubernetesBase),
	}
	e.may.URIPrefixes = []string{kubernetesBase + "/"}
	if u, err := url.Parse(e.source.url); err == nil && strings.HasPrefix(u.Hostname(), "kubernetes.default") {
		e.todo("Fulcio reads this cluster's CA and its own token from its pod. Name them with ca_file and bearer_token_file, and the API server's address for keys, if it is another host, with jwks_hosts.")
	}
}

// provider translates templates.
func (e *entry) provider(name string, p fulcioProvider) {
	switch name {
	case kindGitHub:
		e.preset = config.PresetGitHub
	case kindGitLab:
		e.preset = config.PresetGitLab
	}
	e.rule.Name = "pipelines"
	if nameForm.MatchString(name) {
		e.rule.Name = name
	}
	for _, k := range p.unknown {
		e.todo("the key %q of the ci-provider %s is unknown, here and in Fulcio; see what was meant.", k, name)
	}
	pieces, err := parseTemplate(p.san, p.defaults)
	if err == nil {
		var prefix string
		e.rule.SAN, prefix, err = uriExpression(pieces, e.source.url)
		e.may.URIPrefixes = []string{prefix}
	}
	if err != nil {
		e.refused = fmt.Sprintf("the template of its names, %s, cannot be translated: %v", clipped(p.san), err)
		return
	}
	conditions := choices(pieces)
	for _, x := range p.extensions {
		pieces, err := parseTemplate(x.template, p.defaults)
		if err != nil {
			e.todo("write the extension %s, which Fulcio makes of %s: %v.", x.name, clipped(x.template), err)
			continue
		}
		conditions = append(conditions, choices(pieces)...)
		e.rule.Extensions = append(e.rule.Extensions, config.Extension{Name: x.name, Value: expression(pieces)})
	}
	slices.Sort(conditions)
	for i, claim := range slices.Compact(conditions) {
		if i > 0 {
			e.rule.When += " && "
		}
		e.rule.When += presence(claim)
	}
	for _, k := range slices.Sorted(maps.Keys(p.defaults)) {
		if p.defaults[k] != "" {
			e.note("%s is always %q here. In Fulcio a claim of that name would replace it.", k, p.defaults[k])
		}
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// placeholder is a domain that stands for one to be filled in. RFC 6761, Section
// 6.4: names in invalid do not exist, so no certificate can name one.
func (e *entry) placeholder() string {
	return strings.Trim(notLabel.ReplaceAllString(e.name, "-"), "-.") + ".invalid"
}

var (
	notLabel = regexp.MustCompile(`[^a-z0-9.-]+|-*\.[.-]*`)
	notName  = regexp.MustCompile(`[^a-z0-9._-]+`)
)

// nameFor makes a name for an issuer of its URL: the host, then the last segment
// of the path, then a number.
func nameFor(raw string, names map[string]bool) string {
	host, last := raw, ""
	if u, err := url.Parse(raw); err == nil {
		host, last = u.Host, u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	}
	clean := func(s string, most int) string {
		s = strings.Trim(notName.ReplaceAllString(strings.ToLower(s), "-"), "-._")
		return strings.Trim(s[:min(len(s), most)], "-._")
	}
	name := clean(host, 40)
	if name == "" {
		name = "issuer"
	}
	if more := clean(last, 18); names[name] && more != "" {
		name += "-" + more
	}
	unique := name
	for n := 2; names[unique]; n++ {
		unique = fmt.Sprintf("%s-%d", name, n)
	}
	names[unique] = true
	return unique
}

// separate takes names back that two issuers would vouch for. Fulcio tells such
// certificates apart by the issuer in them alone; here a name has one issuer.
func separate(entries []*entry) {
	urls := make(map[string]string)
	for _, e := range entries {
		same := strings.ToLower(strings.TrimRight(e.source.url, "/"))
		if first, again := urls[same]; again && e.refused == "" {
			e.refused = "it is the same as " + first + "; merge the two, an issuer may have several audiences"
		} else if e.refused == "" {
			urls[same] = e.source.url
		}
	}
	var conflicts []func()
	for i, e := range entries {
		for j, other := range entries {
			if i == j || e.refused != "" || other.refused != "" {
				continue
			}
			for _, p := range e.may.URIPrefixes {
				if slices.ContainsFunc(other.may.URIPrefixes, func(q string) bool { return strings.HasPrefix(p, q) || strings.HasPrefix(q, p) }) {
					conflicts = append(conflicts, func() { e.takeBack(&e.may.URIPrefixes, "https://"+e.placeholder()+"/", p, other) })
				}
			}
			for _, d := range e.may.UsernameDomains {
				if slices.Contains(other.may.UsernameDomains, d) {
					conflicts = append(conflicts, func() { e.takeBack(&e.may.UsernameDomains, e.placeholder(), d, other) })
				}
			}
		}
	}
	for _, f := range conflicts {
		f()
	}
}

func (e *entry) takeBack(list *[]string, placeholder, name string, other *entry) {
	if !slices.Contains(*list, placeholder) {
		*list = []string{placeholder}
		e.todo("replace %s by what only this issuer may vouch for, which is less than %s: %s has that too, and a name must come from one issuer.",
			placeholder, name, other.name)
	}
}
