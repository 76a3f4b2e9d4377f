package stack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
)

// LogServer is the log in a state directory alone in a process: others submit to
// it, and anybody reads it. It is a Stack without all that issues.
type LogServer struct {
	stack      *Stack
	submission *submission
	pair       *live[*tls.Certificate] // nil for plaintext
	// draining says that the service ends, to whoever asks for readiness.
	draining chan struct{}
	once     sync.Once
	closeErr error
}

// OpenLogServer opens the log of a configuration, all its shards, and reads what
// submission needs. Of the options, Listener is not used.
func OpenLogServer(ctx context.Context, f *config.File, o Options) (*LogServer, error) {
	if submissionOf(f) == nil {
		return nil, config.Problems{f.Problem("logs", "no embedded log has a submission section, so nobody could submit; "+
			"add one, or run mayfly serve, which reads and writes its log by itself")}
	}
	s := newStack(f, o)
	p := newLogPlan(f, planning{now: s.options.Clock(), demo: o.Demo})
	if len(p.problems) > 0 {
		return nil, p.sorted()
	}
	l := &LogServer{stack: s, draining: make(chan struct{})}
	if err := l.open(ctx, p); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *LogServer) open(ctx context.Context, p *plan) (err error) {
	l.stack.current.Store(&snapshot{plan: p})
	if t := p.file.Listen.TLS; !p.file.Listen.Plaintext {
		l.pair = &live[*tls.Certificate]{
			what: "server certificate", files: []string{t.Certificate, t.Key}, build: buildPair, logger: l.stack.logger,
		}
		if err := l.pair.load(); err != nil {
			return err
		}
	}
	if l.submission, err = l.stack.newSubmission(*submissionOf(p.file)); err != nil {
		return err
	}
	return l.stack.openShards(ctx, p)
}

// Ready tells by name which part could do its work now. It does no I/O.
func (l *LogServer) Ready() map[string]bool {
	n := l.stack.current.Load()
	current := l.stack.shard(n.shards[CurrentShard(n.shards, l.stack.options.Clock())].Name)
	ready := map[string]bool{"log": current != nil && submittedShard{l.stack, current}.Ready() == nil}
	select {
	case <-l.draining:
		ready["serving"] = false
	default:
	}
	return ready
}

// Run serves until ctx ends, then drains within the configured bound and closes
// everything. It returns nil after an orderly end.
func (l *LogServer) Run(ctx context.Context) error {
	f := l.stack.current.Load().file
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	metrics, err := l.stack.startMetrics(ctx, f.Metrics)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	doors, err := l.openDoors(ctx, f)
	if err != nil {
		cancel()
		return errors.Join(err, closeDoors(doors), metrics.Close(), l.Close())
	}
	var background sync.WaitGroup
	background.Go(func() { l.stack.watchLog(ctx, cancel) })
	background.Go(func() { l.stack.watchTokens(ctx, cancel) })
	background.Go(func() { l.stack.freezeShards(ctx) })
	background.Go(func() { checkLive(ctx, l.checkFiles) })
	select {
	case <-ctx.Done():
	case <-doors[0].done:
	case <-doors[1].done:
	}
	close(l.draining)
	l.stack.logger.Info("draining", "bound", f.Shutdown)
	cancel() // both begin to drain
	err = closeDoors(doors)
	background.Wait()
	return errors.Join(err, l.stack.logFailure(), l.stack.stuckErr, metrics.Close(), l.Close())
}

// openDoors opens the listener of submitters and that of readers. Those that are
// open are returned with an error too.
func (l *LogServer) openDoors(ctx context.Context, f *config.File) ([]*door, error) {
	submitters, err := l.submission.open(ctx, f.Shutdown)
	if err != nil {
		return nil, err
	}
	c := doorConfig{
		what: "reading the log", address: f.Listen.Address, handler: l.readHandler(), drain: f.Shutdown,
		read: 10 * time.Second, write: time.Minute, logger: l.stack.logger,
	}
	if l.pair != nil {
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return l.pair.value(), nil
		}}
	}
	readers, err := openDoor(ctx, c)
	if err != nil {
		return []*door{submitters}, err
	}
	return []*door{submitters, readers}, nil
}

func closeDoors(doors []*door) error {
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// readHandler serves /log/<shard>/..., /healthz and /readyz.
func (l *LogServer) readHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(logRoot+"/", http.StripPrefix(logRoot, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// RFC 9110, Section 14.2: "A server MAY ignore the Range header field." No
		// monitor needs it, and many ranges make a large answer of a small request.
		r.Header.Del("Range")
		l.stack.serveLogs(w, r)
	})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write([]byte("{\"status\":\"SERVING\"}\n")) // who asks may be gone
	})
	mux.HandleFunc("GET /readyz", l.readyz)
	return mux
}

// readyz answers as the service does.
func (l *LogServer) readyz(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Ready      bool            `json:"ready"`
		Components map[string]bool `json:"components"`
	}{true, l.Ready()}
	status := http.StatusOK
	for _, ready := range answer.Components {
		if !ready {
			answer.Ready, status = false, http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who asks may be gone
}

// checkFiles looks at the files again.
func (l *LogServer) checkFiles() error {
	errs := l.submission.check()
	if l.pair != nil {
		errs = append(errs, l.pair.check())
	}
	return errors.Join(errs...)
}

// Reload looks at certificates and issuing certificates at once, which it does by
// itself every two seconds, and takes shards into use that mayfly log rotate has
// made. Anything else of the configuration needs a new start.
func (l *LogServer) Reload(ctx context.Context) error {
	s := l.stack
	if s.options.Load == nil {
		return errors.New("this log does not reload its configuration; start it again")
	}
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.closed {
		return errClosed
	}
	ctx, cancel := s.untilStop(ctx)
	defer cancel()
	if err := l.reload(ctx); err != nil {
		s.logger.Error("not all was reloaded", "err", err)
		return err
	}
	s.logger.Info("reloaded")
	return nil
}

func (l *LogServer) reload(ctx context.Context) error {
	s, before := l.stack, l.stack.current.Load()
	if err := l.checkFiles(); err != nil {
		return err
	}
	f, err := s.options.Load()
	if err != nil {
		return err
	}
	if f.Digest != before.file.Digest {
		return fmt.Errorf("%s has changed, and a log alone takes that into use at its next start", f.Path)
	}
	p := newLogPlan(f, planning{now: s.options.Clock(), demo: s.options.Demo})
	if len(p.problems) > 0 {
		return p.sorted()
	}
	if err := surprise(before.plan, p, s.options.Clock()); err != nil {
		return err
	}
	if err := s.openShards(ctx, p); err != nil {
		return err
	}
	s.current.Store(&snapshot{plan: p})
	return nil
}

// Close closes everything that OpenLogServer opened. Run calls it; calling it
// again does nothing.
func (l *LogServer) Close() error {
	l.once.Do(func() {
		close(l.stack.stopping)
		l.stack.reloading.Lock()
		l.stack.closed = true
		l.stack.reloading.Unlock()
		var errs []error
		for _, sh := range l.stack.shards() {
			errs = append(errs, sh.close())
		}
		l.closeErr = errors.Join(errs...)
	})
	return l.closeErr
}
