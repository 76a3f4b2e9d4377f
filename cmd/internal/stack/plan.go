package stack

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/internal/policy"
	"github.com/mayfly-ca/mayfly/internal/server"
	"github.com/mayfly-ca/mayfly/internal/trust"
	"github.com/mayfly-ca/mayfly/oidc"
)

// plan is a configuration turned into values, with nothing opened that others
// could be using: no journal, no log, no socket.
type plan struct {
	file     *config.File
	problems config.Problems

	chains   []*ca.Chain
	keys     []hsm.Key
	keyOf    map[string]hsm.Key // by the chain's name
	profiles []ca.Profile
	policy   *policy.Policy
	issuers  []oidc.Issuer
	blocked  []string // thumbprints of issuers' keys
	public   []server.Issuer
	// remotes, remoteKeys (in DER) and remoteRoots (in PEM) are by the log's name.
	remotes                 map[string]ctlog.RemoteConfig
	remoteKeys, remoteRoots map[string][]byte
	// shards are those of the log in the state directory, in the order in which
	// they take entries.
	shards []Shard
	// trustedLogs are in the trust files beside those that are submitted to.
	trustedLogs []trust.Log
	tsas        []trust.TSA
}

// planning is what a plan depends on beside the configuration.
type planning struct {
	now  time.Time
	demo bool
	open keys.Opener
}

func emptyPlan(f *config.File) *plan {
	return &plan{file: f, keyOf: map[string]hsm.Key{}, remotes: map[string]ctlog.RemoteConfig{}, remoteKeys: map[string][]byte{}, remoteRoots: map[string][]byte{}}
}

// newPlan reads every file that the configuration names and collects every
// problem. The caller closes the plan.
func newPlan(ctx context.Context, f *config.File, c planning) *plan {
	if f.LogAlone() {
		p := newLogPlan(f, c)
		p.bad("", "%v", errLogAlone)
		return p
	}
	p := emptyPlan(f)
	p.planTLS()
	p.planIssuers()
	p.planChains(ctx, c)
	p.planLogs()
	p.planTrustedLogs()
	p.planTimestamps()
	p.planProfiles()
	p.rehearse(c.now)
	if isDemoState(f.State) != c.demo {
		p.bad("state", "%s", demoStateAdvice(f.State, c.demo))
	}
	return p
}

// sorted returns the problems in the order of the file.
func (p *plan) sorted() config.Problems {
	slices.SortStableFunc(p.problems, func(a, b config.Problem) int { return a.Line - b.Line })
	return p.problems
}

func (p *plan) bad(path, format string, args ...any) {
	p.problems = append(p.problems, p.file.Problem(path, format, args...))
}

// close forgets the keys of a plan that is not going to run.
func (p *plan) close() {
	for _, k := range p.keys {
		_ = k.Close() // a file key only forgets
	}
}

func (p *plan) planTLS() {
	t := p.file.Listen.TLS
	if t.Certificate == "" {
		return
	}
	certificate, err := files.Read(t.Certificate)
	if err != nil {
		p.bad("listen.tls.certificate", "%v", err)
		return
	}
	key, err := files.Read(t.Key)
	if err != nil {
		p.bad("listen.tls.key", "%v", err)
		return
	}
	defer clear(key)
	if _, err := tls.X509KeyPair(certificate, key); err != nil {
		p.bad("listen.tls", "%s and %s: %v", t.Certificate, t.Key, err)
	}
}

// roots reads a file of root certificates; an empty name means the system's.
func (p *plan) roots(path, file string) *x509.CertPool {
	if file == "" {
		return nil
	}
	data, err := files.Read(file)
	if err != nil {
		p.bad(path, "%v", err)
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		p.bad(path, "%s holds no PEM certificate; put the provider's root CA there", file)
	}
	return pool
}

func (p *plan) planProfiles() {
	for i, c := range p.file.Profiles {
		profile := ca.Profile{Name: c.Name, Lifetime: c.Lifetime, Backdate: c.Backdate, NoRevAvail: c.NoRevAvail}
		for _, k := range c.Keys {
			profile.Keys = append(profile.Keys, ca.KeyKind(k))
		}
		for j, text := range c.Policies {
			oid, err := x509.ParseOID(text)
			if err != nil {
				p.bad(fmt.Sprintf("profiles[%d].policies[%d]", i, j), "%v", err)
			}
			profile.Policies = append(profile.Policies, oid)
		}
		p.profiles = append(p.profiles, profile)
	}
}

