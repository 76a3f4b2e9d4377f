// Package probe looks at an OpenID provider as the service would, and says in
// words what is wrong with it and what to write into the configuration.
//
// Invariants:
//
//   - it asks for two documents, once each, within bounds, and follows no
//     redirect;
//   - it sends no secret and needs none;
//   - what the provider says reaches the report only as plain text on one line.
//
// The service's own code in package oidc has the last word: whoever probes should
// let it fetch the keys too. What no probe can see is whether the provider puts
// the right claims into tokens.
package probe

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

// Config says what to probe.
type Config struct {
	// URL is the issuer.
	URL string
	// RootCAs verify the provider; nil means the system's. CAFile is the name of
	// the file they are from, for the configuration.
	RootCAs *x509.CertPool
	CAFile  string
	// Clock is what the provider's is compared with; nil means time.Now.
	Clock func() time.Time
	// Resolve finds the addresses of a host; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
	// Transport replaces the network in tests; nil means the network.
	Transport http.RoundTripper
}

// Finding is something that an operator should know.
type Finding struct {
	// Fatal says that tokens of this issuer would be refused.
	Fatal bool
	What  string
	Do    string
}

// Fact is a line of the report.
type Fact struct{ Name, Value string }

// Report is what was found.
type Report struct {
	URL      string
	Facts    []Fact
	Keys     []Key
	Findings []Finding
	Entry    Entry
}

// Usable reports that nothing fatal was found.
func (r *Report) Usable() bool {
	for _, f := range r.Findings {
		if f.Fatal {
			return false
		}
	}
	return true
}

func (r *Report) fact(name, format string, args ...any) {
	r.Facts = append(r.Facts, Fact{name, endpoint.Plain(fmt.Sprintf(format, args...), 500)})
}

// Fatal adds a finding that makes the issuer unusable.
func (r *Report) Fatal(do, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{true, endpoint.Plain(fmt.Sprintf(format, args...), 800), do})
}

// Advise adds a finding that does not.
func (r *Report) Advise(do, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{false, endpoint.Plain(fmt.Sprintf(format, args...), 800), do})
}

// probe is one run.
type probe struct {
	cfg Config
	*Report
	http   *endpoint.Client
	issuer *url.URL
}

// Run probes an issuer. The error is about the URL itself; everything else is in
// the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	u, err := endpoint.ParseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	// OpenID Connect Discovery, Section 3: the issuer is a "URL using the https
	// scheme with no query or fragment components".
	if strings.ContainsAny(cfg.URL, "?") {
		return nil, fmt.Errorf("%s has a query; an issuer has none", cfg.URL)
	}
	if before, found := strings.CutSuffix(cfg.URL, "/.well-known/openid-configuration"); found {
		return nil, fmt.Errorf("this is the discovery document; the issuer is %s, or that with a slash", before)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Resolve == nil {
		cfg.Resolve = resolve
	}
	p := &probe{
		cfg: cfg, issuer: u, Report: &Report{URL: cfg.URL, Entry: newEntry(u, cfg)},
		http: endpoint.New(endpoint.Config{RootCAs: cfg.RootCAs, Transport: cfg.Transport}),
	}
	p.run(ctx)
	return p.Report, nil
}

func (p *probe) run(ctx context.Context) {
	if p.issuer.Scheme == "http" {
		p.Advise("use https as soon as others than yourself depend on it",
			"the issuer is asked over plain http: whoever listens at that port can make any identity")
	}
	if !p.addresses(ctx) {
		return
	}
	well := strings.TrimSuffix(p.URL, "/") + "/.well-known/openid-configuration"
	p.fact("discovery", "%s", well)
	a := p.get(ctx, well, "discovery document")
	if a == nil {
		return
	}
	p.connection(a)
	doc, err := endpoint.Object(a.Body)
	if err != nil {
		p.Fatal("check the URL with a browser: another program may answer there", "the discovery document cannot be read: %v", err)
		return
	}
	p.provider(doc)
	address := p.keySetAddress(doc)
	if address == "" {
		return
	}
	if a = p.get(ctx, address, "key set"); a == nil {
		return
	}
	p.keys(a.Body, doc)
}

// get fetches a document, or adds why it could not.
func (p *probe) get(ctx context.Context, address, what string) *endpoint.Answer {
	before := p.cfg.Clock()
	a, err := p.http.Get(ctx, address, nil)
	if err != nil {
		p.unreachable(what, err)
		return nil
	}
	p.clock(a.Header, before, p.cfg.Clock())
	switch {
	case a.Status == http.StatusOK:
		return a
	case a.Status >= 300 && a.Status < 400:
		p.Fatal("use the URL that it redirects to, if the document there names it as issuer; the service follows no redirect",
			"the %s is redirected (%d) to %q", what, a.Status, a.Header.Get("Location"))
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		p.Fatal("let the document be read by everybody; for Kubernetes, bind system:service-account-issuer-discovery to "+
			"system:unauthenticated, or give the service a bearer_token_file",
			"the %s is not public: status %d from %s", what, a.Status, address)
	case a.Status == http.StatusNotFound:
		p.Fatal("check the path: Keycloak has /realms/NAME (before version 17 /auth/realms/NAME), AD FS /adfs, Entra ID /TENANT/v2.0",
			"there is no %s at %s: status 404", what, address)
	default:
		p.Fatal("see the provider's own log", "the %s is not given out: status %d from %s", what, a.Status, address)
	}
	return nil
}
