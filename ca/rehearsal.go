package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Rehearsal is a throw-away certificate: what a chain and profile would give to
// somebody with that kind of name, signed by keys that were made for it and are
// gone. Nobody who trusts the chain's root believes it. Whoever wants to look at
// certificates before any is issued, such as a linter, looks at these.
type Rehearsal struct {
	Chain, Profile string
	Kind           SANKind
	DER            []byte
	// Issuer is the throw-away certificate above it: the chain's issuing
	// certificate in everything but key and signature.
	Issuer *x509.Certificate
}

// rehearsalOrder are the kinds of name that are rehearsed.
var rehearsalOrder = []SANKind{SANEmail, SANURI, SANUsername}

// Rehearse has every chain that may still sign at now or later make a certificate
// of every profile and kind of name, with throw-away keys, and verifies each for
// code signing. Kinds that a chain's name constraints rule out are left out. The
// default profile is among the profiles unless another has its name.
//
// [New] does the same and refuses what does not verify here.
func Rehearse(chains []*Chain, profiles []Profile, now time.Time) ([]Rehearsal, error) {
	byName, err := checkProfiles(profiles, chains)
	if err != nil {
		return nil, err
	}
	var all []Rehearsal
	var errs []error
	for _, c := range chains {
		if c.retiredAt(now) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			done, err := c.rehearse(byName[name], now)
			if err != nil {
				errs = append(errs, fmt.Errorf("chain %q would not work with profile %q: %w", c.name, name, err))
			}
			all = append(all, done...)
		}
	}
	return all, errors.Join(errs...)
}

func (c *Chain) rehearse(p Profile, now time.Time) ([]Rehearsal, error) {
	var all []Rehearsal
	for _, kind := range rehearsalOrder {
		cert, err := c.twin.rehearse(p, kind, now)
		if r, ok := errors.AsType[*Refusal](err); ok && r.Reason == ReasonNameNotPermitted {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("a name of kind %s: %w", kind, err)
		}
		all = append(all, Rehearsal{Chain: c.name, Profile: p.Name, Kind: kind, DER: cert.Raw, Issuer: c.twin.chain.issuing()})
	}
	return all, nil
}

// rehearsal has the twin issue and verify one certificate of each kind of name.
func (in *inspection) rehearsal() {
	t, err := newTwin(in.certs)
	if err != nil {
		in.add(CheckRehearsal, Problem, "%v", err)
		return
	}
	if t.chain.notAfter.Sub(t.chain.notBefore) < MaxLifetime {
		in.add(CheckRehearsal, Problem, "the certificates are never all valid for ten minutes together")
		return
	}
	for _, kind := range rehearsalOrder {
		_, err := t.rehearse(DefaultProfile(), kind, in.now)
		if r, ok := errors.AsType[*Refusal](err); ok && r.Reason == ReasonNameNotPermitted {
			in.add(CheckRehearsal, Warning, "no certificate with a name of kind %s was permitted: %v", kind, r.Err)
			continue
		}
		if err == nil {
			continue
		}
		// The path may demand certificate policies (RFC 5280, Section 4.2.1.11),
		// which profiles can have. New finds those that have not.
		p := DefaultProfile()
		p.Policies = in.certs[0].Policies
		if _, again := t.rehearse(p, kind, in.now); again == nil && len(p.Policies) > 0 {
			in.add(CheckRehearsal, Note, "the path demands certificate policies; write policies: %v into every profile that issues from it", p.Policies)
			return
		}
		in.add(CheckRehearsal, Problem, "a certificate with a name of kind %s would not verify: %v", kind, err)
	}
}
