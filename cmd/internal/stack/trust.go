package stack

import (
	"fmt"
	"strings"
	"sync"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/trust"
)

// trustFiles are the published trust documents. They are always in step with
// the chains and logs in use: they are made again whenever another set of chains
// is in the trust bundle.
type trustFiles struct {
	input  trust.Input // without chains
	bundle func() []*ca.Chain
	// mu guards the rest.
	mu                         sync.Mutex
	made                       string // the names of the chains in the documents
	trustedRootDoc, signingDoc []byte
}

// newTrustFiles makes the documents once, so that what clients could not use
// stops the service before it starts.
func newTrustFiles(s *Stack) (*trustFiles, error) {
	f := &trustFiles{
		input:  trustInput(s.plan),
		bundle: func() []*ca.Chain { return s.authority.TrustBundle(ca.DefaultName) },
	}
	for _, l := range s.embedded {
		f.input.Logs = append(f.input.Logs, trust.Log{
			URL: f.input.PublicURL + LogPath(l.Name()), PublicKeyDER: l.PublicKey(), Start: l.Created(),
		})
	}
	return f, f.refresh()
}

// trustInput is what the documents say apart from chains and embedded logs,
// which only the running service knows.
func trustInput(p *plan) trust.Input {
	in := trust.Input{PublicURL: p.file.PublicURL, TSAs: p.tsas}
	for _, i := range p.issuers {
		in.Issuers = append(in.Issuers, trust.Issuer{URL: i.URL})
	}
	for _, c := range p.file.Logs.List {
		if r, ok := p.remotes[c.Name]; ok {
			in.Logs = append(in.Logs, trust.Log{URL: r.URL, PublicKeyDER: p.remoteKeys[c.Name]})
		}
	}
	return in
}

// trustProblem reports why the documents could not be made of the plan.
func trustProblem(p *plan) error {
	in := trustInput(p)
	for _, c := range p.chains {
		in.Chains = append(in.Chains, trustChain(c))
	}
	if _, err := trust.TrustedRoot(in); err != nil {
		return err
	}
	_, err := trust.SigningConfig(in)
	return err
}

func trustChain(c *ca.Chain) trust.Chain { return trust.Chain{Certificates: c.Certificates()} }

func (f *trustFiles) refresh() error {
	chains := f.bundle()
	names := make([]string, len(chains))
	for i, c := range chains {
		names[i] = c.Name()
	}
	made := strings.Join(names, "\n")
	if made == f.made {
		return nil
	}
	in := f.input
	for _, c := range chains {
		in.Chains = append(in.Chains, trustChain(c))
	}
	root, err := trust.TrustedRoot(in)
	if err != nil {
		return fmt.Errorf("chains %v: %w", names, err)
	}
	signing, err := trust.SigningConfig(in)
	if err != nil {
		return fmt.Errorf("chains %v: %w", names, err)
	}
	f.made, f.trustedRootDoc, f.signingDoc = made, root, signing
	return nil
}

// documents returns both documents for the present time. A set of chains that
// cannot be published leaves the last documents: NewChain has checked each.
func (f *trustFiles) documents() (trustedRoot, signing []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.refresh()
	return f.trustedRootDoc, f.signingDoc
}

func (f *trustFiles) trustedRoot() []byte {
	doc, _ := f.documents()
	return doc
}

func (f *trustFiles) signingConfig() []byte {
	_, doc := f.documents()
	return doc
}
