package ca

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

// lineage names what clients must know of a chain before it signs: the issuing
// key with its subject and key identifier, for an authority. A certificate that
// was renewed for the same key is of the same lineage: what it issues verifies
// under the path that clients have.
type lineage struct {
	authority string
	issuer    [32]byte
}

func (c *Chain) lineage() lineage {
	h := sha256.New()
	for _, part := range [][]byte{c.issuing().RawSubject, c.issuing().RawSubjectPublicKeyInfo, c.issuing().SubjectKeyId} {
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	return lineage{c.authority, [32]byte(h.Sum(nil))}
}

// publications returns since when each lineage is published, or from when it
// will be: from the moment at which this process first had it in its trust
// bundle, because what a file says about the past no client has seen.
func publications(chains []*Chain, before *Authority, now time.Time) map[lineage]time.Time {
	all := map[lineage]time.Time{}
	for _, c := range chains {
		from := now
		if before != nil {
			if known, ok := before.publications[c.lineage()]; ok && known.Before(now) {
				from = known
			}
		}
		if !c.published(now) {
			from = c.publishFrom
		}
		if earlier, ok := all[c.lineage()]; !ok || from.Before(earlier) {
			all[c.lineage()] = from
		}
	}
	return all
}

// checkSuccession refuses to follow the authority before with these chains if
// clients could be surprised: by certificates of a chain that was not in the
// trust bundle for its min_lead, or because the chain that signs is gone from
// it. It says what to write instead.
//
// At a start there is nothing to follow, and the file alone decides: a process
// that came up cannot know what others have published, and must not stay down
// for it.
func (a *Authority) checkSuccession(before *Authority, now time.Time) error {
	var errs []error
	for _, authority := range authorities(before.chains, a.chains) {
		errs = append(errs, a.checkRemoval(before, authority, now), a.checkLead(before, authority, now))
	}
	return errors.Join(errs...)
}

// authorities returns the names of the authorities of some chains, each once, in
// the order of the lists.
func authorities(lists ...[]*Chain) []string {
	var names []string
	seen := map[string]bool{}
	for _, list := range lists {
		for _, c := range list {
			if !seen[c.authority] {
				seen[c.authority] = true
				names = append(names, c.authority)
			}
		}
	}
	return names
}

// checkRemoval refuses to drop the chain that signs from the trust bundle: its
// last certificates are minutes old, and signatures made with them would verify
// nowhere.
func (a *Authority) checkRemoval(before *Authority, authority string, now time.Time) error {
	old, err := signing(before.chains, authority, now)
	if err != nil {
		return nil // none signs, so none is missed
	}
	replaced := false
	for _, c := range a.chains {
		same := c.lineage() == old.lineage()
		if same && c.published(now) {
			return nil
		}
		replaced = replaced || !same && c.name == old.name
	}
	next, err := signing(a.chains, authority, now)
	if err == nil && next.declared(before) && (next.activate.After(old.activate) || !before.hadEmergency(next)) {
		return nil
	}
	if replaced {
		return fmt.Errorf("chain %q signs now, and has another key or subject in this configuration: clients know the old one by it. "+
			"Leave its entry as it was, and give the new key an entry with a name of its own", old.name)
	}
	return fmt.Errorf("chain %q signs now, and is not published any more in this configuration: signatures made under it would not verify. "+
		"Keep its entry, let another chain of the authority %q activate or write retire: into this one, and remove it when nobody verifies its signatures any more",
		old.name, authority)
}

// checkLead refuses chains that would sign sooner than their min_lead after
// their publication.
func (a *Authority) checkLead(before *Authority, authority string, now time.Time) error {
	first := firstToSign(before, a, authority, now)
	var errs []error
	for _, c := range a.chains {
		at, ok := signsFrom(a.chains, c, now)
		if !ok || c.authority != authority || c.declared(before) || c == first {
			continue
		}
		published := a.publications[c.lineage()]
		if !at.Before(published.Add(c.minLead)) || before.letsSign(c, at, published, now) {
			continue
		}
		remedy := "emergency: true"
		if c.emergency {
			remedy = "give it an entry with a name of its own: the emergency: true in this one was written for another key or authority and does not count"
		}
		errs = append(errs, fmt.Errorf("chain %q would sign from %s, %v after clients can first learn of it (%s), and its min_lead is %v. "+
			"Write activate: %s or later into its entry, or, if the old key must not sign once more, %s",
			c.name, stamp(at), at.Sub(published).Round(time.Second), stamp(published), c.minLead,
			stamp(published.Add(c.minLead+time.Second-1).Truncate(time.Second)), remedy))
	}
	return errors.Join(errs...)
}

// declared reports that emergency: true was written for this key: it is not left
// over from the day on which another one stood in the entry, which nobody has
// decided about.
func (c *Chain) declared(before *Authority) bool {
	return c.emergency && !slices.ContainsFunc(before.chains, func(b *Chain) bool {
		return b.name == c.name && b.emergency && b.lineage() != c.lineage()
	})
}

// hadEmergency reports that c had its emergency in this configuration already.
func (a *Authority) hadEmergency(c *Chain) bool {
	return slices.ContainsFunc(a.chains, func(b *Chain) bool { return b.emergency && b.lineage() == c.lineage() })
}

// firstToSign returns the chain that signs first of an authority that had none
// before, so that nobody can be surprised; nil when it had.
func firstToSign(before, after *Authority, authority string, now time.Time) *Chain {
	for _, c := range before.chains {
		if c.authority == authority {
			return nil
		}
	}
	var first *Chain
	var earliest time.Time
	for _, c := range after.chains {
		if at, ok := signsFrom(after.chains, c, now); ok && c.authority == authority && (first == nil || at.Before(earliest)) {
			first, earliest = c, at
		}
	}
	return first
}

// letsSign reports that this configuration lets the key of c sign as early as at
// anyhow, and publishes it as early: one that follows changes nothing about it.
func (a *Authority) letsSign(c *Chain, at, published, now time.Time) bool {
	for _, mine := range a.chains {
		if mine.lineage() != c.lineage() {
			continue
		}
		if from, ok := signsFrom(a.chains, mine, now); ok && !at.Before(from) && !published.After(a.publications[c.lineage()]) {
			return true
		}
	}
	return false
}

// signsFrom returns when, at now or later, a chain of the list starts to sign.
// Later than its activation it does not start: by then it signs, or another one
// has come after it.
func signsFrom(chains []*Chain, c *Chain, now time.Time) (time.Time, bool) {
	at := now
	if c.activate.After(at) {
		at = c.activate
	}
	best, err := signing(chains, c.authority, at)
	return at, err == nil && best == c
}
