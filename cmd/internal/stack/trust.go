package stack

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/trust"
)

// trustFiles are the published trust documents of one authority. They are always
// in step with the chains and logs in use: they are made again whenever another
// set of chains is in the trust bundle.
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
func (s *Stack) newTrustFiles(n *snapshot, name string) (*trustFiles, error) {
	f := &trustFiles{
		input:  trustInput(n.plan, name),
		bundle: func() []*ca.Chain { return n.authority.TrustBundle(name) },
	}
	if err := f.refresh(); err != nil {
		return nil, fmt.Errorf("authority %q: %w", name, err)
	}
	return f, nil
}

// authorities names every authority, the default one first.
func (p *plan) authorities() []string {
	names := []string{config.DefaultName}
	for _, a := range p.file.Authorities {
		names = append(names, a.Name)
	}
	return names
}

// addressOf is the URL under which clients reach an authority: its first host, or
// else its prefix. Everything else about it is as in the public URL.
func addressOf(f *config.File, name string) string {
	i := slices.IndexFunc(f.Authorities, func(a config.Authority) bool { return a.Name == name })
	if i < 0 {
		return f.PublicURL
	}
	a := f.Authorities[i]
	u, err := url.Parse(f.PublicURL)
	if len(a.Hosts) == 0 || err != nil {
		return f.PublicURL + a.PathPrefix
	}
	port := u.Port()
	u.Host = a.Hosts[0]
	if port != "" {
		u.Host = net.JoinHostPort(u.Host, port)
	}
	return u.String()
}

// trustInput is what the documents say apart from chains.
func trustInput(p *plan, name string) trust.Input {
	in := trust.Input{PublicURL: addressOf(p.file, name), TSAs: p.tsas}
	for _, i := range p.issuers {
		in.Issuers = append(in.Issuers, trust.Issuer{URL: i.URL})
	}
	in.Logs = p.publishedLogs()
	return in
}

// publishedLogs are all logs whose SCTs clients shall accept, in an order that does
// not depend on who of several replicas publishes them: the shards of this
// service's log, those that have not begun and those that are over included, the
// remote logs, and the trusted ones. A trusted log that is one of the others, as in
// a list that all replicas have, is there once.
func (p *plan) publishedLogs() []trust.Log {
	var logs []trust.Log
	for i, sh := range p.shards {
		logs = append(logs, trust.Log{
			URL: p.file.PublicURL + LogPath(sh.Name), PublicKeyDER: sh.Info.PublicKey,
			Start: sh.Info.Created, End: frozenAt(p.shards, i),
		})
	}
	for _, c := range p.file.Logs.List {
		if r, ok := p.remotes[c.Name]; ok {
			logs = append(logs, trust.Log{URL: r.URL, PublicKeyDER: p.remoteKeys[c.Name]})
		}
	}
	for _, l := range p.trustedLogs {
		if !slices.ContainsFunc(logs, func(o trust.Log) bool { return bytes.Equal(o.PublicKeyDER, l.PublicKeyDER) }) {
			logs = append(logs, l)
		}
	}
	slices.SortFunc(logs, func(a, b trust.Log) int {
		return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.URL, b.URL), bytes.Compare(a.PublicKeyDER, b.PublicKeyDER))
	})
	return logs
}

// trustProblem reports why the documents could not be made of the plan.
func trustProblem(p *plan) error {
	for _, name := range p.authorities() {
		in := trustInput(p, name)
		for _, c := range p.chains {
			if c.Authority() == name {
				in.Chains = append(in.Chains, trustChains(c)...)
			}
		}
		if _, err := trust.TrustedRoot(in); err != nil {
			return fmt.Errorf("authority %q: %w", name, err)
		}
		if _, err := trust.SigningConfig(in); err != nil {
			return fmt.Errorf("authority %q: %w", name, err)
		}
	}
	return nil
}

// trustChains are the paths of a chain, its own first.
func trustChains(c *ca.Chain) []trust.Chain {
	return []trust.Chain{{Certificates: c.Certificates()}}
}

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
		in.Chains = append(in.Chains, trustChains(c)...)
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

// documents returns both documents for the present time; none while no chain is
// published. A set of chains that cannot be published leaves the last documents:
// NewChain has checked each.
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
