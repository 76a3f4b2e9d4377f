package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/report"
	"github.com/mayfly-ca/mayfly/e2e/compare/internal/site"
)

// segment is how long a soak uses the same tokens, and soakSamples how often it
// looks.
const (
	segment     = 2 * time.Minute
	soakSamples = 300
)

// soak keeps Mayfly with its embedded log at half of what it can do, and looks
// at what it occupies.
func (c *comparison) soak(ctx context.Context, duration time.Duration) (report.Soak, error) {
	r := usual
	r.log, r.alone = site.EmbeddedLog, true
	contenders, err := c.contenders(ctx, r, "")
	if err != nil {
		return report.Soak{}, err
	}
	defer stop(contenders)
	who := contenders[0]
	n, err := who.search(ctx, c.round/4)
	if err != nil {
		return report.Soak{}, err
	}
	var saturated, steady measurement
	if err := who.closed(ctx, &saturated, n, c.round); err != nil {
		return report.Soak{}, err
	}
	s := report.Soak{Duration: duration, Rate: saturated.Rate() / 2}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		samples []report.Sample
		error
	}
	watched := make(chan outcome, 1)
	go func() {
		samples, err := watch(watching, who.server, duration/soakSamples)
		watched <- outcome{samples, err}
	}()
	for left := duration; left > 0 && ctx.Err() == nil; left -= segment {
		if who.dial, err = c.redial(r, who); err != nil {
			return report.Soak{}, err
		}
		if err := who.open(ctx, &steady, s.Rate, min(left, segment)); err != nil {
			return report.Soak{}, err
		}
		c.say("soak: %d certificates, %d failures, p99 %v", steady.Good, steady.Failed, steady.Quantile(99))
	}
	cancel()
	seen := <-watched
	s.Samples, s.Certificates, s.Failed = seen.samples, steady.Good, steady.Failed
	return s, errors.Join(seen.error, steady.Error, ctx.Err())
}

// redial lays out the requests with new tokens.
func (c *comparison) redial(r row, who contender) (load.Dial, error) {
	ca, err := c.ca(r.ca)
	if err != nil {
		return nil, err
	}
	applicants, err := c.applicants(r)
	if err != nil {
		return nil, err
	}
	return r.dial(c.Site, who.server, ca, applicants)
}

// watch samples until the context ends.
func watch(ctx context.Context, server *site.Server, every time.Duration) ([]report.Sample, error) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	var samples []report.Sample
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return samples, nil
		case <-tick.C:
		}
		sample, err := look(ctx, client, server)
		if ctx.Err() != nil {
			return samples, nil
		}
		if err != nil {
			return samples, err
		}
		sample.At = time.Since(start)
		samples = append(samples, sample)
	}
}

func look(ctx context.Context, client *http.Client, server *site.Server) (report.Sample, error) {
	memory, err := site.MemoryOf(server.Pid())
	if err != nil {
		return report.Sample{}, err
	}
	files, err := site.Files(server.Pid())
	if err != nil {
		return report.Sample{}, err
	}
	metrics, err := site.Fetch(ctx, client, server.Metrics)
	if err != nil {
		return report.Sample{}, err
	}
	goroutines, err := gauge(metrics, "go_goroutines")
	return report.Sample{Resident: memory.Resident, Goroutines: goroutines, Files: files}, err
}

// gauge reads a metric without labels.
func gauge(metrics []byte, name string) (int, error) {
	for line := range bytes.Lines(metrics) {
		value, found := bytes.CutPrefix(line, []byte(name+" "))
		if !found {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(string(value)), 64)
		if err != nil {
			return 0, fmt.Errorf("reading %q: %w", line, err)
		}
		if !(f >= 0 && f <= math.MaxInt32) { // nor NaN
			return 0, fmt.Errorf("%q is no count", line)
		}
		return int(f), nil
	}
	return 0, fmt.Errorf("no metric %s", name)
}
