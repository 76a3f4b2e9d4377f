package stack

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
)

// Status is what an administrator is told about chains: what signs now, what will,
// and what ends.
type Status struct {
	Time         time.Time `json:"time"`
	ConfigDigest string    `json:"config_digest"`
	// ReloadRefused says that the files on disk are not the configuration in use.
	// Only a running service knows.
	ReloadRefused bool              `json:"reload_refused,omitempty"`
	Authorities   []AuthorityStatus `json:"authorities"`
	// Expiring is what ends within 70 days, soonest first.
	Expiring []Expiry `json:"expiring"`
}

// AuthorityStatus is about one authority.
type AuthorityStatus struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	// Signs is the chain that signs now; empty when none does.
	Signs  string        `json:"signs"`
	Chains []ChainStatus `json:"chains"`
}

// ChainStatus is about one chain.
type ChainStatus struct {
	Name string `json:"name"`
	// State is one of the words of [ChainState].
	State ChainState `json:"state"`
	// PublishFrom, Activate and Retire are those of the configuration; zero as
	// there.
	PublishFrom time.Time `json:"publish_from,omitzero"`
	Activate    time.Time `json:"activate,omitzero"`
	Retire      time.Time `json:"retire,omitzero"`
	// Published is since when the service has published the chain: when it met it
	// first, or what the file said at its start; zero when it has not, or when the
	// file did not say, or when there is no service.
	Published time.Time `json:"published,omitzero"`
	// Key says where the key is, and KeyProblem why it could not sign now; only a
	// running service knows the latter.
	Key        string `json:"key,omitempty"`
	KeyProblem string `json:"key_problem,omitempty"`
	// Certificates are the issuing one first and the root last.
	Certificates []CertificateStatus `json:"certificates"`
}

// CertificateStatus is about one certificate of a chain.
type CertificateStatus struct {
	Subject string    `json:"subject"`
	Expires time.Time `json:"expires"`
}

// ChainState says what a chain does now.
type ChainState string

// The states of a chain, in the order in which it goes through them.
const (
	Waiting    ChainState = "waiting"    // not in the trust files yet
	Published  ChainState = "published"  // in the trust files, and will sign
	Signing    ChainState = "signing"    // the one that signs
	Superseded ChainState = "superseded" // another one signs in its place
	Retired    ChainState = "retired"    // signs never again
)

// Expiry is something that ends.
type Expiry struct {
	// Kind is chain, tls or timestamp_authority.
	Kind string    `json:"kind"`
	Name string    `json:"name"`
	What string    `json:"what"`
	At   time.Time `json:"at"`
	// WithinDays is the smallest of 7, 30 and 70 that it ends within.
	WithinDays int `json:"within_days"`
}

// thresholds are the days before an end at which somebody should hear of it: time
// to order a certificate from another department, to nag, and to hurry.
var thresholds = []int{7, 30, 70}

const day = 24 * time.Hour

// OfflineStatus tells what the configuration says, without asking a running
// service. The configuration must have been checked.
func OfflineStatus(ctx context.Context, f *config.File, now time.Time) (Status, error) {
	p := newPlan(ctx, f, planning{now: now, open: keys.OpenUnasked})
	defer p.close()
	if len(p.problems) > 0 {
		return Status{}, p.sorted()
	}
	return p.status(now), nil
}