func (p *plan) planChains(ctx context.Context, c planning) {
	for i, ch := range p.file.Chains {
		path := fmt.Sprintf("chains[%d]", i)
		certs := p.certificates(path+".certificates", ch.Certificates)
		signer, ok := p.signer(ctx, path+".key", ch, certs, c.open)
		if certs == nil || !ok {
			continue
		}
		chain, err := ca.NewChain(ca.ChainConfig{
			Name: ch.Name, Authority: ch.Authority, Certificates: certs, Signer: signer,
			CrossSigned: p.crossSigned(path, ch), PublishFrom: ch.PublishFrom, Activate: ch.Activate, Retire: ch.Retire,
			MinLead: ch.MinLead, Emergency: ch.Emergency, CAIssuersURL: ch.CAIssuersURL, CRLURL: ch.CRLURL,
		}, c.now)
		if err != nil {
			p.bad(path+".certificates", "%v", err)
			continue
		}
		if chain.Demo() && !c.demo {
			p.bad(path+".certificates", "this chain was made by mayfly-dev for demonstration; use one of your organization's PKI")
		}
		p.chains = append(p.chains, chain)
	}
	for i, a := range p.file.Authorities {
		if !slices.ContainsFunc(p.file.Chains, func(c config.Chain) bool { return c.Authority == a.Name }) {
			p.bad(fmt.Sprintf("authorities[%d]", i), "no chain has the authority %q, so there would be nothing at its address; add one under chains, or remove the entry", a.Name)
		}
	}
}

// crossSigned reads the further paths of a chain.
func (p *plan) crossSigned(path string, ch config.Chain) [][]*x509.Certificate {
	var paths [][]*x509.Certificate
	for i, file := range ch.CrossSigned {
		if certs := p.certificates(fmt.Sprintf("%s.cross_signed[%d]", path, i), file); certs != nil {
			paths = append(paths, certs)
		}
	}
	return paths
}

// signer opens the key of a chain. It returns nil and true when the configuration
// names none, as it may for a retired chain.
func (p *plan) signer(ctx context.Context, path string, ch config.Chain, certs []*x509.Certificate, open keys.Opener) (ca.Signer, bool) {
	if !ch.Key.Given() {
		return nil, true
	}
	var public crypto.PublicKey
	if len(certs) > 0 {
		public = certs[0].PublicKey
	}
	key, err := open(ctx, p.file, path, ch.Key, public)
	if err != nil {
		p.bad(path, "%v", err)
		return nil, false
	}
	p.keys = append(p.keys, key)
	p.keyOf[ch.Name] = key
	return key, true
}

func (p *plan) certificates(path, file string) []*x509.Certificate {
	data, err := files.Read(file)
	if err != nil {
		p.bad(path, "%v", err)
		return nil
	}
	certs, err := ca.ParseChain(data)
	if err != nil {
		p.bad(path, "%s: %v", file, err)
	}
	return certs
}

func (p *plan) planLogs() {
	for i, c := range p.file.Logs.List {
		path := fmt.Sprintf("logs[%d]", i)
		if c.Embedded != nil {
			p.planShards(path+".embedded", c.Name)
			p.planSubmission(path+".embedded.submission", c.Embedded.Submission)
			continue
		}
		key, err := files.Read(c.Remote.PublicKey)
		if err != nil {
			p.bad(path+".remote.public_key", "%v", err)
			continue
		}
		r := ctlog.RemoteConfig{
			Name: c.Name, URL: c.Remote.URL, MonitoringURL: c.Remote.MonitoringURL, PublicKey: key, Timeout: c.Remote.Timeout,
			RootCAs:        p.roots(path+".remote.ca_file", c.Remote.CAFile),
			ClientCertFile: c.Remote.ClientCertificate, ClientKeyFile: c.Remote.ClientKey, TokenFile: c.Remote.TokenFile,
		}
		remote, err := ctlog.NewRemote(r)
		if err != nil {
			p.bad(path+".remote", "%v", err)
			continue
		}
		if err := remote.CheckCredentials(); err != nil {
			p.bad(path+".remote", "%v", err)
		}
		p.remotes[c.Name], p.remoteKeys[c.Name] = r, remote.PublicKey()
		if c.Remote.CAFile != "" {
			// It was read a moment ago; if it has changed since, so will the digest.
			p.remoteRoots[c.Name], _ = files.Read(c.Remote.CAFile)
		}
	}
}

