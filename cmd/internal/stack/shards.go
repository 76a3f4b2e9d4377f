package stack

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/hsm"
)

const (
	// ShardLead is how long a new shard of the log is in the trust files before it
	// takes entries, unless its maker says otherwise: clients keep those files.
	ShardLead = day
	// shardOverlap is how long a shard goes on after its successor has begun. Then
	// it gets its last checkpoint and is never written again.
	shardOverlap = time.Hour
)

// Shard is one of the directories that the log of a state directory consists of,
// each a log of its own with key and origin. The one with the latest past
// activation takes entries; all are published and read.
type Shard struct {
	// Name is the log's for the first shard; later ones have a dash and their own
	// name behind it. Metrics and the read path have it.
	Name string
	Dir  string
	Info embedded.Info
}

// activation is since when the shard takes entries: the first one says nothing.
func (s Shard) activation() time.Time {
	if s.Info.Activate.IsZero() {
		return s.Info.Created
	}
	return s.Info.Activate
}

// Shards lists the shards of the log of that name, in the order in which they take
// entries. A directory without an instance is none: making it was interrupted.
func Shards(state, name string) ([]Shard, error) {
	first := LogDir(state, name)
	dirs, err := filepath.Glob(first + "-*")
	if err != nil {
		return nil, fmt.Errorf("looking for shards: %w", err)
	}
	var all []Shard
	var missing error
	for _, dir := range append(dirs, first) {
		info, err := embedded.Inspect(dir)
		if errors.Is(err, embedded.ErrNoLog) {
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		// Any other log that was made here by itself says no activation.
		if dir == first || !info.Activate.IsZero() {
			all = append(all, Shard{Name: filepath.Base(dir), Dir: dir, Info: info})
		}
	}
	// The first shard may be gone when it is over; one must be there.
	if len(all) == 0 {
		return nil, missing
	}
	slices.SortStableFunc(all, func(a, b Shard) int {
		return cmp.Or(a.activation().Compare(b.activation()), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

// CurrentShard is the index of the shard that takes entries at a time.
func CurrentShard(all []Shard, now time.Time) int {
	current := 0
	for i, s := range all {
		if !s.activation().After(now) {
			current = i
		}
	}
	return current
}

// frozenAt is when a shard is to be written no more; zero when it has no successor.
func frozenAt(all []Shard, i int) time.Time {
	if i+1 == len(all) {
		return time.Time{}
	}
	return all[i+1].activation().Add(shardOverlap)
}

// RecordOf is the checkpoint record of a shard.
func RecordOf(e *config.EmbeddedLog, log string, s Shard) string {
	if e.CheckpointRecord == "" {
		return ""
	}
	return e.CheckpointRecord + strings.TrimPrefix(s.Name, log)
}

// keyPlaceJSON is config.Key as a shard remembers it.
type keyPlaceJSON struct {
	File             string   `json:"file,omitempty"`
	PassphraseFile   string   `json:"passphrase_file,omitempty"`
	Tokens           []string `json:"tokens,omitempty"`
	Object           string   `json:"object,omitempty"`
	ID               string   `json:"id,omitempty"`
	URI              string   `json:"uri,omitempty"`
	AllowExtractable bool     `json:"allow_extractable,omitempty"`
}

// KeyPlace is what a shard remembers of where its key is; nil when the key lies
// with it.
func KeyPlace(k *config.Key) (json.RawMessage, error) {
	if k == nil {
		return nil, nil
	}
	return json.Marshal(keyPlaceJSON(*k))
}

// Key says where the shard's key is; nil when it lies with it.
func (s Shard) Key() (*config.Key, error) {
	if len(s.Info.KeyPlace) == 0 {
		return nil, nil //nolint:nilnil // as in the configuration
	}
	var k keyPlaceJSON
	if err := json.Unmarshal(s.Info.KeyPlace, &k); err != nil {
		return nil, fmt.Errorf("reading where the key of log %q is: %w", s.Name, err)
	}
	return new(config.Key(k)), nil
}

// shard is a shard that this process has opened.
type shard struct {
	Shard
	// mu guards the rest, which changes once: when the shard is frozen.
	mu   sync.RWMutex
	log  *embedded.Log // nil when it is frozen or could not be opened
	key  hsm.Key       // nil when it lies with the log
	view *embedded.View
	read http.Handler
	// problem is why there is no log.
	problem error
}

// writer returns the open log.
func (s *shard) writer() (*embedded.Log, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.log == nil {
		return nil, fmt.Errorf("log %q: %w: %w", s.Name, ctlog.ErrUnavailable, s.problem)
	}
	return s.log, nil
}

// keyReady says why a key that does not lie with the log could not sign now.
func (s *shard) keyReady() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.key == nil {
		return nil
	}
	if err := s.key.Ready(); err != nil {
		return fmt.Errorf("log %q: %w: its key: %w", s.Name, ctlog.ErrUnavailable, err)
	}
	return nil
}

// ServeHTTP serves the shard's read path.
func (s *shard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	read := s.read
	s.mu.RUnlock()
	if read == nil {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "the log cannot be read", http.StatusServiceUnavailable)
		return
	}
	read.ServeHTTP(w, r)
}

var errShardFrozen = errors.New("it is frozen, for its successor has taken over")

// freeze ends writing for good: the last checkpoint, then the mark, then the log
// as its readers see it from now on.
func (s *shard) freeze(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log == nil {
		return nil
	}
	err := bounded(s.log.Close)
	if s.key != nil {
		err = errors.Join(err, s.key.Close())
	}
	s.log, s.key, s.read, s.problem = nil, nil, nil, errShardFrozen
	if err == nil {
		err = embedded.Freeze(s.Dir, now)
	}
	if err != nil {
		s.problem = err
	}
	return errors.Join(err, s.look())
}

// look opens the shard for readers. The caller holds mu or is alone.
func (s *shard) look() (err error) {
	if s.view, err = embedded.OpenView(s.Dir); err != nil {
		return err
	}
	s.read, err = s.view.ReadHandler()
	return err
}

func (s *shard) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.log != nil {
		errs = append(errs, bounded(s.log.Close))
	}
	if s.key != nil {
		errs = append(errs, s.key.Close())
	}
	if s.view != nil {
		errs = append(errs, s.view.Close())
	}
	return errors.Join(errs...)
}

// openShards opens the shards of a plan that are not open yet. At the start, one
// that takes no entries any more may fail: the service must not depend on it.
func (s *Stack) openShards(ctx context.Context, p *plan) error {
	for i, c := range p.shards {
		if s.shard(c.Name) != nil {
			continue
		}
		opened, err := s.openShard(ctx, p.file, c)
		if err != nil && i < CurrentShard(p.shards, s.options.Clock()) {
			s.logger.Error("a shard that takes no entries any more cannot be opened; entries of its last moments may not be under a checkpoint", "log", c.Name, "err", err)
			opened = &shard{Shard: c, problem: err}
			err = nil
			if lookErr := opened.look(); lookErr != nil {
				s.logger.Error("the shard cannot be read either", "log", c.Name, "err", lookErr)
			}
		}
		if err != nil {
			return fmt.Errorf("opening log %q: %w", c.Name, err)
		}
		s.embeddedMu.Lock()
		s.embedded = append(s.embedded, opened)
		s.embeddedMu.Unlock()
	}
	return nil
}

func (s *Stack) openShard(ctx context.Context, f *config.File, c Shard) (_ *shard, err error) {
	opened := &shard{Shard: c}
	if !c.Info.Frozen.IsZero() {
		opened.problem = errShardFrozen
		return opened, opened.look()
	}
	place, err := c.Key()
	if err != nil {
		return nil, err
	}
	var signer embedded.Signer
	if place != nil {
		public, err := x509.ParsePKIXPublicKey(c.Info.PublicKey)
		if err != nil {
			return nil, err
		}
		if opened.key, err = s.tokens.Key(ctx, f, "log "+c.Name, *place, public); err != nil {
			return nil, err
		}
		signer = opened.key
	}
	opened.log, err = embedded.Open(ctx, embedded.Config{
		Dir: c.Dir, Name: c.Name, Key: signer, CheckpointRecord: recordIn(f, c),
		Clock: s.options.Clock, Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return nil, errors.Join(err, opened.close())
	}
	opened.read = opened.log.ReadHandler()
	return opened, nil
}

// recordIn is the checkpoint record of a shard of the configuration's log.
func recordIn(f *config.File, c Shard) string {
	for _, l := range f.Logs.List {
		if l.Embedded != nil {
			return RecordOf(l.Embedded, l.Name, c)
		}
	}
	return ""
}

// shard returns an open shard by its name; nil when there is none.
func (s *Stack) shard(name string) *shard {
	s.embeddedMu.RLock()
	defer s.embeddedMu.RUnlock()
	if i := slices.IndexFunc(s.embedded, func(o *shard) bool { return o.Name == name }); i >= 0 {
		return s.embedded[i]
	}
	return nil
}

// shards returns the shards that are open.
func (s *Stack) shards() []*shard {
	s.embeddedMu.RLock()
	defer s.embeddedMu.RUnlock()
	return slices.Clone(s.embedded)
}

// shardedLog is the log in the state directory as a member of the pool: the shard
// whose time it is.
type shardedLog struct {
	name  string
	list  []*shard // by activation
	clock func() time.Time
}

// current is the shard that takes entries now.
func (l *shardedLog) current() *shard {
	now := l.clock()
	for _, s := range slices.Backward(l.list) {
		if !s.activation().After(now) {
			return s
		}
	}
	return l.list[0]
}

func (l *shardedLog) Name() string { return l.name }

func (l *shardedLog) ID() [32]byte { return l.current().Info.LogID }

func (l *shardedLog) Ready() error {
	s := l.current()
	w, err := s.writer()
	if err != nil {
		return err
	}
	return errors.Join(w.Ready(), s.keyReady())
}

func (l *shardedLog) Submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error) {
	w, err := l.current().writer()
	if err != nil {
		return ctlog.SCT{}, err
	}
	return w.Submit(ctx, s)
}

// freezeInterval is how often shards are looked at that have a successor.
const freezeInterval = time.Minute

// freezeShards freezes those whose time is over, for as long as the service runs.
func (s *Stack) freezeShards(ctx context.Context) {
	tick := time.NewTicker(freezeInterval)
	defer tick.Stop()
	for {
		s.freezeDue(s.options.Clock())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Stack) freezeDue(now time.Time) {
	all := s.current.Load().shards
	for i, c := range all {
		at := frozenAt(all, i)
		if at.IsZero() || at.After(now) {
			continue
		}
		opened := s.shard(c.Name)
		if opened == nil {
			continue
		}
		if _, err := opened.writer(); err != nil {
			continue // frozen, or told at the start
		}
		if err := opened.freeze(now); err != nil {
			s.logger.Error("a shard could not be frozen; it is tried again at the next start", "log", c.Name, "err", err)
			continue
		}
		s.logger.Info("shard frozen: it has its last checkpoint and is only read from now on", "log", c.Name)
		s.recordShard(context.Background(), "log.frozen", c)
	}
}

// recordShard notes in the journal what became of a shard. What is on the disk
// decides, so that a journal that fails changes nothing about it. A log alone in a
// process has no journal.
func (s *Stack) recordShard(ctx context.Context, what string, c Shard) {
	if s.journal == nil {
		return
	}
	err := s.journal.Event(ctx, what, slog.String("log", c.Name), slog.String("log_id", hex.EncodeToString(c.Info.LogID[:])),
		slog.String("origin", c.Info.Origin), slog.String("activate", c.activation().Format(time.RFC3339)))
	if err != nil {
		s.logger.Error("a change of the log's shards is not in the journal", "log", c.Name, "err", err)
	}
}

// recordNewShards notes which shards a reload has published.
func (s *Stack) recordNewShards(ctx context.Context, before, n *snapshot) {
	for _, c := range n.shards {
		if !slices.ContainsFunc(before.shards, func(o Shard) bool { return o.Name == c.Name }) {
			s.logger.Info("shard published: it takes entries from its activation on", "log", c.Name, "activate", c.activation())
			s.recordShard(ctx, "log.published", c)
		}
	}
}

// surprise tells why a shard that the configuration before did not publish must
// not be taken into use: it would sign before clients have heard of it.
func surprise(before, p *plan, now time.Time) error {
	for _, c := range p.shards {
		known := slices.ContainsFunc(before.shards, func(o Shard) bool { return o.Name == c.Name })
		if !known && len(before.shards) > 0 && !c.activation().After(now) {
			return fmt.Errorf("the shard %s of the log would take entries since %s, and clients have not heard of its key; "+
				"if they must live with that, because the shard before is lost, start the service again: that takes it",
				c.Name, c.activation().Format(time.RFC3339))
		}
	}
	return nil
}
