package policy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/mayfly-ca/mayfly/ca"
)

// ruleAllowAll is the name of the only rule there is so far.
const ruleAllowAll = "allow-all"

// Issuer is what one issuer may put into certificates.
type Issuer struct {
	// Name is the issuer's name in the configuration.
	Name string
	// SAN is the kind of name of an issuer without rules: [ca.SANEmail] takes the
	// verified email claim, [ca.SANURI] the subject, which must be a URI.
	SAN ca.SANKind
	// EmailDomains match exactly and in lower case; "*.corp.example" matches
	// every domain below corp.example, and not corp.example itself.
	EmailDomains []string
	// URIPrefixes end in a slash, so that no prefix ends inside a name.
	URIPrefixes []string
	// UsernameDomains bound the part after the "!" of user names, as
	// EmailDomains do the part after the "@".
	UsernameDomains []string
	// Rules are tried in order; the first that matches decides. None means the
	// rule "allow-all" with SAN.
	Rules []Rule
	// TrustedClaims are claims that the provider's administrators vouch for in
	// every token although the claim alone does not show it: "email" where
	// there is no email_verified, "preferred_username" where people cannot
	// choose it. Rules may make names of them without a further condition.
	TrustedClaims []string
}

// compiled is an issuer that was checked.
type compiled struct {
	Issuer
	rules []*rule
}

// Policy decides. It is immutable and safe for concurrent use.
type Policy struct {
	issuers map[string]*compiled
	digest  [32]byte
}

// New checks the issuers and returns their policy.
func New(issuers []Issuer) (*Policy, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("policy: making the language of rules: %w", err)
	}
	p := &Policy{issuers: map[string]*compiled{}}
	for _, i := range issuers {
		if _, twice := p.issuers[i.Name]; twice || i.Name == "" {
			return nil, fmt.Errorf("policy: issuer name %q is empty or used twice", i.Name)
		}
		c, err := i.compile(env)
		if err != nil {
			return nil, fmt.Errorf("policy: issuer %q: %w", i.Name, err)
		}
		p.issuers[i.Name] = c
	}
	// JSON of plain strings in the order of the configuration: the same policy
	// has the same digest everywhere.
	text, err := json.Marshal(issuers)
	if err != nil {
		return nil, fmt.Errorf("policy: digesting: %w", err)
	}
	p.digest = sha256.Sum256(text)
	return p, nil
}

// Digest returns SHA-256 of everything the policy was made of.
func (p *Policy) Digest() [32]byte { return p.digest }

func (i Issuer) compile(env *cel.Env) (*compiled, error) {
	if err := i.checkNames(); err != nil {
		return nil, err
	}
	c := &compiled{Issuer: i}
	if len(i.Rules) == 0 {
		return c, i.checkAllowAll()
	}
	switch {
	case i.SAN != "":
		return nil, fmt.Errorf("rules make the names; the kind %q has no use beside them", i.SAN)
	case len(i.Rules) > maxRules:
		return nil, fmt.Errorf("%d rules, more than %d", len(i.Rules), maxRules)
	case len(i.EmailDomains)+len(i.URIPrefixes)+len(i.UsernameDomains) == 0:
		return nil, errors.New("no name is listed that the issuer may vouch for")
	}
	seen := map[string]bool{}
	for n, r := range i.Rules {
		if seen[r.Name] {
			return nil, fmt.Errorf("two rules are named %q", r.Name)
		}
		seen[r.Name] = true
		made, err := compile(env, r, i.TrustedClaims)
		if err != nil {
			return nil, fmt.Errorf("rule %d %q: %w", n+1, r.Name, err)
		}
		c.rules = append(c.rules, made)
	}
	return c, nil
}

func (i Issuer) checkAllowAll() error {
	switch i.SAN {
	case ca.SANEmail:
		if len(i.EmailDomains) == 0 {
			return errors.New("names are e-mail addresses, but no domain is listed")
		}
	case ca.SANURI:
		if len(i.URIPrefixes) == 0 {
			return errors.New("names are URIs, but no prefix is listed")
		}
	default:
		return fmt.Errorf("unknown kind of name %q", i.SAN)
	}
	return nil
}

func (i Issuer) checkNames() error {
	for _, d := range i.EmailDomains {
		if _, err := ca.EmailSAN("a@" + strings.TrimPrefix(d, "*.")); err != nil {
			return fmt.Errorf("e-mail domain %q: %w", d, err)
		}
	}
	for _, d := range i.UsernameDomains {
		if _, err := ca.UsernameSAN("a", strings.TrimPrefix(d, "*.")); err != nil {
			return fmt.Errorf("username domain %q: %w", d, err)
		}
	}
	for _, u := range i.URIPrefixes {
		if _, err := ca.URISAN(u); err != nil || !strings.HasSuffix(u, "/") {
			return fmt.Errorf("URI prefix %q is not a plain URI that ends in a slash", u)
		}
	}
	return nil
}

// Decide is a [ca.Policy].
func (p *Policy) Decide(_ context.Context, r ca.Request) (ca.Decision, error) {
	return p.decide(factsOf(&r))
}

func (p *Policy) decide(f *facts) (ca.Decision, error) {
	i, ok := p.issuers[f.id.IssuerName]
	if !ok {
		return ca.Decision{}, ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no rule for issuer %q", f.id.IssuerName)
	}
	d, err := i.decide(f)
	if err != nil {
		return ca.Decision{}, err
	}
	if err := i.mayName(d.SAN); err != nil {
		return ca.Decision{}, err
	}
	d.PolicyDigest = p.digest
	return d, nil
}

func (c *compiled) decide(f *facts) (ca.Decision, error) {
	if len(c.rules) == 0 {
		san, err := c.allowAll(&f.id)
		return ca.Decision{Rule: ruleAllowAll, SAN: san}, err
	}
	for _, r := range c.rules {
		if d, err := r.decide(f); !errors.Is(err, errNoMatch) {
			return d, err
		}
	}
	if rule, reason := c.wanted(f); reason != "" {
		return ca.Decision{}, ca.Refuse(ca.KindDenied, reason, "no rule of issuer %q matches; rule %q wants another login", c.Name, rule)
	}
	return ca.Decision{}, ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no rule of issuer %q matches", c.Name)
}

// allowAll names the identity by its verified address, or by its subject.
func (c *compiled) allowAll(id *ca.Identity) (ca.SAN, error) {
	var san ca.SAN
	var err error
	if c.SAN == ca.SANURI {
		san, err = wholeURI(id.Subject)
	} else {
		if id.Email == "" || !id.EmailVerified {
			return san, ca.Refuse(ca.KindInvalid, ca.ReasonEmailUnverified,
				"issuer %q does not vouch for an email address of this identity", c.Name)
		}
		san, err = foldEmail(id.Email)
	}
	switch {
	case errors.Is(err, errGuest):
		return san, ca.Refuse(ca.KindDenied, ca.ReasonGuest, "%w", err)
	case err != nil:
		return san, ca.Refuse(ca.KindDenied, ca.ReasonSANInvalid, "%w", err)
	}
	return san, nil
}