// Status tells what the service does. It does no I/O but for the server
// certificate.
func (s *Stack) Status() Status {
	n, now := s.current.Load(), s.options.Clock()
	status := n.status(now)
	status.ReloadRefused = s.reloads.refused.Load()
	published := s.reloads.since()
	for i := range status.Authorities {
		for j := range status.Authorities[i].Chains {
			c := &status.Authorities[i].Chains[j]
			if c.State != Waiting {
				c.Published = published[c.Name]
			}
			c.KeyProblem = n.keyProblem(c.Name)
		}
	}
	return status
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// keyProblem says why a chain's key could not sign now.
func (p *plan) keyProblem(chain string) string {
	if key, ok := p.keyOf[chain]; ok {
		if err := key.Ready(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// status tells what the plan says about the time now.
func (p *plan) status(now time.Time) Status {
	status := Status{Time: now.UTC(), ConfigDigest: hex.EncodeToString(p.file.Digest[:]), Authorities: []AuthorityStatus{}, Expiring: []Expiry{}}
	for _, name := range p.authorities() {
		a := AuthorityStatus{Name: name, URL: addressOf(p.file, name), Chains: []ChainStatus{}}
		signs := signingNow(p.file, name, now)
		for i, c := range p.file.Chains {
			if c.Authority != name {
				continue
			}
			s := p.chainStatus(i, c, signs, now)
			if s.State == Signing {
				a.Signs = s.Name
			}
			a.Chains = append(a.Chains, s)
		}
		slices.SortStableFunc(a.Chains, func(x, y ChainStatus) int { return x.Activate.Compare(y.Activate) })
		status.Authorities = append(status.Authorities, a)
	}
	for _, e := range p.expiries(now) {
		if e.WithinDays > 0 {
			status.Expiring = append(status.Expiring, e)
		}
	}
	return status
}

// signingNow is the index of the chain that signs for an authority: that with the
// latest past activation, even when it is retired; -1 when there is none.
func signingNow(f *config.File, authority string, now time.Time) int {
	best := -1
	for i, c := range f.Chains {
		if c.Authority == authority && !c.Activate.After(now) && (best < 0 || c.Activate.After(f.Chains[best].Activate)) {
			best = i
		}
	}
	return best
}

func (p *plan) chainStatus(i int, c config.Chain, signs int, now time.Time) ChainStatus {
	s := ChainStatus{Name: c.Name, PublishFrom: c.PublishFrom, Activate: c.Activate, Retire: c.Retire, Key: keyPlace(c.Key)}
	switch {
	case c.Retired(now):
		s.State = Retired
	case i == signs:
		s.State = Signing
	case !c.Activate.After(now):
		s.State = Superseded
	case c.PublishFrom.After(now):
		s.State = Waiting
	default:
		s.State = Published
	}
	for _, made := range p.chains {
		if made.Name() != c.Name {
			continue
		}
		for _, cert := range made.Certificates() {
			s.Certificates = append(s.Certificates, CertificateStatus{Subject: cert.Subject.String(), Expires: cert.NotAfter.UTC()})
		}
	}
	return s
}

// keyPlace says where a key is.
func keyPlace(k config.Key) string {
	switch {
	case k.File != "":
		return "file " + k.File
	case len(k.Tokens) > 0:
		return fmt.Sprintf("tokens %v", k.Tokens)
	}
	return ""
}

// expiries lists everything that ends and on which new certificates depend,
// soonest first.
func (p *plan) expiries(now time.Time) []Expiry {
	var all []Expiry
	add := func(kind, name string, certs ...*x509.Certificate) {
		if len(certs) == 0 {
			return
		}
		first := slices.MinFunc(certs, func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) })
		e := Expiry{Kind: kind, Name: name, What: first.Subject.String(), At: first.NotAfter.UTC()}
		for _, days := range slices.Backward(thresholds) {
			if e.At.Sub(now) < time.Duration(days)*day {
				e.WithinDays = days
			}
		}
		all = append(all, e)
	}
	for _, name := range p.authorities() {
		signs := signingNow(p.file, name, now)
		for i, c := range p.file.Chains {
			if c.Authority != name || c.Retired(now) || (!c.Activate.After(now) && i != signs) {
				continue // nothing new depends on it
			}
			for _, made := range p.chains {
				if made.Name() == c.Name {
					add("chain", c.Name, made.Certificates()...)
				}
			}
		}
	}
	for _, t := range p.tsas {
		add("timestamp_authority", t.URL, t.Certificates...)
	}
	add("tls", p.file.Listen.TLS.Certificate, serverCertificate(p.file)...)
	slices.SortStableFunc(all, func(x, y Expiry) int { return x.At.Compare(y.At) })
	return all
}

// serverCertificate reads the server certificate as it is now: it is renewed
// without a reload. What cannot be read is told by whoever serves with it.
func serverCertificate(f *config.File) []*x509.Certificate {
	if f.Listen.TLS.Certificate == "" {
		return nil
	}
	data, err := files.Read(f.Listen.TLS.Certificate)
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return []*x509.Certificate{cert}
}
