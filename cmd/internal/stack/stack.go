package stack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/audit"
	"github.com/mayfly-ca/mayfly/internal/freeze"
	"github.com/mayfly-ca/mayfly/internal/server"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Options are what the two programs differ in.
type Options struct {
	// Demo accepts state and chains that are marked as demonstration, and no
	// others.
	Demo bool
	// Listener is used instead of the configured address; Run closes it.
	Listener net.Listener
	// Version is the program's, for the journal.
	Version string
	// Logger hears of state changes; nil discards.
	Logger *slog.Logger
	// Clock is the one clock of the whole stack; nil means time.Now.
	Clock func() time.Time
}

// Stack is the running service.
type Stack struct {
	file      *config.File
	options   Options
	logger    *slog.Logger
	plan      *plan
	registry  *prometheus.Registry
	verifier  *oidc.Verifier
	journal   *audit.Journal
	frozen    *freeze.List
	embedded  []*embedded.Log
	authority *ca.Authority
	trust     *trustFiles
	server    *server.Server
	once      sync.Once
	closeErr  error
}

// Open opens what the service owns, in the order in which things depend on each
// other. On an error everything is closed again.
func Open(ctx context.Context, f *config.File, o Options) (*Stack, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	s := &Stack{file: f, options: o, logger: logger(o.Logger), registry: prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.plan = newPlan(f, o.Clock(), o.Demo)
	if len(s.plan.problems) > 0 {
		s.plan.close()
		return nil, s.plan.sorted()
	}
	for _, step := range []func(context.Context) error{s.openVerifier, s.openJournal, s.openFrozen, s.openAuthority, s.openServer} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (s *Stack) openVerifier(context.Context) (err error) {
	c := s.plan.oidcConfig()
	c.CacheDir, c.Clock, c.Logger, c.Registerer = keyCacheDir(s.file.State), s.options.Clock, s.logger, s.registry
	s.verifier, err = oidc.New(c)
	return err
}

func (s *Stack) openJournal(ctx context.Context) error {
	node, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding this node's name for the audit journal: %w", err)
	}
	if err := os.MkdirAll(s.file.State, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	s.journal, err = audit.Open(ctx, audit.Config{
		Dir: auditDir(s.file.State), Node: node, Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
	})
	return err
}

func (s *Stack) openFrozen(context.Context) (err error) {
	s.frozen, err = freeze.Open(freezeFile(s.file.State), s.options.Clock)
	return err
}

func (s *Stack) openAuthority(ctx context.Context) error {
	log, err := s.openLogs(ctx)
	if err != nil {
		return err
	}
	s.authority, err = ca.New(ca.Config{
		Chains: s.plan.chains, Profiles: s.plan.profiles, Policy: s.frozen.Guard(s.plan.policy.Decide), Recorder: s.journal,
		Log: log, WithoutLog: s.file.Logs.Disabled, Clock: s.options.Clock, Registerer: s.registry,
	})
	return err
}

func (s *Stack) openServer(context.Context) error {
	var err error
	if s.trust, err = newTrustFiles(s); err != nil {
		return err
	}
	snapshot := &server.Snapshot{
		Verify: s.verifier.Verify, Issue: s.issue, Refuse: s.refuse, Chains: s.chainPEMs,
		TrustedRoot: s.trust.trustedRoot, SigningConfig: s.trust.signingConfig,
		Issuers: s.plan.public, ConfigDigest: s.file.Digest,
	}
	limits := s.file.Limits
	s.server, err = server.New(server.Config{
		Snapshot: func() *server.Snapshot { return snapshot },
		Ready:    s.Ready,
		Limits: server.Limits{
			PerIdentity: server.Rate{Count: limits.PerIdentity.Events, Per: limits.PerIdentity.Per},
			PerAddress:  server.Rate{Count: limits.PerAddress.Events, Per: limits.PerAddress.Per},
			InFlight:    limits.InFlight, TokenBytes: int(limits.TokenSize),
		},
		TrustedProxies: s.file.Listen.TrustedProxies, Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
		CountRefusal: s.journal.CountRefusal, Mounts: s.mounts(),
	})
	return err
}

func (s *Stack) chainPEMs() [][]string {
	var all [][]string
	for _, c := range s.authority.TrustBundle(ca.DefaultName) {
		all = append(all, c.PEM())
	}
	return all
}

// Ready tells by name which part could do its work now. It does no I/O.
func (s *Stack) Ready() map[string]bool {
	ready := map[string]bool{"issuers": false}
	for name, err := range s.authority.Ready() {
		ready[name] = err == nil
	}
	// One provider that is down must not take the service from the others.
	for _, issuer := range s.verifier.Ready() {
		if issuer.Ready {
			ready["issuers"] = true
		}
	}
	if s.file.Logs.Disabled {
		// Ready, for the operator said so; but whoever looks must see it.
		ready["logs_disabled"] = true
	}
	return ready
}

// Run serves until ctx ends, then drains within the configured bound and closes
// everything. It returns nil after an orderly end.
func (s *Stack) Run(ctx context.Context) error {
	if s.options.Listener != nil {
		// Serve closes it too; but it may not come to that, and clients must not
		// wait at a door behind which there is nobody.
		defer func() { _ = s.options.Listener.Close() }()
	}
	// Whichever part ends first, by ctx or by failing, ends the others.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	side, err := s.startSideDoors(ctx)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	var background sync.WaitGroup
	background.Go(func() { s.verifier.Run(ctx) })
	err = s.journal.Event(ctx, "start", slog.String("version", s.options.Version), slog.String("public_url", s.file.PublicURL),
		slog.String("config_digest", hex.EncodeToString(s.file.Digest[:])), slog.Bool("logs_disabled", s.file.Logs.Disabled))
	if err != nil {
		cancel()
		background.Wait()
		return errors.Join(fmt.Errorf("recording the start: %w", err), side.Close(), s.Close())
	}
	if s.file.Logs.Disabled {
		s.logger.Warn("certificates are not logged, because the configuration says `logs: disabled`")
	}
	background.Go(func() { s.watchLog(ctx, cancel) })
	err = s.server.Serve(ctx, server.ListenConfig{
		Address: s.file.Listen.Address, Listener: s.options.Listener, Plaintext: s.file.Listen.Plaintext,
		CertificateFile: s.file.Listen.TLS.Certificate, KeyFile: s.file.Listen.TLS.Key, Drain: s.file.Shutdown,
	})
	cancel()
	background.Wait()
	stopped := bounded(func(ctx context.Context) error { return s.journal.Event(ctx, "stop") })
	return errors.Join(err, s.logFailure(), stopped, side.Close(), s.Close())
}

// closeTimeout bounds each step after the drain: a disk that hangs must not keep
// the process, nor a log that hangs keep the journal from its last records.
const closeTimeout = 10 * time.Second

func bounded(step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return step(ctx)
}

// Close closes everything that Open opened, the journal last: what the others
// still do belongs in it. Run calls it; calling it again does nothing.
func (s *Stack) Close() error {
	s.once.Do(func() {
		var errs []error
		if s.server != nil {
			s.server.Close()
		}
		for _, l := range s.embedded {
			errs = append(errs, bounded(l.Close))
		}
		if s.journal != nil {
			errs = append(errs, bounded(s.journal.Close))
		}
		s.plan.close()
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}
