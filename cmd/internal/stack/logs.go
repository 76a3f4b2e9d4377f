package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/server"
)

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
			l := &shardedLog{name: c.Name, clock: s.options.Clock}
			for _, sh := range p.shards {
				l.list = append(l.list, s.shard(sh.Name))
			}
			logs = append(logs, l)
			continue
		}
		remote := p.remotes[c.Name]
		remote.Clock = s.options.Clock
		r, err := ctlog.NewRemote(remote)
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
		if c.Embedded != nil {
			for _, sh := range p.shards {
				fmt.Fprintf(&text, "%q\n", sh.Name)
			}
		}
		if r, ok := p.remotes[c.Name]; ok {
			fmt.Fprintf(&text, "%q %x %x %s\n", r.URL, p.remoteKeys[c.Name], p.remoteRoots[c.Name], r.Timeout)
			fmt.Fprintf(&text, "%q %q %q %q\n", r.MonitoringURL, r.ClientCertFile, r.ClientKeyFile, r.TokenFile)
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

// watchLog ends the service when the shard of the log in the box that takes entries
// has stopped for good and no other log could take over: only a new start
// reconciles it, and that is the supervisor's to do.
func (s *Stack) watchLog(ctx context.Context, end context.CancelFunc) {
	tick := time.NewTicker(stoppedInterval)
	defer tick.Stop()
	for {
		// A reload may bring another log, or take it away again.
		if len(s.current.Load().file.Logs.List) == 1 && s.logFailure() != nil {
			end()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// stoppedInterval is how soon a log that has stopped is noticed. Readiness tells at
// once.
const stoppedInterval = time.Second

// logFailure says why watchLog ended the service, if it did.
func (s *Stack) logFailure() error {
	n := s.current.Load()
	if len(n.shards) == 0 {
		return nil
	}
	now := n.shards[CurrentShard(n.shards, s.options.Clock())]
	opened := s.shard(now.Name)
	if opened == nil {
		return nil
	}
	l, err := opened.writer()
	if err != nil {
		return nil //nolint:nilerr // closed with the rest
	}
	select {
	case <-l.Stopped():
		return fmt.Errorf("log %q has stopped and needs a new start: %w", l.Name(), l.Ready())
	default:
		return nil
	}
}

// logRoot is the path below which embedded logs are read.
const logRoot = "/log"

// mounts are the read paths of embedded logs: of those, too, that a reload brings.
func (s *Stack) mounts() []server.Mount {
	if len(s.shards()) == 0 {
		return nil
	}
	return []server.Mount{{Prefix: logRoot, Handler: http.HandlerFunc(s.serveLogs)}}
}

func (s *Stack) serveLogs(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	opened := s.shard(name)
	if opened == nil {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	http.StripPrefix("/"+name, opened).ServeHTTP(w, r)
}

// LogPath is where the embedded log of that name is read, below the public URL.
func LogPath(name string) string { return logRoot + "/" + name }

// poolLog is a pool as package ca sees a log: ca knows nothing of ctlog.
type poolLog struct{ pool *ctlog.Pool }

func (p poolLog) Ready() error { return whenToRetry(p.pool.Ready()) }

// whenToRetry has the client told when the logs will be asked again.
func whenToRetry(err error) error {
	if o, ok := errors.AsType[*ctlog.Outage](err); ok {
		return &ca.Refusal{Kind: ca.KindUnavailable, Reason: ca.ReasonLogFailed, RetryAfter: o.RetryAfter, Err: err}
	}
	return err
}

func (p poolLog) Submit(ctx context.Context, s ca.Submission) (ca.SCT, error) {
	sct, err := p.pool.Submit(ctx, ctlog.Submission{
		Precertificate: s.Precertificate, Issuers: s.Issuers, TBS: s.TBS, IssuerKeyHash: s.IssuerKeyHash,
	})
	if ctx.Err() != nil && err != nil {
		return ca.SCT{}, err // the request's own time is over, or the client is gone
	}
	if err != nil {
		return ca.SCT{}, whenToRetry(err)
	}
	tls, err := sct.MarshalTLS()
	if err != nil {
		return ca.SCT{}, errors.Join(errors.New("encoding the SCT"), err)
	}
	return ca.SCT{Log: sct.Log, LogID: sct.LogID, Timestamp: sct.Timestamp, Index: sct.Index, TLS: tls}, nil
}
