package oidc

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNewRefusesBadConfigurations(t *testing.T) {
	base := Issuer{Name: "a", URL: "https://idp.example/realms/x", Audiences: []string{"mayfly"}}
	change := func(f func(*Issuer)) Config {
		is := base
		f(&is)
		return Config{Issuers: []Issuer{is}}
	}
	url := func(u string) Config { return change(func(is *Issuer) { is.URL = u }) }
	second := func(u string) Config {
		is := base
		is.Name, is.URL = "b", u
		return Config{Issuers: []Issuer{base, is}}
	}
	if _, err := New(Config{Issuers: []Issuer{base}}); err != nil {
		t.Fatalf("the issuer that all cases are made from: %v", err)
	}
	for name, cfg := range map[string]Config{
		"no issuer":         {},
		"token limit low":   {Issuers: []Issuer{base}, MaxTokenBytes: 39},
		"token limit high":  {Issuers: []Issuer{base}, MaxTokenBytes: 65537},
		"name twice":        {Issuers: []Issuer{base, {Name: "a", URL: "https://other.example", Audiences: []string{"x"}}}},
		"no name":           change(func(is *Issuer) { is.Name = "" }),
		"reserved name":     change(func(is *Issuer) { is.Name = "unknown" }),
		"name with space":   change(func(is *Issuer) { is.Name = "a b" }),
		"name too long":     change(func(is *Issuer) { is.Name = strings.Repeat("a", 65) }),
		"no audience":       change(func(is *Issuer) { is.Audiences = nil }),
		"empty audience":    change(func(is *Issuer) { is.Audiences = []string{"x", ""} }),
		"empty party":       change(func(is *Issuer) { is.AuthorizedParties = []string{""} }),
		"none":              change(func(is *Issuer) { is.Algorithms = []string{"none"} }),
		"HS256":             change(func(is *Issuer) { is.Algorithms = []string{"RS256", "HS256"} }),
		"rs256":             change(func(is *Issuer) { is.Algorithms = []string{"rs256"} }),
		"negative skew":     change(func(is *Issuer) { is.ClockSkew = -1 }),
		"skew of 3m":        change(func(is *Issuer) { is.ClockSkew = 3 * time.Minute }),
		"refresh of 1s":     change(func(is *Issuer) { is.Refresh = time.Second }),
		"refresh of 25h":    change(func(is *Issuer) { is.Refresh = 25 * time.Hour }),
		"stale < refresh":   change(func(is *Issuer) { is.Refresh, is.MaxStale = time.Hour, time.Minute }),
		"stale < default":   change(func(is *Issuer) { is.MaxStale = time.Minute }),
		"negative age":      change(func(is *Issuer) { is.MaxTokenAge = -time.Hour }),
		"negative lifetime": change(func(is *Issuer) { is.MaxTokenLifetime = -time.Hour }),
		"JWKS host a URL":   change(func(is *Issuer) { is.JWKSHosts = []string{"https://x"} }),
		"JWKS host a path":  change(func(is *Issuer) { is.JWKSHosts = []string{"x/y"} }),
		"JWKS host empty":   change(func(is *Issuer) { is.JWKSHosts = []string{""} }),
		"JWKS host a user":  change(func(is *Issuer) { is.JWKSHosts = []string{"u@x"} }),
		"http":              url("http://idp.example"),
		"template":          url("https://login.example/{tenantid}/v2.0"),

		"accepted issuer is ours":    change(func(is *Issuer) { is.AcceptedIssuers = []string{is.URL + "/"} }),
		"accepted issuer twice":      change(func(is *Issuer) { is.AcceptedIssuers = []string{"http://x/a", "http://x/a/"} }),
		"accepted issuer of another": {Issuers: []Issuer{base, {Name: "b", URL: "https://b.example", Audiences: []string{"x"}, AcceptedIssuers: []string{base.URL}}}},
		"accepted issuer no URL":     change(func(is *Issuer) { is.AcceptedIssuers = []string{"sts"} }),
		"accepted issuer with query": change(func(is *Issuer) { is.AcceptedIssuers = []string{"http://x/a?b"} }),
		"accepted issuer a file":     change(func(is *Issuer) { is.AcceptedIssuers = []string{"file://x/a"} }),
		"accepted issuer a template": change(func(is *Issuer) { is.AcceptedIssuers = []string{"https://sts.windows.net/{tenantid}/"} }),
		"five accepted issuers": change(func(is *Issuer) {
			is.AcceptedIssuers = []string{"http://1", "http://2", "http://3", "http://4", "http://5"}
		}),
		"kind of its own":          change(func(is *Issuer) { is.Accept, is.AuthorizedParties = "refresh_token", []string{"a"} }),
		"access tokens of anybody": change(func(is *Issuer) { is.Accept = AccessToken }),
		"scopes of ID tokens":      change(func(is *Issuer) { is.RequiredScopes = []string{"x"} }),
		"empty scope": change(func(is *Issuer) {
			is.Accept, is.AuthorizedParties, is.RequiredScopes = AccessToken, []string{"a"}, []string{""}
		}),
		"negative quota":       change(func(is *Issuer) { is.MaxCertificatesPerToken = -1 }),
		"static and URL":       change(func(is *Issuer) { is.JWKSURL, is.StaticJWKS = "https://k.example/", standardKeys() }),
		"static keys empty":    change(func(is *Issuer) { is.StaticJWKS = []byte{} }),
		"static keys unusable": change(func(is *Issuer) { is.StaticJWKS = []byte(`{"keys":[]}`) }),
		"static keys with a secret": change(func(is *Issuer) {
			is.StaticJWKS = jwkSet(publicJWK(rsaKey1().Public()), object{"kty": "oct", "k": "AQ"})
		}),
		"key set URL by http":      change(func(is *Issuer) { is.JWKSURL = "http://k.example/" }),
		"key set URL with user":    change(func(is *Issuer) { is.JWKSURL = "https://u:p@k.example/" }),
		"key set URL a file":       change(func(is *Issuer) { is.JWKSURL = "file:///keys" }),
		"query without discovery":  change(func(is *Issuer) { is.JWKSURL, is.DiscoveryQuery = "https://k.example/", "appid=1" }),
		"query of another kind":    change(func(is *Issuer) { is.DiscoveryQuery = "tenant=1" }),
		"query with two":           change(func(is *Issuer) { is.DiscoveryQuery = "appid=1&appid=2" }),
		"query without value":      change(func(is *Issuer) { is.DiscoveryQuery = "appid=" }),
		"query not ASCII":          change(func(is *Issuer) { is.DiscoveryQuery = "appid=ű" }),
		"client certificate alone": change(func(is *Issuer) { is.ClientCertFile = "c.pem" }),
		"client key alone":         change(func(is *Issuer) { is.ClientKeyFile = "k.pem" }),
		"proxy without scheme":     change(func(is *Issuer) { is.Proxy = "proxy:3128" }),
		"proxy with password":      change(func(is *Issuer) { is.Proxy = "http://u:p@proxy:3128" }),
		"proxy with path":          change(func(is *Issuer) { is.Proxy = "http://proxy:3128/x" }),
		"proxy to loopback": change(func(is *Issuer) {
			is.URL, is.AllowInsecureHTTP, is.Proxy = "http://127.0.0.1:8080", true, "http://proxy:3128"
		}),
		"SOCKS proxy":                  change(func(is *Issuer) { is.Proxy = "socks5://proxy:1080" }),
		"loopback that is none":        change(func(is *Issuer) { is.AllowLoopback = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }),
		"loopback of nothing":          change(func(is *Issuer) { is.AllowLoopback = []netip.Prefix{{}} }),
		"blocked key is no thumbprint": {Issuers: []Issuer{base}, BlockedKeys: []string{"rsa"}},
		"http on loopback":             url("http://127.0.0.1:8080"),
		"http allowed, far":            change(func(is *Issuer) { is.URL, is.AllowInsecureHTTP = "http://idp.example", true }),
		"http allowed, near":           change(func(is *Issuer) { is.URL, is.AllowInsecureHTTP = "http://127.0.0.1.evil.example", true }),
		"http allowed, TLS":            change(func(is *Issuer) { is.AllowInsecureHTTP = true }),
		"no URL":                       url(""), "no host": url("https:///x"), "no scheme": url("idp.example"), "file": url("file:///x"),
		"upper scheme and space": url("https://idp.example/ x"), "user": url("https://u:p@idp.example"),
		"query": url("https://idp.example?x"), "fragment": url("https://idp.example#"), "backslash": url(`https://idp.example\x`),
		"not ASCII":        url("https://idp.exämple"),
		"same URL":         second(base.URL),
		"same but slash":   second(base.URL + "/"),
		"same but slashes": second(base.URL + "//"),
		"same but case":    second("https://IDP.example/realms/X"),
		"same but port":    second("https://idp.example:443/realms/x"),
		"same but dot":     second("https://idp.example./realms/x"),
		"same but percent": second("https://idp.example/realms/%78"),
		"same but dots":    second("https://idp.example/realms/./y/../x"),
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted, want an error", name)
		}
	}
}