// planShards finds the shards of the log in the state directory.
func (p *plan) planShards(path, name string) {
	var err error
	p.shards, err = Shards(p.file.State, name)
	if dir := LogDir(p.file.State, name); err != nil && !exists(dir) {
		p.bad(path, "there is no log in %s; make it once with: mayfly log init --config %s", dir, p.file.Path)
	} else if err != nil {
		p.bad(path, "%v", err)
	}
}

// planTrustedLogs reads the keys of logs that are trusted and not submitted to.
func (p *plan) planTrustedLogs() {
	for i, c := range p.file.TrustedLogs {
		path := fmt.Sprintf("trusted_logs[%d].public_key", i)
		data, err := files.Read(c.PublicKey)
		if err != nil {
			p.bad(path, "%v", err)
			continue
		}
		key, err := ctlog.ParseKey(data)
		if err != nil {
			p.bad(path, "%s: %v", c.PublicKey, err)
			continue
		}
		p.trustedLogs = append(p.trustedLogs, trust.Log{URL: c.URL, PublicKeyDER: key.DER(), Start: c.From, End: c.Until})
	}
}

func (p *plan) planTimestamps() {
	for i, c := range p.file.TimestampAuthorities {
		if certs := p.certificates(fmt.Sprintf("timestamp_authorities[%d].certificates", i), c.Certificates); certs != nil {
			p.tsas = append(p.tsas, trust.TSA{URL: c.URL, Certificates: certs})
		}
	}
}

// LogDir is the directory of the embedded log of that name.
func LogDir(state, name string) string { return filepath.Join(state, "log", name) }

// auditDir is the directory of the journal.
func auditDir(state string) string { return filepath.Join(state, "audit") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// findMissingFiles looks for files that nothing above has opened: those that the
// service reads only when it talks to a provider, and where it writes the record of
// checkpoints.
func (p *plan) findMissingFiles() {
	for _, r := range config.References(p.file.Config) {
		told := slices.ContainsFunc(p.problems, func(known config.Problem) bool {
			return known.Path != "" && strings.HasPrefix(r.KeyPath, known.Path)
		})
		if _, err := os.Stat(r.Path); err != nil && !told {
			p.bad(r.KeyPath, "%v", err)
		}
	}
	// A reload does not mind: while the record's disk is away, checkpoints wait for it.
	for i, l := range p.file.Logs.List {
		if l.Embedded == nil || l.Embedded.CheckpointRecord == "" {
			continue
		}
		if dir := filepath.Dir(l.Embedded.CheckpointRecord); !exists(dir) {
			p.bad(fmt.Sprintf("logs[%d].embedded.checkpoint_record", i), "there is no directory %s; mount or make it, best on another disk", dir)
		}
	}
}

// Check makes every check that needs no network and opens nothing that a
// running service holds. It returns all problems, nil when there are none.
func Check(f *config.File, now time.Time) config.Problems {
	if f.LogAlone() {
		p := newLogPlan(f, planning{now: now})
		p.checkTokens()
		p.findMissingFiles()
		return p.sorted()
	}
	p := newPlan(context.Background(), f, planning{now: now, open: keys.OpenOffline})
	defer p.close()
	if p.policy != nil {
		p.runRuleTests()
	}
	p.checkTokens()
	p.findMissingFiles()
	if len(p.problems) > 0 {
		return p.sorted()
	}
	// What remains can only fail by a combination; the files are all good.
	if err := trustProblem(p); err != nil {
		p.bad("", "%v", err)
	}
	return p.sorted()
}

// logger discards when none is given.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
