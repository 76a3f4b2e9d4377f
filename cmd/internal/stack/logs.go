package stack

import (
	"context"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/server"
)

// openLogs opens the configured logs and puts them into one pool, in the order
// written. It returns nil when logging is disabled.
func (s *Stack) openLogs(ctx context.Context) (ca.Log, error) {
	if s.file.Logs.Disabled {
		return nil, nil //nolint:nilnil // ca.New takes a nil log together with WithoutLog, and refuses it otherwise
	}
	var logs []ctlog.Log
	for _, c := range s.file.Logs.List {
		switch {
		case c.Embedded != nil:
			l, err := embedded.Open(ctx, embedded.Config{
				Dir: LogDir(s.file.State, c.Name), Name: c.Name, CheckpointRecord: c.Embedded.CheckpointRecord,
				Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
			})
			if err != nil {
				return nil, fmt.Errorf("opening log %q: %w", c.Name, err)
			}
			s.embedded = append(s.embedded, l)
			logs = append(logs, l)
		case c.Remote != nil:
			r, err := ctlog.NewRemote(s.plan.remotes[c.Name])
			if err != nil {
				return nil, fmt.Errorf("log %q: %w", c.Name, err)
			}
			logs = append(logs, r)
		}
	}
	pool, err := ctlog.NewPool(ctlog.PoolConfig{Logs: logs, Registerer: s.registry, Logger: s.logger, Clock: s.options.Clock})
	if err != nil {
		return nil, err
	}
	return poolLog{pool}, nil
}

// watchLog ends the service when the log in the box has stopped for good and
// no other log could take over: only a new start reconciles it, and that is the
// supervisor's to do.
func (s *Stack) watchLog(ctx context.Context, end context.CancelFunc) {
	if len(s.file.Logs.List) != 1 || len(s.embedded) != 1 {
		return
	}
	select {
	case <-s.embedded[0].Stopped():
		end()
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
