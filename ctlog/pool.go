package ctlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// PoolConfig lists the logs of a pool.
type PoolConfig struct {
	// Logs in the order of preference. At least one; each with a public key, a
	// name and an id of its own.
	Logs []Log
	// FailoverAfter bounds the time given to each log but the last, so that a
	// log that hangs leaves time for the next. Default 1.5 s.
	FailoverAfter time.Duration
	// Rest is how long a log that failed is passed over. Default 1 s.
	Rest time.Duration
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
	// Logger hears when a log starts to fail and when it recovers; nil discards.
	Logger *slog.Logger
	// Clock measures the rest. Default time.Now.
	Clock func() time.Time
}

// Pool submits to the first log that can take a submission and fails over to the
// next in the order written. It gives exactly one SCT.
type Pool struct {
	members       []*member
	failoverAfter time.Duration
	logger        *slog.Logger
	clock         func() time.Time
	seconds       *prometheus.HistogramVec
	ready         *prometheus.GaugeVec
}

// member is one log with what the pool knows of its health.
type member struct {
	Log
	health health
}

// NewPool checks the logs; it does not contact them.
func NewPool(c PoolConfig) (*Pool, error) {
	if len(c.Logs) == 0 {
		return nil, errors.New("ctlog: a pool needs at least one log")
	}
	if c.FailoverAfter < 0 || c.Rest < 0 {
		return nil, errors.New("ctlog: negative duration in the pool's configuration")
	}
	if c.FailoverAfter == 0 {
		c.FailoverAfter = 1500 * time.Millisecond
	}
	if c.Rest == 0 {
		c.Rest = time.Second
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	p := &Pool{failoverAfter: c.FailoverAfter, logger: c.Logger, clock: c.Clock}
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
		p.members = append(p.members, &member{Log: l, health: health{rest: c.Rest}})
	}
	if err := p.register(c.Registerer); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Pool) register(r prometheus.Registerer) error {
	p.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mayfly_ctlog_submit_seconds",
		Help: "Time one log took over one submission, by its result; more in results other than " +
			"\"ok\" means that certificates were delayed or refused for want of an SCT.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"log", "result"})
	p.ready = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_ctlog_ready",
		Help: "1 if the log's last submission did not make the pool pass it over; an increase is a recovery.",
	}, []string{"log"})
	for _, m := range p.members {
		p.ready.WithLabelValues(m.Name()).Set(1)
	}
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{p.seconds, p.ready} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("ctlog: registering metrics: %w", err)
		}
	}
	return nil
}

// Ready returns nil if a submission would be sent to some log now, and otherwise
// why each log would be passed over.
func (p *Pool) Ready() error {
	now := p.clock()
	var reasons []error
	for _, m := range p.members {
		err := m.usable(now)
		if err == nil {
			return nil
		}
		reasons = append(reasons, err)
	}
	return fmt.Errorf("no log is ready: %w", errors.Join(reasons...))
}

// Submit asks the logs in order until one gives a valid SCT. Logs that are not
// ready, or failed a moment ago, are not asked. The error wraps those of all
// logs, so several sentinels may match it.
func (p *Pool) Submit(ctx context.Context, s Submission) (SCT, error) {
	var reasons []error
	for i, m := range p.members {
		if err := ctx.Err(); err != nil {
			reasons = append(reasons, context.Cause(ctx))
			break
		}
		if err := m.usable(p.clock()); err != nil {
			reasons = append(reasons, err)
			continue
		}
		sct, err := p.ask(ctx, m, s, i == len(p.members)-1)
		if err == nil {
			return sct, nil
		}
		reasons = append(reasons, err)
	}
	return SCT{}, fmt.Errorf("no log gave an SCT: %w", errors.Join(reasons...))
}

func (p *Pool) ask(ctx context.Context, m *member, s Submission, last bool) (SCT, error) {
	bounded := ctx
	if !last {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, p.failoverAfter)
		defer cancel()
	}
	start := p.clock()
	sct, err := m.Submit(bounded, s)
	took := p.clock().Sub(start)
	if err == nil && sct.LogID != m.ID() {
		err = fmt.Errorf("%w: log %q answered with the id of another", ErrBadSCT, m.Name())
	}
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = fmt.Errorf("%w: log %q gave no answer in %s: %w", ErrUnavailable, m.Name(), p.failoverAfter, err)
	}
	p.seconds.WithLabelValues(m.Name(), result(err)).Observe(took.Seconds())
	switch {
	case err == nil:
		if m.health.ok() {
			p.logger.Info("transparency log recovered", "log", m.Name())
		}
		p.ready.WithLabelValues(m.Name()).Set(1)
	case blames(ctx, err, took):
		if m.health.failed(p.clock(), err) {
			p.logger.Warn("transparency log failed", "log", m.Name(), "err", err)
		}
		p.ready.WithLabelValues(m.Name()).Set(0)
	}
	if err != nil {
		return SCT{}, err
	}
	return sct, nil
}

// blames says whether err tells something about the log. A refused submission
// does not: a caller could then silence the log by asking for odd certificates.
// Nor does a caller who went away; but one whose time ran out while the log had
// a fair share of it does.
func blames(ctx context.Context, err error, took time.Duration) bool {
	const fairShare = 500 * time.Millisecond
	if ctx.Err() != nil {
		return errors.Is(ctx.Err(), context.DeadlineExceeded) && took >= fairShare
	}
	return !errors.Is(err, ErrRejected)
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, ErrBadSCT):
		return "bad_sct"
	case errors.Is(err, ErrRejected):
		return "rejected"
	case errors.Is(err, ErrOverloaded):
		return "overloaded"
	default:
		return "unavailable"
	}
}

func (m *member) usable(now time.Time) error {
	if err := m.Ready(); err != nil {
		return fmt.Errorf("log %q: %w", m.Name(), err)
	}
	if err := m.health.resting(now); err != nil {
		return fmt.Errorf("log %q failed a moment ago: %w", m.Name(), err)
	}
	return nil
}
