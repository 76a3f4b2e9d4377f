package stack

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/server"
)

// snapshot is one configuration at work. It never changes; a reload makes another
// one, and a request that has begun under this one ends under it.
type snapshot struct {
	*plan
	// verifier and log are shared with the snapshot before when nothing about
	// them has changed.
	verifier *verifier
	log      *pool
	// authority is what rules choose from at the default address.
	authority *ca.Authority
	// trust holds the documents of each authority by its name.
	trust  map[string]*trustFiles
	public *server.Snapshot
	// content is what the files held that the configuration depends on.
	content map[string][32]byte
	pins    pins
}

// newSnapshot makes a snapshot of a plan without problems. What it can, it takes
// over from the one before, which is nil at the start. It owns the plan when it
// succeeds.
func (s *Stack) newSnapshot(p *plan, before *snapshot) (*snapshot, error) {
	n := &snapshot{plan: p, trust: map[string]*trustFiles{}, pins: pins{none: make(chan struct{})}}
	var err error
	if n.verifier, err = s.verifierFor(p, before); err != nil {
		return nil, err
	}
	if n.log, err = s.poolFor(p, before); err != nil {
		return nil, err
	}
	var previous *ca.Authority
	if before != nil {
		previous = before.authority
	}
	if n.authority, err = s.issuing(n, "", previous); err != nil {
		// What New refuses of good parts is how the chains follow each other.
		return nil, config.Problems{p.file.Problem("chains", "%v", err)}
	}
	for _, name := range p.authorities() {
		if n.trust[name], err = s.newTrustFiles(n, name); err != nil {
			return nil, err
		}
	}
	n.public = s.shownAs(n, n.authority, config.DefaultName)
	n.public.Release = n.pins.release
	n.public.Hosts, n.public.Prefixes = map[string]*server.Snapshot{}, map[string]*server.Snapshot{}
	for _, a := range p.file.Authorities {
		authority, err := s.issuing(n, a.Name, previous)
		if err != nil {
			return nil, err
		}
		place := s.shownAs(n, authority, a.Name)
		for _, host := range a.Hosts {
			n.public.Hosts[host] = place
		}
		if a.PathPrefix != "" {
			n.public.Prefixes[a.PathPrefix] = place
		}
	}
	return n, nil
}

// issuing makes what issues at one address: with a name, from that authority only.
// With a previous one, it refuses chains that would surprise clients.
func (s *Stack) issuing(n *snapshot, only string, previous *ca.Authority) (*ca.Authority, error) {
	decide := s.frozen.Guard(n.policy.Decide)
	if only != "" {
		decide = onlyFrom(only, decide)
	}
	return ca.New(ca.Config{
		Chains: n.chains, Profiles: n.profiles, Policy: decide, Recorder: s.journal,
		Previous: previous, Log: n.log.asLog(), WithoutLog: n.file.Logs.Disabled, Clock: s.options.Clock, Registerer: s.registry,
	})
}

// onlyFrom refuses what policy would issue from another authority. Who asks at the
// address of a tenant trusts nobody else, and would be handed a certificate that
// fails only when it is verified.
func onlyFrom(name string, decide ca.Policy) ca.Policy {
	return func(ctx context.Context, r ca.Request) (ca.Decision, error) {
		d, err := decide(ctx, r)
		if got := d.Authority; err == nil && got != name && (got != "" || name != ca.DefaultName) {
			return d, ca.Refuse(ca.KindDenied, ca.ReasonAuthority, "rule %q issues from the authority %q, and this is the address of %q", d.Rule, got, name)
		}
		return d, err
	}
}

// shownAs is the snapshot as clients meet it at the addresses of one authority.
func (s *Stack) shownAs(n *snapshot, a *ca.Authority, name string) *server.Snapshot {
	t := n.trust[name]
	return &server.Snapshot{
		Verify: n.verifier.Verify,
		Issue: func(ctx context.Context, r ca.Request) (ca.Certificate, error) {
			return n.issue(ctx, a, r)
		},
		Refuse: func(ctx context.Context, r ca.Request, why error) *ca.Refusal {
			n.verifier.Refund(r.Identity)
			return a.Refuse(ctx, r, why)
		},
		Chains: func() [][]string {
			var all [][]string
			for _, c := range a.TrustBundle(name) {
				all = append(all, c.PEM())
			}
			return all
		},
		TrustedRoot: t.trustedRoot, SigningConfig: t.signingConfig,
		Issuers: n.plan.public, ConfigDigest: n.file.Digest,
	}
}

// issue issues, and gives the use of its token back to who got no certificate:
// after an outage the same token must do. Where it cannot be known whether there
// is a certificate, the use counts.
func (n *snapshot) issue(ctx context.Context, a *ca.Authority, r ca.Request) (ca.Certificate, error) {
	cert, err := a.Issue(ctx, r)
	if err != nil {
		if why := ca.AsRefusal(err); !why.Uncertain && why.Kind != ca.KindInternal {
			n.verifier.Refund(r.Identity)
		}
	}
	return cert, err
}

// pins counts the requests that use a snapshot.
type pins struct {
	count   atomic.Int64
	retired atomic.Bool
	once    sync.Once
	none    chan struct{} // closed when the last request of a retired snapshot is over
}

func (p *pins) release() {
	if p.count.Add(-1) == 0 && p.retired.Load() {
		p.once.Do(func() { close(p.none) })
	}
}

// retire says that no further request begins under the snapshot.
func (p *pins) retire() {
	p.retired.Store(true)
	if p.count.Load() == 0 {
		p.once.Do(func() { close(p.none) })
	}
}

// pin returns the snapshot in force for one request, which releases it.
func (s *Stack) pin() *server.Snapshot {
	for {
		n := s.current.Load()
		n.pins.count.Add(1)
		if s.current.Load() == n {
			return n.public
		}
		// A swap came between, and the snapshot may have been closed by now.
		n.pins.release()
	}
}

// drainTimeout is far beyond what the server lets a request take.
const drainTimeout = time.Minute

// retire closes a snapshot when its last request is over.
func (s *Stack) retire(n *snapshot) {
	n.pins.retire()
	s.retiring.Go(func() {
		select {
		case <-n.pins.none:
		case <-time.After(drainTimeout):
			s.logger.Error("a request of an old configuration does not end; its keys are closed", "config_digest", fmt.Sprintf("%x", n.file.Digest))
		}
		n.close()
		if n.log != nil && s.current.Load().log != n.log {
			n.log.Close()
		}
	})
}

var errClosed = errors.New("the service is stopping")
