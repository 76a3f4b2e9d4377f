// Package policy decides which verified identity gets a certificate and what
// the certificate says about it.
//
// A [Policy] answers for the issuers it was made of and refuses everything else.
// Each issuer speaks only for its own e-mail domains or URI prefixes, so that no
// identity provider can vouch for another one's people.
//
// For now an issuer's entry is one rule, named "allow-all": whoever the issuer
// vouches for, within those names. Ordered rules over claims belong in decide,
// before the name is chosen.
package policy

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/ca"
)

// ruleAllowAll is the name of the only rule there is so far.
const ruleAllowAll = "allow-all"

// Issuer is what one issuer may put into certificates.
type Issuer struct {
	// Name is the issuer's name in the configuration.
	Name string
	// SAN is the kind of name: [ca.SANEmail] takes the verified email claim,
	// [ca.SANURI] the subject, which must be a URI.
	SAN ca.SANKind
	// EmailDomains match exactly and in lower case; "*.corp.example" matches
	// every domain below corp.example, and not corp.example itself.
	EmailDomains []string
	// URIPrefixes end in a slash, so that no prefix ends inside a name.
	URIPrefixes []string
}

// Policy decides. It is immutable and safe for concurrent use.
type Policy struct {
	issuers map[string]Issuer
	digest  [32]byte
}

// New checks the issuers and returns their policy.
func New(issuers []Issuer) (*Policy, error) {
	p := &Policy{issuers: map[string]Issuer{}}
	for _, i := range issuers {
		if _, twice := p.issuers[i.Name]; twice || i.Name == "" {
			return nil, fmt.Errorf("policy: issuer name %q is empty or used twice", i.Name)
		}
		if err := i.check(); err != nil {
			return nil, fmt.Errorf("policy: issuer %q: %w", i.Name, err)
		}
		p.issuers[i.Name] = i
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

func (i Issuer) check() error {
	switch i.SAN {
	case ca.SANEmail:
		if len(i.EmailDomains) == 0 {
			return fmt.Errorf("names are e-mail addresses, but no domain is listed")
		}
	case ca.SANURI:
		if len(i.URIPrefixes) == 0 {
			return fmt.Errorf("names are URIs, but no prefix is listed")
		}
	default:
		return fmt.Errorf("unknown kind of name %q", i.SAN)
	}
	for _, d := range i.EmailDomains {
		if _, err := ca.EmailSAN("a@" + strings.TrimPrefix(d, "*.")); err != nil {
			return fmt.Errorf("e-mail domain %q: %w", d, err)
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
	i, ok := p.issuers[r.Identity.IssuerName]
	if !ok {
		return ca.Decision{}, ca.Refuse(ca.KindDenied, ca.ReasonPolicy, "no rule for issuer %q", r.Identity.IssuerName)
	}
	d := ca.Decision{Rule: ruleAllowAll, PolicyDigest: p.digest}
	var err error
	if d.SAN, err = i.name(r.Identity); err != nil {
		return ca.Decision{}, err
	}
	return d, nil
}

func (i Issuer) name(id ca.Identity) (ca.SAN, error) {
	if i.SAN == ca.SANURI {
		return i.uri(id.Subject)
	}
	return i.email(id)
}

// email names the identity by its verified address in lower case: directories
// hand out addresses in the case they were typed in, and verifiers compare
// bytes. Anything but ASCII is refused before folding, for the Kelvin sign folds
// to "k".
func (i Issuer) email(id ca.Identity) (ca.SAN, error) {
	if id.Email == "" || !id.EmailVerified {
		return ca.SAN{}, ca.Refuse(ca.KindInvalid, ca.ReasonEmailUnverified,
			"issuer %q does not vouch for an email address of this identity", i.Name)
	}
	for _, c := range []byte(id.Email) {
		if c >= 0x80 {
			return ca.SAN{}, ca.Refuse(ca.KindDenied, ca.ReasonSANInvalid, "mail address %q is not ASCII", id.Email)
		}
	}
	san, err := ca.EmailSAN(strings.ToLower(id.Email))
	if err != nil {
		return ca.SAN{}, ca.Refuse(ca.KindDenied, ca.ReasonSANInvalid, "%w", err)
	}
	_, domain, _ := strings.Cut(san.String(), "@")
	if !slices.ContainsFunc(i.EmailDomains, func(allowed string) bool { return domainMatches(allowed, domain) }) {
		return ca.SAN{}, ca.Refuse(ca.KindDenied, ca.ReasonSANNotAllowed,
			"issuer %q may not vouch for e-mail addresses in %q", i.Name, domain)
	}
	return san, nil
}

func domainMatches(allowed, domain string) bool {
	if parent, ok := strings.CutPrefix(allowed, "*"); ok { // ".corp.example"
		return len(domain) > len(parent) && strings.HasSuffix(domain, parent)
	}
	return domain == allowed
}

func (i Issuer) uri(subject string) (ca.SAN, error) {
	san, err := ca.URISAN(subject)
	if err != nil {
		return ca.SAN{}, ca.Refuse(ca.KindDenied, ca.ReasonSANInvalid, "subject: %w", err)
	}
	for _, prefix := range i.URIPrefixes {
		if len(subject) > len(prefix) && strings.HasPrefix(subject, prefix) {
			return san, nil
		}
	}
	return ca.SAN{}, ca.Refuse(ca.KindDenied, ca.ReasonSANNotAllowed, "issuer %q may not vouch for the URI %q", i.Name, subject)
}
