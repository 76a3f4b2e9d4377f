package stack

import (
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/lint"
)

// rehearse has every chain make one certificate of every profile and kind of
// name, with throw-away keys, and looks at each before anybody gets one like it.
// It needs chains and profiles without problems.
func (p *plan) rehearse(now time.Time) {
	if len(p.problems) > 0 {
		return
	}
	rehearsals, err := ca.Rehearse(p.chains, p.profiles, now)
	if err != nil {
		p.bad("chains", "%v", err)
	}
	for _, r := range rehearsals {
		for _, f := range lint.Leaf(r.DER, r.Issuer) {
			p.bad("chains", "chain %q with profile %q would issue certificates for names of kind %s that clients may refuse: %s: %s",
				r.Chain, r.Profile, r.Kind, f.Check, f.Text)
		}
	}
}
