package main

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
)

// clients are how many connections there are, in a closed loop at most.
const clients = 64

// contender is a server that runs, with requests laid out for it.
type contender struct {
	name    string
	server  *site.Server
	backend *site.Process
	dial    load.Dial
}

// measurement adds up what several rounds of one load found out.
type measurement struct {
	load.Result
	server, generator, backend time.Duration
}

// closed adds a round at saturation.
func (c contender) closed(ctx context.Context, m *measurement, clients int, duration time.Duration) error {
	return c.round(m, func() (load.Result, error) {
		return load.Closed{Clients: clients, Duration: duration, Timeout: load.DefaultTimeout}.Run(ctx, c.dial)
	})
}

// open adds a round at a constant rate.
func (c contender) open(ctx context.Context, m *measurement, rate float64, duration time.Duration) error {
	return c.round(m, func() (load.Result, error) {
		return load.Open{Rate: rate, Clients: clients, Duration: duration, Timeout: load.DefaultTimeout}.Run(ctx, c.dial)
	})
}

func (c contender) round(m *measurement, run func() (load.Result, error)) error {
	before, err := c.cpu()
	if err != nil {
		return err
	}
	result, err := run()
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.name, err)
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	m.server += after.server - before.server
	m.generator += after.generator - before.generator
	m.backend += after.backend - before.backend
	return m.Merge(result)
}

type cpuTimes struct{ server, generator, backend time.Duration }

func (c contender) cpu() (t cpuTimes, err error) {
	if t.server, err = site.CPU(c.server.Pid()); err != nil {
		return t, err
	}
	if t.backend, err = site.CPU(c.backend.Pid()); err != nil {
		return t, err
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return t, fmt.Errorf("reading the generator's CPU time: %w", err)
	}
	t.generator = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return t, nil
}

// load is the measurement in the report.
func (m *measurement) load() report.Load {
	if m.Latency == nil {
		return report.Load{}
	}
	l := report.Load{
		Rate: m.Rate(), Sent: m.Sent, Failed: m.Failed,
		P50: m.Quantile(50), P99: m.Quantile(99), P999: m.Quantile(99.9),
	}
	if m.Error != nil {
		l.Error = m.Error.Error()
	}
	if m.Good > 0 {
		n := time.Duration(m.Good)
		l.CPU, l.Generator, l.Backend = m.server/n, m.generator/n, m.backend/n
	}
	return l
}

// search finds out with how many clients a server does most, and warms it up.
func (c contender) search(ctx context.Context, duration time.Duration) (best int, err error) {
	top := -math.MaxFloat64
	// Few are best for who loses by waiting requests: Fulcio keeps two connections
	// to its log, and opens one for each submission beyond.
	for _, n := range []int{4, 8, 16, 32, clients} {
		var m measurement
		if err := c.closed(ctx, &m, n, duration); err != nil {
			return 0, err
		}
		if m.Good == 0 {
			return 0, fmt.Errorf("%s issues nothing: %w\n%s", c.name, m.Error, c.server.Words())
		}
		// A little more is not worth the latency.
		if rate := m.Rate(); rate > 1.02*top {
			top, best = rate, n
		}
	}
	return best, nil
}
