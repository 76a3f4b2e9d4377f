package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Bounds of a certificate profile.
const (
	// MaxLifetime is the longest that a certificate may be valid, back-dating
	// included.
	MaxLifetime = 10 * time.Minute
	// MinLifetime is the shortest.
	MinLifetime = time.Minute
	// MaxBackdate bounds back-dating.
	MaxBackdate = time.Minute
	// DefaultBackdate forgives a timestamp authority or verifier whose clock
	// runs a little behind ours.
	DefaultBackdate = 30 * time.Second
	// DefaultName names the profile and the authority that are meant when a
	// decision names none.
	DefaultName = "default"
)

// Profile is the shape of a certificate.
type Profile struct {
	Name string
	// Lifetime is NotAfter minus NotBefore, [MinLifetime] to [MaxLifetime].
	Lifetime time.Duration
	// Backdate is how far NotBefore lies before the request, 0 to
	// [MaxBackdate]. It is part of Lifetime.
	Backdate time.Duration
	// Keys are the client keys that are accepted; empty means all known kinds.
	Keys []KeyKind
	// Policies are the certificate policies (RFC 5280, Section 4.2.1.4) that a
	// certificate is issued under; empty leaves the extension out.
	Policies []x509.OID
	// NoRevAvail says in the certificate that no revocation information will
	// ever be published for it (RFC 9608), so that verifiers need not look.
	NoRevAvail bool
}

// maxPolicies is more than any PKI gives to one certificate.
const maxPolicies = 8

// DefaultProfile is ten minutes for any kind of key that Mayfly accepts.
func DefaultProfile() Profile {
	return Profile{Name: DefaultName, Lifetime: MaxLifetime, Backdate: DefaultBackdate}
}

func (p Profile) check() error {
	switch {
	case p.Name == "":
		return fmt.Errorf("profile without a name")
	case p.Lifetime < MinLifetime || p.Lifetime > MaxLifetime:
		return fmt.Errorf("profile %q: lifetime %v is not between %v and %v", p.Name, p.Lifetime, MinLifetime, MaxLifetime)
	case p.Backdate < 0 || p.Backdate > MaxBackdate || p.Backdate >= p.Lifetime:
		return fmt.Errorf("profile %q: backdate %v is not between 0 and %v and below the lifetime", p.Name, p.Backdate, MaxBackdate)
	case len(p.Policies) > maxPolicies:
		return fmt.Errorf("profile %q: %d certificate policies, more than %d", p.Name, len(p.Policies), maxPolicies)
	}
	for i, policy := range p.Policies {
		// RFC 5280, Section 4.2.1.4: "A certificate policy OID MUST NOT appear
		// more than once in a certificate policies extension."
		if slices.ContainsFunc(p.Policies[:i], policy.Equal) {
			return fmt.Errorf("profile %q: certificate policy %v twice", p.Name, policy)
		}
		if der, err := policy.MarshalBinary(); err != nil || len(der) == 0 {
			return fmt.Errorf("profile %q: certificate policy %d is no object identifier", p.Name, i+1)
		}
	}
	return nil
}

// agrees refuses a certificate that would say that no revocation information
// exists and where to find it. RFC 9608, Section 3: a certificate with
// noRevAvail "MUST NOT include" CRL distribution points, freshest CRLs or the
// address of an OCSP responder.
func (p Profile) agrees(c *Chain) error {
	if p.NoRevAvail && c.crlURL != "" {
		return fmt.Errorf("profile %q says that there is no revocation information, and chain %q names a revocation list; remove one of them", p.Name, c.name)
	}
	return nil
}

// checkProfiles returns profiles by name, the default one among them, that are
// good and contradict none of the chains.
func checkProfiles(profiles []Profile, chains []*Chain) (map[string]Profile, error) {
	byName := map[string]Profile{DefaultName: DefaultProfile()}
	for _, p := range profiles {
		if err := p.check(); err != nil {
			return nil, err
		}
		byName[p.Name] = p
	}
	for _, c := range chains {
		for _, p := range byName {
			if err := p.agrees(c); err != nil {
				return nil, err
			}
		}
	}
	return byName, nil
}

func (p Profile) allows(k KeyKind) bool {
	return len(p.Keys) == 0 || slices.Contains(p.Keys, k)
}

// validity returns the certificate's NotBefore and NotAfter for a request at
// now, in whole seconds, inside every certificate of the chain. Back-dating
// gives way to the chain's own start; the end never does: a leaf that would
// outlive its chain is refused, because shortening it would be a surprise.
func (p Profile) validity(now time.Time, c *Chain) (notBefore, notAfter time.Time, err error) {
	now = now.UTC().Truncate(time.Second)
	notBefore = now.Add(-p.Backdate)
	notAfter = notBefore.Add(p.Lifetime)
	if now.Before(c.notBefore) {
		return notBefore, notAfter, Refuse(KindUnavailable, ReasonNoActiveChain,
			"chain %q is not valid before %v", c.name, c.notBefore)
	}
	if notBefore.Before(c.notBefore) {
		notBefore = c.notBefore
	}
	if notAfter.After(c.notAfter) {
		return notBefore, notAfter, Refuse(KindUnavailable, ReasonChainExpiring,
			"chain %q ends at %v, before the certificate would at %v", c.name, c.notAfter, notAfter)
	}
	return notBefore, notAfter, nil
}
