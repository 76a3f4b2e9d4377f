package config

import (
	"regexp"
	"time"
)

// maxLifetime is the promise of the whole product, and what verifiers' policies
// are written for.
const maxLifetime = 10 * time.Minute

func (c *checker) profiles() {
	names := make(map[string]int)
	for i, p := range c.file.Profiles {
		at := index("profiles", i)
		c.name("profiles", i, p.Name, names)
		c.duration(join(at, "lifetime"), p.Lifetime, time.Minute, maxLifetime)
		c.duration(join(at, "backdate"), p.Backdate, 0, time.Minute)
		if p.Backdate >= p.Lifetime && p.Backdate <= time.Minute {
			c.bad(join(at, "backdate"), "the certificate would be expired when it is issued; make backdate shorter than lifetime")
		}
		// RFC 5280, Section 4.1.2.5.2: GeneralizedTime "MUST NOT include
		// fractional seconds", and neither can UTCTime.
		if p.Lifetime%time.Second != 0 {
			c.bad(join(at, "lifetime"), "certificates know whole seconds only; write whole seconds")
		}
		if p.Backdate%time.Second != 0 {
			c.bad(join(at, "backdate"), "certificates know whole seconds only; write whole seconds")
		}
		c.words(join(at, "keys"), p.Keys, keyKinds)
		c.policies(join(at, "policies"), p.Policies)
		if p.NoRevAvail {
			c.noRevAvail(join(at, "no_rev_avail"))
		}
	}
}

// oidForm has no more than what encodes to a few dozen bytes: each arc fits into
// 31 bits, as crypto/x509 wants it.
var oidForm = regexp.MustCompile(`^([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]{0,8}))(\.(0|[1-9][0-9]{0,8}))+$`)

// maxPolicies is more than any PKI gives to one certificate.
const maxPolicies = 8

func (c *checker) policies(list string, all []string) {
	if len(all) > maxPolicies {
		c.bad(list, "there are %d policies; write at most %d", len(all), maxPolicies)
	}
	c.unique(list, all)
	for i, oid := range all {
		if oid != "" && (!oidForm.MatchString(oid) || len(oid) > 128) {
			c.bad(index(list, i), "%q is not an object identifier; write one such as 1.3.6.1.4.1.99999.1", clip(oid))
		}
	}
}

// noRevAvail refuses what RFC 9608 does not allow in one certificate: the word that
// no revocation is published, and the place where it is. A rule may bring any
// profile together with any chain, so one of each is enough.
func (c *checker) noRevAvail(key string) {
	for i, ch := range c.file.Chains {
		if ch.CRLURL != "" {
			c.bad(key, "the chain in line %d has a crl_url, which says the opposite; remove one of the two", c.file.Line(index("chains", i)))
			return
		}
	}
}
