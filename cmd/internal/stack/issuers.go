package stack

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/policy"
	"github.com/mayfly-ca/mayfly/internal/server"
	"github.com/mayfly-ca/mayfly/oidc"
)

// keyCacheDir keeps the last good keys of each issuer.
func keyCacheDir(state string) string { return filepath.Join(state, "issuer-keys") }

// planIssuers turns each issuer's entry, over the row of its preset, into what
// the token layer, policy and clients are told.
func (p *plan) planIssuers() {
	var rules []policy.Issuer
	for i, c := range p.file.Issuers {
		path := fmt.Sprintf("issuers[%d]", i)
		row, known := policy.Preset(c.Preset)
		if !known && c.Preset != config.PresetGeneric {
			p.bad(path+".preset", "there is no preset %q", c.Preset)
		}
		if known && row.Issuer != "" {
			if err := row.CheckIssuer(c.URL); err != nil {
				p.bad(path+".url", "%v", err)
			}
		}
		p.issuers = append(p.issuers, p.tokenIssuer(path, c, row))
		p.blocked = append(p.blocked, c.BlockedKeys...)
		r := p.policyIssuer(path, c, row)
		// One by one, so that a problem has its place; together below.
		if _, err := policy.New([]policy.Issuer{r}); err != nil {
			p.bad(path+rulesKey(c), "%v", err)
		}
		rules = append(rules, r)
		for _, audience := range c.Audiences {
			p.public = append(p.public, publicIssuer(c, r, audience))
		}
	}
	if _, err := oidc.New(p.oidcConfig()); err != nil {
		p.bad("issuers", "%v", err)
	}
	var err error
	if p.policy, err = policy.New(rules); err != nil && len(p.problems) == 0 {
		p.bad("issuers", "%v", err)
	}
}

// oidcConfig is the token layer without what only a running service has.
func (p *plan) oidcConfig() oidc.Config {
	return oidc.Config{Issuers: p.issuers, BlockedKeys: p.blocked, MaxTokenBytes: int(p.file.Limits.TokenSize)}
}

func rulesKey(c config.Issuer) string {
	if len(c.Rules) > 0 {
		return ".rules"
	}
	return ""
}

// tokenIssuer is the token layer's side of an entry.
func (p *plan) tokenIssuer(path string, c config.Issuer, row policy.Row) oidc.Issuer {
	is := oidc.Issuer{
		Name: c.Name, URL: c.URL, AcceptedIssuers: c.AcceptedIssuers,
		Accept:    oidc.TokenKind(cmp.Or(c.Accept, row.Accept, config.AcceptIDToken)),
		Audiences: c.Audiences, ExtraAudiences: orElse(c.ExtraAudiences, row.ExtraAudiences),
		AuthorizedParties: c.AuthorizedParties, RequiredScopes: c.RequiredScopes, Algorithms: orElse(c.Algorithms, row.Algorithms), ClockSkew: c.ClockSkew,
		MaxTokenAge: cmp.Or(c.MaxTokenAge, row.MaxTokenAge), MaxTokenLifetime: cmp.Or(c.MaxTokenLifetime, row.MaxTokenLifetime),
		Refresh: c.Refresh, ScheduleOnly: c.RefreshOnlyOnSchedule, MaxStale: c.MaxStale, RootCAs: p.roots(path+".ca_file", c.CAFile),
		AllowInsecureHTTP: c.InsecureHTTP, AllowLoopback: c.AllowLoopback, Proxy: c.Proxy,
		ClientCertFile: c.ClientCertificate, ClientKeyFile: c.ClientKey, BearerTokenFile: c.BearerTokenFile,
		JWKSHosts: c.JWKSHosts, JWKSURL: c.JWKSURL, EmailVerifiedString: c.EmailVerifiedString,
		MaxCertificatesPerToken: c.MaxCertificatesPerToken, OneTime: c.OneTimeTokens,
	}
	// The further issuers of presets stand in access tokens. Where ID tokens are
	// wanted, to know them would only let access tokens try to pass for one.
	if is.Accept == oidc.AccessToken && len(is.AcceptedIssuers) == 0 {
		is.AcceptedIssuers = row.FurtherIssuers(c.URL)
	}
	if c.AppID != "" {
		is.DiscoveryQuery = "appid=" + c.AppID
	}
	if c.JWKSFile != "" {
		var err error
		if is.StaticJWKS, err = files.Read(c.JWKSFile); err != nil {
			p.bad(path+".jwks_file", "%v", err)
		}
	}
	return is
}

