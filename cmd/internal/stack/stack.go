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
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/audit"
	"github.com/mayfly-ca/mayfly/internal/auditor"
	"github.com/mayfly-ca/mayfly/internal/freeze"
	"github.com/mayfly-ca/mayfly/internal/server"
)

// Options are what the two programs differ in.
type Options struct {
	// Demo accepts state and chains that are marked as demonstration, and no
	// others.
	Demo bool
	// Load reads the configuration again for a reload. Without it, there is none.
	Load func() (*config.File, error)
	// Reloaded is called with each configuration that was taken into use after
	// the first one. It may be nil and must not block.
	Reloaded func(*config.File)
	// Listener is used instead of the configured address; Run closes it.
	Listener net.Listener
	// Version is the program's, for the journal.
	Version string
	// Logger hears of state changes; nil discards.
	Logger *slog.Logger
	// Clock is the one clock of the whole stack; nil means time.Now.
	Clock func() time.Time
}

// Stack is the running service: what is opened once and lasts, and the snapshot
// of one configuration that is swapped whole.
type Stack struct {
	options  Options
	logger   *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics
	journal  *audit.Journal
	frozen   *freeze.List
	tokens   *keys.Tokens
	server   *server.Server
	current  atomic.Pointer[snapshot]
	// embedded are the shards of the log in the state directory, which a reload may
	// add to; embeddedMu guards the slice.
	embeddedMu sync.RWMutex
	embedded   []*shard
	// reloading is held by the one reload at a time, and guards reloads and
	// closed, after which there are none.
	reloading sync.Mutex
	reloads   reloads
	closed    bool
	// stopping is closed when the service ends: no reload keeps it waiting.
	stopping chan struct{}
	// ending says that something ends within a week.
	ending atomic.Bool
	// auditing compares logs with journals; nil while it does not. unaudited says that
	// it cannot.
	auditing  atomic.Pointer[auditor.Auditor]
	unaudited atomic.Bool
	// stuck is told that calls hang in a token's library, and stuckErr is why that
	// ended the service; Run reads it when all goroutines have ended.
	stuck    chan error
	stuckErr error
	// retiring counts snapshots that wait for their last requests.
	retiring sync.WaitGroup
	once     sync.Once
	closeErr error
}

