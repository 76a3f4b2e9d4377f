package ctlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// PoolConfig lists the logs of a pool.
type PoolConfig struct {
	// Logs in the order of preference. At least one; each with a public key, a
	// name and an id of its own. One that is a [Prober] is probed when it rests.
	Logs []Log
	// Timeout bounds a submission, whatever the number of logs that it is sent to.
	// Default 2.5 s, which leaves the rest of a request's four seconds to the CA.
	Timeout time.Duration
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
	// Logger hears when a log starts to rest and when it has recovered; nil
	// discards.
	Logger *slog.Logger
	// Clock measures the rests. Default time.Now.
	Clock func() time.Time
}

// Prober is a log that can tell whether it is well without a submission.
//
// Probe asks it. It honours ctx. That it returns nil is a hint and no promise.
type Prober interface {
	Probe(ctx context.Context) error
}

// Pool submits to the first log that can take a submission and fails over to the
// next in the order written. It gives exactly one SCT.
//
// Each log has a breaker, which keeps submissions from a log that fails: after
// five failures in a row, or one invalid SCT, the log rests, and Ready says so
// before a signature is wasted. A log that takes nothing for now, or that
// refuses one submission, is passed over and does not rest.
type Pool struct {
	members []*member
	timeout time.Duration
	logger  *slog.Logger
	clock   func() time.Time
	metrics *poolMetrics

	// Probes of resting logs run until stop is closed; mu guards closed, after
	// which none begins.
	mu      sync.Mutex
	closed  bool
	stop    chan struct{}
	probing sync.WaitGroup
}

// member is one log with what the pool knows of its health.
type member struct {
	Log
	breaker breaker
}

// NewPool checks the logs; it does not contact them.
func NewPool(c PoolConfig) (*Pool, error) {
	if len(c.Logs) == 0 {
		return nil, errors.New("ctlog: a pool needs at least one log")
	}
	if c.Timeout < 0 {
		return nil, errors.New("ctlog: negative timeout in the pool's configuration")
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	p := &Pool{timeout: c.Timeout, logger: c.Logger, clock: c.Clock, metrics: newPoolMetrics(), stop: make(chan struct{})}
	names, ids := map[string]bool{}, map[[32]byte]string{}
	for _, l := range c.Logs {
		if l == nil || l.Name() == "" {
			return nil, errors.New("ctlog: a log in the pool has no name")
		}
		id := l.ID()
		if id == [32]byte{} {
			return nil, fmt.Errorf("ctlog: log %q has no public key", l.Name())
		}
		if names[l.Name()] {
			return nil, fmt.Errorf("ctlog: two logs are named %q", l.Name())
		}
		if other, ok := ids[id]; ok {
			return nil, fmt.Errorf("ctlog: logs %q and %q have one key", other, l.Name())
		}
		names[l.Name()], ids[id] = true, l.Name()
		p.members = append(p.members, &member{Log: l, breaker: breaker{state: p.metrics.of(l.Name())}})
	}
	if err := p.metrics.register(c.Registerer); err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends the probes of logs that rest, waits for them, and closes the
// connections that nobody uses. Submissions under way, and even new ones, go on;
// what ends a log's rest then is the time alone.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	p.mu.Unlock()
	p.probing.Wait()
	for _, m := range p.members {
		if l, ok := m.Log.(interface{ CloseIdleConnections() }); ok {
			l.CloseIdleConnections()
		}
	}
}

// Ready returns nil if a submission would be sent to some log now, and otherwise
// an [*Outage] with the reason why each log would be passed over.
func (p *Pool) Ready() error {
	now := p.clock()
	outage := &Outage{}
	var reasons []error
	for _, m := range p.members {
		err := m.usable(now)
		if err == nil {
			return nil
		}
		reasons = append(reasons, err)
		outage.sooner(err)
	}
	outage.Err = errors.Join(reasons...)
	return outage
}

// Submit asks the logs in order until one gives a valid SCT. Logs that are not
// ready, or that rest, are not asked. The error is an [*Outage] that wraps those
// of all logs, so several sentinels may match it.
func (p *Pool) Submit(ctx context.Context, s Submission) (SCT, error) {
	bounded, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	r := &round{pool: p, submission: s}
	r.ask(bounded, ctx, p.members)
	if r.sct == nil && len(r.trials) > 0 {
		// The caller was told that some log was ready and has used the CA key. It is
		// better to wait for what another submission finds out than to waste that.
		r.ask(bounded, ctx, r.await(bounded))
	}
	if r.sct == nil {
		r.outage.Err = errors.Join(r.reasons...)
		return SCT{}, &r.outage
	}
	return *r.sct, nil
}

// round is one submission on its way through the logs.
type round struct {
	pool       *Pool
	submission Submission
	sct        *SCT
	reasons    []error
	outage     Outage
	trials     []trial
}

// trial is a log that another submission is trying.
type trial struct {
	*member
	over <-chan struct{}
}

// ask sends the submission to the members in order, until one gives an SCT. The
// caller's context ends when whoever submits goes away, and ctx also when the
// pool's own time is over.
func (r *round) ask(ctx, caller context.Context, members []*member) {
	for i, m := range members {
		if ctx.Err() != nil {
			r.reasons = append(r.reasons, context.Cause(ctx))
			return
		}
		pass, err := m.admit(r.pool.clock())
		if err == nil {
			var sct SCT
			sct, err = r.pool.ask(ctx, caller, m, pass, r.submission, members[i+1:])
			if err == nil {
				r.pool.metrics.winner.WithLabelValues(m.Name()).Inc()
				r.sct = &sct
				return
			}
		}
		r.reasons = append(r.reasons, err)
		r.outage.sooner(err)
		if resting, ok := errors.AsType[*restingError](err); ok && resting.trial != nil {
			r.trials = append(r.trials, trial{m, resting.trial})
		}
	}
}

// await waits until the first trial is over and returns its log.
func (r *round) await(ctx context.Context) []*member {
	first := r.trials[0]
	select {
	case <-first.over:
	case <-ctx.Done():
	}
	return []*member{first.member}
}

// ask sends the submission to one log, in its fair part of the time: those that
// could still be asked have a part each.
func (p *Pool) ask(ctx, caller context.Context, m *member, leave pass, s Submission, others []*member) (SCT, error) {
	start := p.clock()
	verdict, why := unclear, error(nil)
	defer func() { p.report(m, leave, verdict, why) }() // whatever happens, a trial is over
	parts := 1
	for _, o := range others {
		if o.usable(start) == nil {
			parts++
		}
	}
	bounded := ctx
	if deadline, ok := ctx.Deadline(); ok && parts > 1 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(parts))
		defer cancel()
	}
	// The id of a log with shards changes when the next one takes over.
	before := m.ID()
	sct, err := m.Submit(bounded, s)
	took := p.clock().Sub(start)
	if err == nil && sct.LogID != before && sct.LogID != m.ID() {
		err = badSCT(reasonLogID, "log %q answered with the id of another", m.Name())
	}
	if err != nil && caller.Err() == nil && bounded.Err() != nil {
		err = fmt.Errorf("%w: log %q gave no answer in %s: %w", ErrUnavailable, m.Name(), took.Round(time.Millisecond), err)
	}
	p.metrics.seconds.WithLabelValues(m.Name(), result(err)).Observe(took.Seconds())
	if verdict, why = judge(bounded, caller, err, took, p.enough()), err; verdict == lied {
		reason := reasonOf(err)
		p.metrics.lies.WithLabelValues(m.Name(), reason).Inc()
		p.logger.Error("transparency log gave an invalid SCT", "log", m.Name(), "reason", reason, "err", err)
	}
	return sct, err
}