// orElse is the configured list, or the preset's when there is none.
func orElse[T any](configured, preset []T) []T {
	if len(configured) > 0 {
		return configured
	}
	return preset
}

// policyIssuer is policy's side of an entry.
func (p *plan) policyIssuer(path string, c config.Issuer, row policy.Row) policy.Issuer {
	is := policy.Issuer{
		Name: c.Name, EmailDomains: c.MayIssue.EmailDomains, URIPrefixes: c.MayIssue.URIPrefixes,
		UsernameDomains: c.MayIssue.UsernameDomains, TrustedClaims: orElse(c.TrustedClaims, row.TrustedClaims),
	}
	switch {
	case c.Allow == config.AllowAll:
		is.SAN = ca.SANKind(c.SAN)
	case len(c.Rules) == 0:
		is.Rules = row.Rules
	}
	for i, r := range c.Rules {
		made := policy.Rule{Name: r.Name, When: cmp.Or(r.When, "true"), SAN: r.SAN, Profile: r.Profile, Authority: r.Authority}
		if r.SAN == "" && len(row.Rules) > 0 {
			// Who takes the preset's name takes its condition too: the one is safe
			// only under the other.
			var err error
			if made.When, err = policy.And(row.Rules[0].When, made.When); err != nil {
				p.bad(fmt.Sprintf("%s.rules[%d].when", path, i), "%v", err)
			}
			made.SAN, made.Extensions = row.Rules[0].SAN, row.Rules[0].Extensions
		}
		if len(r.Extensions) > 0 {
			made.Extensions = nil
		}
		for k, e := range r.Extensions {
			number, known := config.ExtensionNumber(e.Name)
			if !known {
				p.bad(fmt.Sprintf("%s.rules[%d].extensions[%d].name", path, i, k), "there is no extension %q", e.Name)
			}
			made.Extensions = append(made.Extensions, policy.RuleExtension{Number: number, Value: e.Value})
		}
		is.Rules = append(is.Rules, made)
	}
	return is
}

// publicIssuer is what GetConfiguration tells about an issuer. The challenge
// claim is what stock clients sign: the email if the token has one, else sub.
func publicIssuer(c config.Issuer, r policy.Issuer, audience string) server.Issuer {
	public := server.Issuer{URL: c.URL, Audience: audience, Type: "uri", ChallengeClaim: "sub"}
	switch {
	case r.SAN == ca.SANEmail, r.SAN == "" && len(r.EmailDomains) > 0:
		public.Type, public.ChallengeClaim = "email", "email"
	case r.SAN == "" && len(r.URIPrefixes) == 0:
		public.Type = "username"
	}
	return public
}

// runRuleTests holds the rules to the tests that stand beside them.
func (p *plan) runRuleTests() {
	for i, c := range p.file.Issuers {
		for j, r := range c.Rules {
			for k, t := range r.Tests {
				path := fmt.Sprintf("issuers[%d].rules[%d].tests[%d]", i, j, k)
				claims, err := files.Read(t.Token)
				if err != nil {
					p.bad(path+".token", "%v", err)
					continue
				}
				test := policy.Case{
					Issuer: c.Name, URL: c.URL, Rule: r.Name, Claims: claims, At: t.At, Expect: t.Expect,
					EmailVerifiedString: c.EmailVerifiedString,
				}
				if err := p.policy.Test(context.Background(), test); err != nil {
					p.bad(path, "%v", err)
				}
			}
		}
	}
}
