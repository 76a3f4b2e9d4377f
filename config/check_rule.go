package config

import (
	"regexp"
	"slices"
	"strings"
)

// Bounds of a policy. Each request may try every rule of its issuer.
const (
	maxRules      = 64
	maxRuleTests  = 100
	maxExtensions = 20 // there are no more
)

// issuerPolicy checks that it is said once who gets a certificate: by rules, by
// allow, or by the preset.
func (c *checker) issuerPolicy(at string, is Issuer) {
	allow, san := join(at, "allow"), join(at, "san")
	rules := c.given(join(at, "rules"))
	if is.Allow != "" && len(is.TrustedClaims) > 0 {
		c.bad(join(at, "trusted_claims"), "allow makes names of the verified email or the sub, and trusts no other claim; write rules instead of allow, or remove this key")
	}
	switch {
	case rules && is.Allow != "":
		c.bad(allow, "rules and allow exclude each other; remove one of them")
	case rules && is.SAN != "":
		c.bad(san, "each rule has its own san; remove this key")
	case rules && len(is.Rules) == 0:
		c.bad(join(at, "rules"), "no rule lets nobody in; write one, or remove the key")
	case rules:
		c.rules(join(at, "rules"), is)
	case is.Allow != "" || is.SAN != "" || is.Preset == PresetGeneric:
		c.allow(allow, san, is)
	}
}

func (c *checker) allow(allow, san string, is Issuer) {
	switch is.Allow {
	case AllowAll:
	case "":
		c.bad(allow, "required without rules; write `allow: all` to say that every valid token of this issuer gets a certificate")
	default:
		c.bad(allow, "write `allow: all` to say that every valid token of this issuer gets a certificate; there is no other value")
	}
	switch {
	case is.SAN != "":
		c.word(san, is.SAN, sanKinds)
	case is.Allow != "":
		c.bad(san, "required with allow; write email or uri, for what certificates name")
	}
}

func (c *checker) rules(list string, is Issuer) {
	if len(is.Rules) > maxRules {
		c.bad(list, "there are %d rules; write at most %d, a condition may list many names", len(is.Rules), maxRules)
	}
	names := make(map[string]int)
	for i, r := range is.Rules {
		at := index(list, i)
		c.name(list, i, r.Name, names)
		if r.SAN == "" && is.Preset == PresetGeneric {
			c.bad(join(at, "san"), "required; write what certificates name, such as email(claims.email)")
		}
		if !slices.ContainsFunc(c.file.Profiles, func(p Profile) bool { return p.Name == r.Profile }) {
			c.bad(join(at, "profile"), "there is no profile %q; add it under profiles, or correct the name", clip(r.Profile))
		}
		switch {
		case !c.hasAuthority(r.Authority):
			c.bad(join(at, "authority"), "there is no authority %q; add it under authorities, or correct the name", clip(r.Authority))
		case r.Authority != DefaultName && !slices.ContainsFunc(c.file.Chains, func(ch Chain) bool { return ch.Authority == r.Authority }):
			c.bad(join(at, "authority"), "no chain has the authority %q; add one under chains, or correct the name", clip(r.Authority))
		}
		c.extensions(join(at, "extensions"), r.Extensions)
		c.ruleTests(join(at, "tests"), r.Tests)
	}
}

func (c *checker) extensions(list string, all []Extension) {
	seen := make(map[string]int)
	for i, e := range all {
		key := join(index(list, i), "name")
		first, again := seen[e.Name]
		_, known := ExtensionNumber(e.Name)
		near := nearest(e.Name, ExtensionNames())
		switch {
		case e.Name == "":
			c.bad(key, "required; use one of %s", strings.Join(ExtensionNames(), ", "))
		case !known && near != "":
			c.bad(key, "%q is not known; did you mean %s?", clip(e.Name), near)
		case !known:
			c.bad(key, "%q is not known; use one of %s", clip(e.Name), strings.Join(ExtensionNames(), ", "))
		case again:
			c.bad(key, "%s was given before, in line %d; remove one of them", e.Name, c.file.Line(index(list, first)))
		default:
			seen[e.Name] = i
		}
		if e.Value == "" {
			c.bad(join(index(list, i), "value"), "required; write an expression that is a text, such as claims.sha")
		}
	}
}

// reasonForm is what the reason of a refusal looks like. Which ones there are is
// known where they are made.
var reasonForm = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

func (c *checker) ruleTests(list string, all []RuleTest) {
	if len(all) > maxRuleTests {
		c.bad(list, "there are %d tests; write at most %d", len(all), maxRuleTests)
	}
	for i, t := range all {
		at := index(list, i)
		if t.Token == "" {
			c.bad(join(at, "token"), "required; name a file with the claims of a token as JSON")
		}
		if t.At.IsZero() {
			c.bad(join(at, "at"), "required; write the time of the request, such as 2026-11-22T09:00:00Z, so that the test is the same tomorrow")
		}
		kind, rest, more := strings.Cut(t.Expect, ":")
		switch {
		case t.Expect == "":
			c.bad(join(at, "expect"), "required; write a name such as email:alice@corp.example, or refuse")
		case kind == Refuse && (!more || reasonForm.MatchString(rest)):
		case kind == Refuse:
			c.bad(join(at, "expect"), "%q is not a reason; write refuse alone, or one that docs/api.md lists, such as refuse:policy", clip(rest))
		case !slices.Contains(nameKinds, kind) || rest == "":
			c.bad(join(at, "expect"), "%q is neither a name nor a refusal; write one such as email:alice@corp.example, uri:https://ci.corp.example/a or username:alice!corp.example, or refuse", clip(t.Expect))
		}
	}
}
