package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/server"
)

// openLogs opens the logs in the state directory. A reload can neither add nor
// remove one: each belongs to this process until it ends.
func (s *Stack) openLogs(ctx context.Context, f *config.File) error {
	for _, c := range f.Logs.List {
		if c.Embedded == nil {
			continue
		}
		l, err := embedded.Open(ctx, embedded.Config{
			Dir: LogDir(f.State, c.Name), Name: c.Name, CheckpointRecord: c.Embedded.CheckpointRecord,
			Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
		})
		if err != nil {
			return fmt.Errorf("opening log %q: %w", c.Name, err)
		}
		s.embedded = append(s.embedded, l)
	}
	return nil
}

// pool is the logs of a configuration with the metrics of their own.
type pool struct {
	*ctlog.Pool
	of      [32]byte // digest of everything that the pool was told
	metrics *prometheus.Registry
}

// poolFor puts the configured logs into one pool, in the order written, or takes
// over the pool of the snapshot before, which knows how they are. It returns nil
// when logging is disabled.
func (s *Stack) poolFor(p *plan, before *snapshot) (*pool, error) {
	if p.file.Logs.Disabled {
		return nil, nil //nolint:nilnil // as in the configuration
	}
	of := p.logLayer()
	if before != nil && before.log != nil && before.log.of == of {
		return before.log, nil
	}
	var logs []ctlog.Log
	for _, c := range p.file.Logs.List {
		if c.Embedded != nil {
			i := slices.IndexFunc(s.embedded, func(l *embedded.Log) bool { return l.Name() == c.Name })
			if i < 0 {
				return nil, fmt.Errorf("log %q was not open at the start", c.Name)
			}
			logs = append(logs, s.embedded[i])
			continue
		}
		r, err := ctlog.NewRemote(p.remotes[c.Name])
		if err != nil {
			return nil, fmt.Errorf("log %q: %w", c.Name, err)
		}
		logs = append(logs, r)
	}
	// The pool's series are about its logs, so they go with it.
	made := &pool{of: of, metrics: prometheus.NewRegistry()}
	var err error
	made.Pool, err = ctlog.NewPool(ctlog.PoolConfig{Logs: logs, Registerer: made.metrics, Logger: s.logger, Clock: s.options.Clock})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// logLayer is a digest of what the pool is told.
func (p *plan) logLayer() [32]byte {
	var text bytes.Buffer
	for _, c := range p.file.Logs.List {
		fmt.Fprintf(&text, "%q\n", c.Name)
		if r, ok := p.remotes[c.Name]; ok {
			fmt.Fprintf(&text, "%q %x %x\n", r.URL, p.remoteKeys[c.Name], p.remoteRoots[c.Name])
		}
	}
	return sha256.Sum256(text.Bytes())
}

// asLog is the pool as package ca sees a log; nil when there is none.
func (p *pool) asLog() ca.Log {
	if p == nil {
		return nil
	}
	return poolLog{p.Pool}
}

// watchLog ends the service when the log in the box has stopped for good and
// no other log could take over: only a new start reconciles it, and that is the
// supervisor's to do.
func (s *Stack) watchLog(ctx context.Context, end context.CancelFunc) {
	if len(s.embedded) != 1 {
		return
	}
	select {
	case <-s.embedded[0].Stopped():
		// A reload may have brought another log, or take it away again.
		if len(s.current.Load().file.Logs.List) == 1 {
			end()
		}
	case <-ctx.Done():
	}
}

// logFailure says why watchLog ended the service, if it did.
func (s *Stack) logFailure() error {
	for _, l := range s.embedded {
		select {
		case <-l.Stopped():
			return fmt.Errorf("log %q has stopped and needs a new start: %w", l.Name(), l.Ready())
		default:
		}
	}
	return nil
}

// mounts are the read paths of embedded logs.
func (s *Stack) mounts() []server.Mount {
	var mounts []server.Mount
	for _, l := range s.embedded {
		mounts = append(mounts, server.Mount{Prefix: LogPath(l.Name()), Handler: l.ReadHandler()})
	}
	return mounts
}

// LogPath is where the embedded log of that name is read, below the public URL.
func LogPath(name string) string { return "/log/" + name }

// poolLog is a pool as package ca sees a log: ca knows nothing of ctlog.
type poolLog struct{ pool *ctlog.Pool }

func (p poolLog) Ready() error { return p.pool.Ready() }

func (p poolLog) Submit(ctx context.Context, s ca.Submission) (ca.SCT, error) {
	sct, err := p.pool.Submit(ctx, ctlog.Submission{
		Precertificate: s.Precertificate, Issuers: s.Issuers, TBS: s.TBS, IssuerKeyHash: s.IssuerKeyHash,
	})
	if err != nil {
		return ca.SCT{}, err
	}
	tls, err := sct.MarshalTLS()
	if err != nil {
		return ca.SCT{}, errors.Join(errors.New("encoding the SCT"), err)
	}
	return ca.SCT{Log: sct.Log, LogID: sct.LogID, Timestamp: sct.Timestamp, Index: sct.Index, TLS: tls}, nil
}