func TestNewAccepts(t *testing.T) {
	cfg := Config{Issuers: []Issuer{
		{Name: "a", URL: "https://idp.example/realms/x", Audiences: []string{"m"}, JWKSHosts: []string{"k.example", "k:8443", "[::1]:9"}},
		{Name: "b", URL: "https://idp.example/realms/y", Audiences: []string{"m"}, Refresh: 20 * time.Hour},
		{Name: "c", URL: "https://idp.example:8443/realms/x", Audiences: []string{"m"}, MaxStale: time.Hour},
		{Name: "d", URL: "http://localhost:8080/", Audiences: []string{"m"}, AllowInsecureHTTP: true},
		{Name: "f", URL: "https://adfs.example/adfs", Audiences: []string{"m"}, AcceptedIssuers: []string{"http://adfs.example/adfs/services/trust"},
			Accept: AccessToken, AuthorizedParties: []string{"cli"}, RequiredScopes: []string{"sign"}},
		{Name: "g", URL: "https://air.gap", Audiences: []string{"m"}, StaticJWKS: standardKeys(), OneTime: true},
		{Name: "h", URL: "https://kubernetes.default.svc", Audiences: []string{"m"}, JWKSURL: "https://api.example:6443/openid/v1/jwks",
			BearerTokenFile: "/none", ClientCertFile: "/none", ClientKeyFile: "/none", Proxy: "http://proxy:3128/", AllowLoopback: anyLoopback[:2]},
		{Name: "i", URL: "https://login.example/t/v2.0", Audiences: []string{"m"}, Accept: IDToken, DiscoveryQuery: "appid=" + guid, MaxCertificatesPerToken: 20},
		{Name: "e", URL: "http://[::1]:8080", Audiences: []string{"m"}, AllowInsecureHTTP: true, Algorithms: []string{"ES512"}},
	}}
	v, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	if got := v.issuers[0].Issuer; got.ClockSkew != 30*time.Second || got.Refresh != 10*time.Minute ||
		got.MaxStale != 24*time.Hour || got.MaxTokenAge != time.Hour || got.MaxTokenLifetime != 24*time.Hour {
		t.Errorf("defaults are %+v", got)
	}
	if cfg.Issuers[0].ClockSkew != 0 {
		t.Errorf("New changed its argument: %+v", cfg.Issuers[0])
	}
}

func TestNewAdoptsMetricsOfAnEarlierVerifier(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := Config{Registerer: reg, Issuers: []Issuer{{Name: "a", URL: "https://idp.example", Audiences: []string{"m"}}}}
	first, err := New(cfg)
	if err != nil {
		t.Fatalf("first New: %v", err)
	}
	second, err := New(cfg)
	if err != nil {
		t.Fatalf("second New: %v", err)
	}
	if first.metrics.rejected != second.metrics.rejected {
		t.Error("the second verifier counts where nobody looks")
	}
}