// judge says what the result of a submission tells about the log. That it has no
// room now, or refused one submission, says nothing: a caller could otherwise
// silence the log by asking for odd certificates. Nor does a caller who went away
// or has little time, which clients of gRPC choose themselves; but that the time
// ran out does, if the log had enough of it.
func judge(bounded, caller context.Context, err error, took, enough time.Duration) verdict {
	switch {
	case err == nil:
		return worked
	case errors.Is(err, ErrBadSCT):
		return lied
	case errors.Is(caller.Err(), context.Canceled):
		return unclear
	case bounded.Err() != nil && took < enough:
		return unclear
	case bounded.Err() == nil && (errors.Is(err, ErrRejected) || errors.Is(err, ErrOverloaded)):
		return unclear
	}
	return failed
}

// enough is how long a log must have had to be blamed for the time that ran out:
// most of what it has when all logs are well and the caller is in no hurry.
func (p *Pool) enough() time.Duration {
	return p.timeout / time.Duration(len(p.members)) * 4 / 5
}

// report tells the breaker, and whoever watches when it changes.
func (p *Pool) report(m *member, leave pass, v verdict, err error) {
	opened, closed := m.breaker.report(leave, v, err, p.clock())
	if closed {
		p.logger.Info("transparency log recovered", "log", m.Name())
	}
	if opened {
		rest := m.breaker.rest(p.clock())
		p.logger.Warn("transparency log is passed over", "log", m.Name(), "rest", rest, "err", err)
		if prober, ok := m.Log.(Prober); ok {
			p.probe(m, prober)
		}
	}
}

func (m *member) usable(now time.Time) error {
	if err := m.Ready(); err != nil {
		return fmt.Errorf("log %q: %w", m.Name(), err)
	}
	if err := m.breaker.check(now); err != nil {
		return fmt.Errorf("log %q: %w", m.Name(), err)
	}
	return nil
}

func (m *member) admit(now time.Time) (pass, error) {
	if err := m.Ready(); err != nil {
		return pass{}, fmt.Errorf("log %q: %w", m.Name(), err)
	}
	leave, err := m.breaker.admit(now)
	if err != nil {
		return pass{}, fmt.Errorf("log %q: %w", m.Name(), err)
	}
	return leave, nil
}
