package ca

import (
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
}

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
	}
	return nil
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
