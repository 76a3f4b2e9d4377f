package probe

import (
	"strings"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// provider looks at what the discovery document says of the provider.
func (p *probe) provider(doc map[string]any) {
	got := endpoint.Text(doc, "issuer")
	switch {
	case strings.ContainsAny(got, "{}"):
		p.Fatal("probe the URL of one tenant: https://login.microsoftonline.com/TENANT-ID/v2.0",
			"this document is for every tenant: it calls the issuer %s", got)
	case got == "":
		p.Fatal("check the URL with a browser: another program may answer there", "the discovery document names no issuer")
	case strings.TrimSuffix(got, "/") == strings.TrimSuffix(p.URL, "/") && got != p.URL:
		p.Fatal("write the URL as the provider does: "+endpoint.Plain(got, 300),
			"the provider calls itself %s: a slash at the end makes another issuer", got)
	case got != p.URL:
		p.Fatal("use that URL, if it is the provider's public one (then tokens have it in iss); otherwise set the public URL at the provider, "+
			"in Keycloak with --hostname", "the provider calls itself %s, not %s", got, p.URL)
	}
	flows := []string{}
	if endpoint.Text(doc, "authorization_endpoint") != "" {
		flows = append(flows, "authorization code")
	}
	pkce := endpoint.Offers(doc, "code_challenge_methods_supported", "S256")
	if pkce {
		flows = append(flows, "PKCE (S256)")
	}
	if endpoint.Text(doc, "device_authorization_endpoint") != "" {
		flows = append(flows, "device")
	}
	if len(flows) == 0 {
		flows = append(flows, "none; it is for machines")
	}
	p.fact("logins", "%s", strings.Join(flows, ", "))
	if !pkce && flows[0] == "authorization code" {
		p.Advise("let people use mayfly login, which sends PKCE anyway", "the provider does not advertise PKCE (S256): cosign refuses to log in by browser")
	}
	if list, ok := endpoint.Texts(doc, "acr_values_supported"); ok && len(list) > 0 {
		p.fact("acr", "%s", strings.Join(list, ", "))
	}
	if list, ok := endpoint.Texts(doc, "id_token_signing_alg_values_supported"); ok && len(list) > 0 {
		p.fact("algorithms", "%s (advertised)", strings.Join(list, ", "))
	}
}

// keySetAddress returns jwks_uri, if the service may fetch it.
func (p *probe) keySetAddress(doc map[string]any) string {
	raw := endpoint.Text(doc, "jwks_uri")
	if raw == "" {
		p.Fatal("switch on the provider's key set, or give the keys in a file (jwks_file)", "the discovery document has no jwks_uri")
		return ""
	}
	p.fact("key set", "%s", raw)
	u, err := endpoint.ParseURL(raw)
	if err == nil && u.Scheme == "http" && p.issuer.Scheme == "https" {
		p.Fatal("let the provider name an https address", "the keys are at %s, in plain http: anyone on the way can replace them", raw)
		return ""
	}
	if err != nil {
		p.Fatal("correct the public URL at the provider", "the address of the key set is not usable: %v", err)
		return ""
	}
	if hostPort(u) != hostPort(p.issuer) {
		p.Entry.JWKSHosts = []string{hostPort(u)}
		p.Advise("if that host belongs to the provider, keep jwks_hosts in the block below",
			"the keys are on another host, %s, from which the service fetches them only when jwks_hosts names it", hostPort(u))
	}
	return raw
}
