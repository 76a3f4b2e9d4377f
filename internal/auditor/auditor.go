package auditor

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Targets are what is compared with what.
type Targets struct {
	Logs []Log
	// Journals are those of all replicas that sign with the issuing keys. At least one.
	Journals []Journal
	// Issuers are the issuing certificates, retired ones included. A key that a
	// journal names is ours as well.
	Issuers []*x509.Certificate
}

// Config is what an Auditor is made of.
type Config struct {
	// Dir is where it keeps what it knows. Nothing else belongs into it.
	Dir string
	// Targets is asked at the begin of every round, so that a reload takes effect.
	Targets func() (Targets, error)
	// Interval is how often the logs are read; 0 means 30 s. Journals are read more
	// often while entries wait for them.
	Interval time.Duration
	// Record writes an event of the audit journal; nil means none. Heads go there, so
	// that they are kept where the journal is kept.
	Record func(ctx context.Context, kind string, attrs ...slog.Attr) error
	// Reported is called with the report of each round. It may be nil.
	Reported func(Report)
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
	// Logger hears of alarms in every round; nil discards.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Auditor compares logs with journals. See the package's documentation.
type Auditor struct {
	dir      string
	targets  func() (Targets, error)
	interval time.Duration
	sink     func(ctx context.Context, kind string, attrs ...slog.Attr) error
	reported func(Report)
	clock    func() time.Time
	logger   *slog.Logger
	metrics  *metrics
	lock     *os.File
	report   atomic.Pointer[Report]

	// rounds is held for a round, mu for what the fetching goroutines of a round
	// share: everything below.
	rounds sync.Mutex
	mu     sync.Mutex

	state    state
	dirty    bool
	logs     []*logState
	journals []*journalState
	issuers  []*x509.Certificate
	ours     map[hash]bool
	pending  map[subject]pending
	promises map[hash]promise
	accepted map[string]bool
	passing  []Alarm
	began    map[string]time.Time
	recorded map[string]bool
}

// Open takes a directory for an auditor. It asks nobody yet.
func Open(c Config) (*Auditor, error) {
	if c.Dir == "" || c.Targets == nil {
		return nil, errors.New("auditor: no directory or no targets")
	}
	a := &Auditor{
		dir: c.Dir, targets: c.Targets, interval: c.Interval, sink: c.Record, reported: c.Reported, clock: c.Clock, logger: c.Logger,
		pending: map[subject]pending{}, promises: map[hash]promise{}, accepted: map[string]bool{}, recorded: map[string]bool{},
	}
	if a.interval == 0 {
		a.interval = 30 * time.Second
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if a.lock, err = lockDir(c.Dir); err != nil {
		return nil, fmt.Errorf("auditor: %w", err)
	}
	a.metrics = newMetrics()
	if err := a.remember(); err != nil {
		return nil, errors.Join(fmt.Errorf("auditor: %w", err), a.lock.Close())
	}
	// Last, because it cannot be done twice: who could not open may try again.
	if err := a.metrics.register(c.Registerer); err != nil {
		return nil, errors.Join(fmt.Errorf("auditor: registering metrics: %w", err), a.lock.Close())
	}
	return a, nil
}

// remember reads the state. One that is damaged is set aside with the indexes, and
// everything is read again: that must not be a reason not to issue, but it is one
// to look.
func (a *Auditor) remember() error {
	var err error
	a.state, err = readState(a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = a.begin(); err == nil {
			return nil
		}
	}
	if errors.Is(err, errDamaged) {
		a.logger.Error("the state of the log audit is damaged and is set aside", "dir", a.dir, "err", err)
		aside := filepath.Join(a.dir, fmt.Sprintf("damaged-%d", a.clock().UnixNano()))
		if err := os.Mkdir(aside, 0o700); err != nil {
			return fmt.Errorf("setting the damaged state aside: %w", err)
		}
		for _, name := range []string{stateName, "logs", "journals"} {
			if err := os.Rename(filepath.Join(a.dir, name), filepath.Join(aside, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("setting the damaged state aside: %w", err)
			}
		}
		a.find(sha256.Sum256([]byte(aside)), Alarm{Class: Forgotten, Text: "the state was damaged or gone; what was left is in " + aside})
		err = nil
	}
	for _, p := range a.state.Promises {
		a.promises[p.Place] = p
	}
	for _, f := range a.state.Findings {
		if f.Class == Unexplained {
			a.metrics.unexplained.Inc()
		}
	}
	return err
}

// begin writes the first state, and then into the lock file that there is one, so
// that it is missed when it is gone.
func (a *Auditor) begin() error {
	info, err := a.lock.Stat()
	if err != nil {
		return fmt.Errorf("reading the lock: %w", err)
	}
	if info.Size() > 0 {
		return fmt.Errorf("%w: it is gone", errDamaged)
	}
	if err := a.state.write(a.dir); err != nil {
		return err
	}
	_, err = a.lock.WriteString("There is a state since " + a.clock().UTC().Format(time.RFC3339) + "\n")
	if err := errors.Join(err, a.lock.Sync()); err != nil {
		return fmt.Errorf("noting that there is a state: %w", err)
	}
	return nil
}

// Close gives the directory free. No round may be under way.
func (a *Auditor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(a.save(), a.lock.Close())
}

// Report is that of the last round; nil before the first.
func (a *Auditor) Report() *Report { return a.report.Load() }

// Well reports that the last round had no alarm.
func (a *Auditor) Well() bool {
	r := a.report.Load()
	return r == nil || len(r.Alarms) == 0
}

const (
	// recheck is how often journals are read while entries wait for them.
	recheck = 5 * time.Second
	// breath is left between rounds that take longer than their interval.
	breath = time.Second
)

// Run makes a round every interval until ctx ends, and looks into the journals in
// between while entries wait for them.
func (a *Auditor) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		full := last.IsZero() || time.Since(last) >= a.interval
		if full {
			last = time.Now()
		}
		if full || a.waiting() {
			a.round(ctx, full)
		}
		timer.Reset(min(recheck, max(breath, a.interval-time.Since(last))))
	}
}

func (a *Auditor) waiting() bool {
	r := a.report.Load()
	return r != nil && r.Pending > 0
}

// Round reads all logs and journals once, and says what it found. It ends with ctx
// or after maxRound at most; a long way to go is gone in several rounds.
func (a *Auditor) Round(ctx context.Context) Report { return a.round(ctx, true) }

// maxRound bounds a round, however slow a log is: with the interval between rounds,
// it decides how late an alarm about another one can come.
const maxRound = 20 * time.Second

func (a *Auditor) round(ctx context.Context, heads bool) Report {
	a.rounds.Lock()
	defer a.rounds.Unlock()
	ctx, cancel := context.WithTimeout(ctx, maxRound)
	defer cancel()
	a.passing = nil
	if err := errors.Join(a.readAccepted(ctx), a.retarget()); err != nil {
		a.raise(Alarm{Class: Forgotten, Text: err.Error()})
	}
	if heads {
		a.fetchHeads(ctx)
	}
	done := a.compare(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.judge()
	if err := a.save(); err != nil {
		a.raise(Alarm{Class: Forgotten, Text: err.Error()})
	}
	report := a.makeReport(done)
	a.report.Store(&report)
	a.metrics.show(report)
	a.tell(ctx, report)
	if a.reported != nil {
		a.reported(report)
	}
	return report
}

// compare reads journals and logs until both are at their ends, or until there is
// no way on in this round. Heads were fetched before: what they cover was intended
// before the journals are read.
func (a *Auditor) compare(ctx context.Context) (done bool) {
	for ctx.Err() == nil {
		before := a.progress()
		a.mu.Lock()
		more := a.readJournals(ctx)
		a.mu.Unlock()
		more = a.readLogs(ctx) || more
		if !more {
			return ctx.Err() == nil
		}
		if a.progress() == before {
			return false
		}
	}
	return false
}

func (a *Auditor) progress() (sum uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.journals {
		sum += j.records
	}
	for _, l := range a.logs {
		sum += l.cursor.End() + l.good.End()
	}
	return sum
}

// fetchHeads asks all logs at once, so that none waits for another.
func (a *Auditor) fetchHeads(ctx context.Context) {
	var all sync.WaitGroup
	for _, l := range a.logs {
		all.Go(func() {
			h, err := l.fetchHead(ctx)
			a.mu.Lock()
			defer a.mu.Unlock()
			if ctx.Err() == nil {
				a.meet(l, h, err, a.clock())
			}
		})
	}
	all.Wait()
}

// readLogs reads all logs at once. It returns true if one has more.
func (a *Auditor) readLogs(ctx context.Context) (more bool) {
	var all sync.WaitGroup
	for _, l := range a.logs {
		all.Go(func() { a.readLog(ctx, l) })
	}
	all.Wait()
	for _, l := range a.logs {
		more = more || l.paused
	}
	return more
}

func (a *Auditor) readLog(ctx context.Context, l *logState) {
	for {
		a.mu.Lock()
		from, head, ok := l.next(a.clock())
		ok = ok && !l.halted
		// A bound for each log, so that none can keep others from being read.
		l.paused = ok && a.undecided(l) >= maxUndecided
		if !ok && l.fresh && !l.halted {
			l.failure = nil
		}
		a.mu.Unlock()
		if !ok || l.paused {
			return
		}
		var b batchOf
		var err error
		if b.from = from; from < head.Size {
			b.entries, err = l.Source.Entries(ctx, head, from)
		}
		if ctx.Err() != nil {
			l.paused = true
			return
		}
		a.mu.Lock()
		switch {
		case errors.Is(err, errEntries):
			l.trouble = &Alarm{Class: Damaged, Log: l.Name, Text: err.Error()}
			l.halted = true
		case err == nil:
			err = a.take(l, b)
		}
		if errors.Is(err, errRoot) {
			// Asked without the lock: it is the log that decides how long this takes.
			kept, old, target := clone(l.good), l.saved.Kept, l.target
			a.mu.Unlock()
			proof := l.Source.Extends(ctx, kept, old, target)
			a.mu.Lock()
			a.contradiction(l, err, proof)
			err = nil
		}
		if err != nil {
			l.fail(err, a.clock())
		}
		stop := err != nil || l.halted
		a.mu.Unlock()
		if stop {
			return
		}
	}
}