// Open opens what the service owns, in the order in which things depend on each
// other. On an error everything is closed again.
func Open(ctx context.Context, f *config.File, o Options) (*Stack, error) {
	s := newStack(f, o)
	s.metrics = newMetrics(s.registry)
	p := newPlan(ctx, f, planning{now: s.options.Clock(), demo: o.Demo, open: s.tokens.Key})
	if len(p.problems) > 0 {
		p.close()
		return nil, p.sorted()
	}
	if err := s.openAll(ctx, p); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// newStack is what every service begins with, whether it issues or is a log alone.
func newStack(f *config.File, o Options) *Stack {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	s := &Stack{
		options: o, logger: logger(o.Logger), registry: prometheus.NewRegistry(),
		stuck: make(chan error, 1), stopping: make(chan struct{}),
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.tokens = &keys.Tokens{State: f.State, Logger: s.logger, Registerer: s.registry, Clock: o.Clock, OnStuck: s.hearOfStuck}
	return s
}

// openAll opens what lasts, and then the first snapshot, which closes the plan.
func (s *Stack) openAll(ctx context.Context, p *plan) error {
	for _, step := range []func(context.Context, *config.File) error{s.openJournal, s.openFrozen} {
		if err := step(ctx, p.file); err != nil {
			p.close()
			return err
		}
	}
	if err := s.openShards(ctx, p); err != nil {
		p.close()
		return err
	}
	n, err := s.newSnapshot(p, nil)
	if err != nil {
		p.close()
		return err
	}
	n.content = contentOf(followed(p.file))
	s.current.Store(n)
	s.reloads.accepted(n, s.options.Clock())
	s.metrics.took(s.options.Clock())
	return s.openServer(p.file)
}

func (s *Stack) openJournal(ctx context.Context, f *config.File) error {
	node, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding this node's name for the audit journal: %w", err)
	}
	if err := os.MkdirAll(f.State, 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	s.journal, err = audit.Open(ctx, audit.Config{
		Dir: auditDir(f.State), Node: node, Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
	})
	return err
}

func (s *Stack) openFrozen(_ context.Context, f *config.File) (err error) {
	s.frozen, err = freeze.Open(freezeFile(f.State), s.options.Clock)
	return err
}

func (s *Stack) openServer(f *config.File) error {
	var err error
	s.server, err = server.New(server.Config{
		Snapshot: s.pin,
		Ready:    s.Ready,
		Shown:    s.shown,
		Limits: server.Limits{
			PerIdentity: server.Rate{Count: f.Limits.PerIdentity.Events, Per: f.Limits.PerIdentity.Per},
			PerAddress:  server.Rate{Count: f.Limits.PerAddress.Events, Per: f.Limits.PerAddress.Per},
			InFlight:    f.Limits.InFlight, TokenBytes: int(f.Limits.TokenSize),
		},
		TrustedProxies: f.Listen.TrustedProxies, Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
		CountRefusal: s.journal.CountRefusal, Mounts: s.mounts(),
	})
	return err
}

// Ready tells by name which part could do its work now. It does no I/O.
func (s *Stack) Ready() map[string]bool {
	n := s.current.Load()
	ready := map[string]bool{"issuers": false}
	for name, err := range n.authority.Ready() {
		ready[name] = err == nil
	}
	// One provider that is down must not take the service from the others.
	for _, issuer := range n.verifier.Ready() {
		if issuer.Ready {
			ready["issuers"] = true
		}
	}
	if n.file.Logs.Disabled {
		// Ready, for the operator said so; but whoever looks must see it.
		ready["logs_disabled"] = true
	}
	return ready
}

// Run serves until ctx ends, then drains within the configured bound and closes
// everything. It returns nil after an orderly end.
func (s *Stack) Run(ctx context.Context) error {
	f := s.current.Load().file
	if s.options.Listener != nil {
		// Serve closes it too; but it may not come to that, and clients must not
		// wait at a door behind which there is nobody.
		defer func() { _ = s.options.Listener.Close() }()
	}
	// Whichever part ends first, by ctx or by failing, ends the others.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	side, err := s.startSideDoors(ctx, f)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	s.current.Load().verifier.start()
	var background sync.WaitGroup
	// Who is told to stop meanwhile finishes these two first, which are bounded, and
	// then stops in order.
	err = bounded(func(ctx context.Context) error {
		return s.journal.Event(ctx, "start", slog.String("version", s.options.Version), slog.String("public_url", f.PublicURL),
			slog.String("config_digest", hex.EncodeToString(f.Digest[:])), slog.Bool("logs_disabled", f.Logs.Disabled))
	})
	if err != nil {
		return errors.Join(fmt.Errorf("recording the start: %w", err), side.Close(), s.Close())
	}
	if err := s.selfTest(context.WithoutCancel(ctx), s.current.Load()); err != nil {
		return errors.Join(err, side.Close(), s.Close())
	}
	if f.Logs.Disabled {
		s.logger.Warn("certificates are not logged, because the configuration says `logs: disabled`")
	}
	background.Go(func() { s.watchLog(ctx, cancel) })
	background.Go(func() { s.freezeShards(ctx) })
	background.Go(func() { s.watchTokens(ctx, cancel) })
	background.Go(func() { s.follow(ctx) })
	background.Go(func() { s.warn(ctx) })
	background.Go(func() { s.markJournal(ctx) })
	s.openAuditor()
	background.Go(func() { s.auditLogs(ctx) })
	err = s.server.Serve(ctx, server.ListenConfig{
		Address: f.Listen.Address, Listener: s.options.Listener, Plaintext: f.Listen.Plaintext,
		CertificateFile: f.Listen.TLS.Certificate, KeyFile: f.Listen.TLS.Key, Drain: f.Shutdown,
	})
	cancel()
	background.Wait()
	stopped := bounded(func(ctx context.Context) error { return s.journal.Event(ctx, "stop") })
	return errors.Join(err, s.logFailure(), s.stuckErr, stopped, side.Close(), s.Close())
}

// selfTestTimeout is for an HSM that has to wake up.
const selfTestTimeout = 10 * time.Second

// selfTest has every key that signs prove itself before anybody depends on it. A
// clock that is not to be trusted is no fault of a key: then nothing is issued,
// and readiness tells.
func (s *Stack) selfTest(ctx context.Context, n *snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	err := n.authority.SelfTest(ctx)
	if err != nil && ca.AsRefusal(err).Reason == ca.ReasonClock {
		s.logger.Error("the keys were not tested", "err", err)
		return nil
	}
	return err
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
		close(s.stopping)
		s.reloading.Lock()
		s.closed = true
		s.reloading.Unlock()
		var errs []error
		if s.server != nil {
			s.server.Close()
		}
		s.retiring.Wait()
		for _, l := range s.shards() {
			errs = append(errs, l.close())
		}
		if n := s.current.Load(); n != nil {
			n.verifier.stop()
			n.close()
			if n.log != nil {
				n.log.Close()
			}
		}
		if s.journal != nil {
			errs = append(errs, bounded(s.journal.Close))
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}
