package stack

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/auditor"
)

// AuditorDir is where the log audit keeps what it knows.
func AuditorDir(state string) string { return filepath.Join(state, "auditor") }

// How old a head may be, and how long an entry that an SCT promised may be missing.
const (
	// A shard signs twice a minute, and publishes an entry within a second.
	shardMaxAge = 90 * time.Second
	shardMerge  = time.Minute
	// Static logs elsewhere sign a quiet tree again after some minutes.
	staticMaxAge = 30 * time.Minute
	staticMerge  = 10 * time.Minute
	// RFC 6962, Section 3: the maximum merge delay, which is a day everywhere.
	rfc6962Merge = 24 * time.Hour
)

// markInterval is how often the journal says that it is written up to now.
const markInterval = 5 * time.Second

// openAuditor opens the log audit, unless there are no logs. That it cannot must not
// keep the service from its work, but it shows in readiness; auditLogs tries again.
func (s *Stack) openAuditor() {
	f := s.current.Load().file
	if f.Logs.Disabled {
		return
	}
	a, err := auditor.Open(auditor.Config{
		Dir: AuditorDir(f.State), Interval: f.LogAudit.Interval, Record: s.journal.Event,
		// A reload takes effect, and so does a shard that was made since.
		Targets: func() (auditor.Targets, error) { return AuditTargets(s.current.Load().file, nil) },
		Clock:   s.options.Clock, Logger: s.logger, Registerer: s.registry,
	})
	if err == nil {
		s.auditing.Store(a)
	} else if !s.unaudited.Load() {
		s.logger.Error("the logs are not audited; it is tried again", "err", err)
	}
	s.unaudited.Store(err != nil)
}

// auditLogs compares logs with journals until ctx ends.
func (s *Stack) auditLogs(ctx context.Context) {
	retry := time.NewTicker(s.current.Load().file.LogAudit.Interval)
	defer retry.Stop()
	for s.unaudited.Load() {
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
			s.openAuditor()
		}
	}
	a := s.auditing.Load()
	if a == nil {
		return
	}
	a.Run(ctx)
	if err := a.Close(); err != nil {
		s.logger.Error("closing the log audit", "err", err)
	}
}

// audited reports that nothing keeps the logs from being audited, and that there is
// no alarm.
func (s *Stack) audited() bool {
	a := s.auditing.Load()
	return !s.unaudited.Load() && (a == nil || a.Well())
}

// markJournal says again and again until when the journal is written, for those who
// follow a copy of it.
func (s *Stack) markJournal(ctx context.Context) {
	tick := time.NewTicker(markInterval)
	defer tick.Stop()
	for {
		if err := s.journal.Mark(); err != nil {
			s.logger.Debug("marking the journal", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// AuditTargets says what to compare: the logs of a configuration, its issuing keys,
// and journals, which are its own if it is there, the configured copies and further
// ones.
func AuditTargets(f *config.File, further []string) (auditor.Targets, error) {
	var t auditor.Targets
	if own := auditDir(f.State); exists(own) {
		t.Journals = append(t.Journals, auditor.Journal{Name: "own", Dir: own, Live: true})
	}
	for _, dir := range append(append([]string(nil), f.LogAudit.Journals...), further...) {
		t.Journals = append(t.Journals, auditor.Journal{Name: dir, Dir: dir})
	}
	for _, c := range f.Chains {
		data, err := files.Read(c.Certificates)
		if err != nil {
			return t, err
		}
		certs, err := ca.ParseChain(data)
		if err != nil {
			return t, fmt.Errorf("reading %s: %w", c.Certificates, err)
		}
		t.Issuers = append(t.Issuers, certs[0])
	}
	for _, c := range f.Logs.List {
		logs, err := auditedLogs(f, c)
		if err != nil {
			return t, fmt.Errorf("log %q: %w", c.Name, err)
		}
		t.Logs = append(t.Logs, logs...)
	}
	return t, nil
}

// auditedLogs is a log of the configuration with its shards.
func auditedLogs(f *config.File, c config.Log) ([]auditor.Log, error) {
	if c.Embedded != nil {
		return auditedShards(f.State, c.Name)
	}
	r := c.Remote
	raw, err := files.Read(r.PublicKey)
	if err != nil {
		return nil, err
	}
	key, err := auditor.ParseKey(raw)
	if err != nil {
		return nil, err
	}
	client, err := auditClient(r)
	if err != nil {
		return nil, err
	}
	l := auditor.Log{Name: c.Name, Key: key, MaxAge: rfc6962Merge, Merge: rfc6962Merge}
	if r.MonitoringURL == "" {
		l.Source = auditor.NewRFC6962(auditor.FetchHTTP(r.URL, client), key)
		return []auditor.Log{l}, nil
	}
	l.Source = auditor.NewStatic(auditor.FetchHTTP(r.MonitoringURL, client), "", key)
	l.MaxAge, l.Merge = staticMaxAge, staticMerge
	return []auditor.Log{l}, nil
}

// auditedShards reads shards where they lie: whatever is between here and the read
// path could show us another log than others see, but not hide from them what it
// shows to us.
func auditedShards(state, name string) ([]auditor.Log, error) {
	shards, err := Shards(state, name)
	if err != nil {
		return nil, err
	}
	var all []auditor.Log
	for _, s := range shards {
		key, err := auditor.ParseKey(s.Info.PublicKey)
		if err != nil {
			return nil, err
		}
		l := auditor.Log{
			Name: s.Name, Key: key, Merge: shardMerge, MaxAge: shardMaxAge,
			Source: auditor.NewStatic(auditor.FetchDir(filepath.Join(s.Dir, "tree")), s.Info.Origin, key),
		}
		if !s.Info.Frozen.IsZero() {
			l.MaxAge = 0
		}
		all = append(all, l)
	}
	return all, nil
}

// auditTimeout bounds one exchange with a log, its body included.
const auditTimeout = 10 * time.Second

// auditClient reads a remote log, at the origin where it is submitted to with the
// credentials of a submitter. Nothing is kept open between rounds.
func auditClient(r *config.RemoteLog) (*http.Client, error) {
	c := ctlog.ClientConfig{
		URL: r.URL, ClientCertFile: r.ClientCertificate, ClientKeyFile: r.ClientKey, TokenFile: r.TokenFile,
		IdleTimeout: auditTimeout, Compression: true, // the auditor bounds what it unpacks
	}
	if r.CAFile != "" {
		pem, err := files.Read(r.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", r.CAFile)
		}
	}
	client, err := ctlog.NewClient(c)
	if err != nil {
		return nil, err
	}
	client.Timeout = auditTimeout
	return client, nil
}
