package auditor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/merkle/compact"
)

// Log is a log to audit, or one shard of one.
type Log struct {
	// Name tells it from others in messages.
	Name   string
	Key    Key
	Source Source
	// MaxAge is how old a head may be; 0 is for a log that signs no more.
	MaxAge time.Duration
	// Merge is how long after an SCT its entry may be missing.
	Merge time.Duration
}

// logState is how far a log was read.
type logState struct {
	Log
	saved *savedLog
	index *runs // of places
	// good is the tree of saved.Kept once it was proven in this process, or the tree
	// at the base. cursor is good with the entries after it, up to now without proof,
	// on the way to target.
	good, cursor *compact.Range
	target       Head
	// latest is the head that was fetched last, and at when.
	latest Head
	at     time.Time
	// seen is when the target was fetched.
	seen time.Time
	// proven is when a head was proven last, or when the log was taken up.
	proven  time.Time
	trouble *Alarm
	since   time.Time // of the first failure in a row
	failure error
	// fresh says that a head came in this round, halted that reading makes no sense
	// before the next one, paused that it waits for journals.
	fresh, halted, paused bool
	ours                  uint64
	others                uint64
	// claims are promises whose entries were read, but not proven so far. lost counts
	// those that there was no room for.
	claims []promise
	lost   int
}

// claim notes a promise that is kept if what was read is proven.
func (s *logState) claim(p promise) {
	if len(s.claims) == maxUndecided {
		s.lost++
		return
	}
	s.claims = append(s.claims, p)
}

// pending is an entry under one of our keys without an intent so far.
type pending struct {
	Log   string    `json:"log"`
	LogID hash      `json:"log_id"`
	Index uint64    `json:"index"`
	Time  time.Time `json:"time"`
	Name  hash      `json:"name"`
	// Seen is when the head over it was fetched: an intent was durable by then.
	Seen time.Time `json:"seen"`
	// Final says that it is a certificate and no precertificate.
	Final bool `json:"final"`
}

// subject is what waits: an entry of one log. That another log has the same, or
// says so, must not decide about this one.
type subject struct{ log, name hash }

func (p pending) subject() subject { return subject{p.LogID, p.Name} }

const (
	// maxUndecided bounds what waits for the other side: entries for intents, and
	// promises for entries. At the bound, reading waits too.
	maxUndecided = 100_000
	// flushEvery bounds what a run holds, and flushTail what memory does.
	flushEvery = 1 << 16
	flushTail  = 1 << 13
	// maxLead is how far a head may be ahead of the clock.
	maxLead = time.Minute
)

// openLog takes up a log where the state says.
func (a *Auditor) openLog(l Log) (*logState, error) {
	id := hex.EncodeToString(l.Key.ID[:])
	path := filepath.Join(a.dir, "logs", id[:32])
	index, err := openRuns(path)
	if errors.Is(err, errRun) {
		index, err = remakeRuns(path)
	}
	if err != nil {
		return nil, err
	}
	saved := a.state.Logs[id]
	if saved == nil {
		saved = &savedLog{}
		a.state.Logs[id] = saved
	}
	if err := index.cut(saved.Runs); err != nil {
		return nil, err
	}
	if len(index.list) < saved.Runs {
		// What the index had is read again, and proven to be what it was.
		a.logger.Error("an index of the log audit is lost, and is made again", "log", l.Name)
		saved.Base, saved.Hashes, saved.Runs = 0, nil, 0
	}
	s := &logState{Log: l, saved: saved, index: index, proven: a.clock()}
	if s.good, err = factory.NewRange(0, saved.Base, slices.Clone(saved.Hashes)); err != nil {
		return nil, fmt.Errorf("reading the state of log %q: %w", l.Name, err)
	}
	s.cursor = clone(s.good)
	for _, p := range saved.Pending {
		a.pending[p.subject()] = p
	}
	return s, nil
}

// undecided counts the entries of a log that wait.
func (a *Auditor) undecided(s *logState) (n int) {
	if len(a.pending) < maxUndecided {
		return len(a.pending)
	}
	for p := range a.pending {
		if p.log == s.Key.ID {
			n++
		}
	}
	return n
}

func clone(r *compact.Range) *compact.Range {
	c := factory.NewEmptyRange(0)
	// It fails for ranges of other factories, or that do not begin where c ends.
	_ = c.AppendRange(r, nil)
	return c
}

// head fetches the log's head. It does not touch what others share.
func (s *logState) fetchHead(ctx context.Context) (Head, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return s.Source.Head(ctx)
}

// meet judges a head that was fetched.
func (a *Auditor) meet(s *logState, h Head, err error, at time.Time) {
	s.trouble, s.halted, s.fresh = nil, false, err == nil
	kept := s.saved.Kept
	switch {
	case errors.Is(err, errHead):
		s.trouble = &Alarm{Class: Impostor, Log: s.Name, Text: err.Error()}
	case err != nil:
		s.fail(err, at)
	case h.Time.After(at.Add(maxLead)):
		s.trouble = &Alarm{Class: Future, Log: s.Name, Text: fmt.Sprintf("the head is of %v, and it is %v here", h.Time, at.UTC())}
	case h.Size == kept.Size && kept.Note != "" && h.Root != kept.Root:
		a.fork(s, h, fmt.Errorf("two heads over %d entries have the roots %x and %x", h.Size, kept.Root, h.Root))
	case h.Size < kept.Size && !h.Time.Before(kept.Time):
		a.find(sha256.Sum256([]byte("shrunk\n"+h.Note)), Alarm{Class: Shrunk, Log: s.Name,
			Text: fmt.Sprintf("a head of %v has %d entries, but one of %v had %d\n%s\n%s", h.Time, h.Size, kept.Time, kept.Size, kept.Note, h.Note)})
	case h.Size < kept.Size || h.Time.Before(kept.Time):
		// An older head from a cache or a slower machine. If it goes on, it is stale.
	default:
		s.latest, s.at = h, at
	}
}

func (a *Auditor) fork(s *logState, h Head, err error) {
	a.find(sha256.Sum256([]byte("forked\n"+s.saved.Kept.Note)), Alarm{Class: Forked, Log: s.Name,
		Text: fmt.Sprintf("%v\n%s\n%s", err, s.saved.Kept.Note, h.Note)})
}

// fail remembers since when the log cannot be read.
func (s *logState) fail(err error, at time.Time) {
	if s.failure == nil {
		s.since = at
	}
	s.failure = err
}

// batchOf is what a log is read by: fetched without lock, taken with it.
type batchOf struct {
	from    uint64
	entries []Entry
}

// next says what to read next: from where, under which head; false if nothing.
func (s *logState) next(now time.Time) (uint64, Head, bool) {
	if s.cursor.End() >= s.target.Size {
		switch {
		case s.good.End() < s.saved.Kept.Size:
			// After a restart: prove first what was proven before.
			s.target, s.seen = s.saved.Kept, now
		case s.latest.Size > s.good.End() || s.latest.Time.After(s.saved.Kept.Time):
			s.target, s.seen = s.latest, s.at
		default:
			return 0, Head{}, false
		}
	}
	return s.cursor.End(), s.target, true
}

// take adds entries to the tree, and proves it when the target is reached. The
// error is errRoot when that is another tree.
func (a *Auditor) take(s *logState, b batchOf) error {
	for i, e := range b.entries {
		if err := a.entry(s, b.from+uint64(i), e); err != nil {
			return err
		}
		if err := s.cursor.Append(e.Leaf[:], nil); err != nil {
			return err
		}
	}
	if s.cursor.End() < s.target.Size {
		if len(s.index.tail) >= 2*flushTail {
			return s.index.flush(fmt.Sprintf("%020d", s.cursor.End()), nil)
		}
		return nil
	}
	if err := compare(s.cursor, s.target); err != nil {
		return err
	}
	s.good, s.proven = clone(s.cursor), a.clock()
	s.claims, s.lost = nil, 0
	s.saved.Kept, s.saved.Root = s.target, s.target.Root
	a.dirty = true
	if len(s.index.tail) >= flushTail || s.good.End()-s.saved.Base >= flushEvery {
		return a.advance(s)
	}
	return nil
}

// advance moves the base to the proven tree: what is below need not be read again.
func (a *Auditor) advance(s *logState) error {
	var open []pending
	for _, p := range a.pending {
		if p.LogID == s.Key.ID {
			open = append(open, p)
		}
	}
	if len(open) > maxSaved {
		return nil
	}
	if len(s.index.tail) > 0 {
		if err := s.index.flush(fmt.Sprintf("%020d", s.good.End()), nil); err != nil {
			return err
		}
	}
	s.saved.Base, s.saved.Hashes = s.good.End(), slices.Clone(s.good.Hashes())
	s.saved.Pending, s.saved.Runs = open, len(s.index.list)
	a.dirty = true
	return a.save()
}

// contradiction goes back to the proven tree, and says what happened: entries that
// were damaged on the way, or a log that tells two stories. proof is what became of
// asking the log itself.
func (a *Auditor) contradiction(s *logState, err, proof error) {
	switch {
	case errors.Is(proof, errRoot):
		// The log's own hashes do not lead there either.
		a.fork(s, s.target, fmt.Errorf("the log does not extend the tree that was seen before: %w", err))
	default:
		s.trouble = &Alarm{Class: Damaged, Log: s.Name,
			Text: fmt.Sprintf("entries %d to %d do not hash to the head: %v", s.good.End(), s.target.Size-1, err)}
	}
	if err := a.unread(s); err != nil {
		s.fail(err, a.clock())
	}
}

// unread goes back to the base, which is in the state: of what was read since, some
// was never proven, and neither entries nor kept promises may rest on it.
func (a *Auditor) unread(s *logState) error {
	for name, p := range a.pending {
		if p.LogID == s.Key.ID && p.Index >= s.saved.Base {
			delete(a.pending, name)
		}
	}
	for _, p := range s.claims {
		a.promises[p.Place] = p
	}
	a.metrics.unaudited.Add(float64(s.lost))
	s.claims, s.lost = nil, 0
	var err error
	if s.good, err = factory.NewRange(0, s.saved.Base, slices.Clone(s.saved.Hashes)); err != nil {
		return fmt.Errorf("reading the state of log %q: %w", s.Name, err) // it was checked before
	}
	s.cursor, s.target, s.latest, s.halted = clone(s.good), Head{}, Head{}, true
	return s.index.cut(s.saved.Runs)
}

// entry compares an entry with the journals.
func (a *Auditor) entry(s *logState, index uint64, e Entry) error {
	name, ours, err := a.nameEntry(e)
	if err != nil || !ours {
		s.others++
		a.metrics.entries.WithLabelValues("other").Inc()
		return nil //nolint:nilerr // what cannot be read was not signed by us
	}
	s.ours++
	if e.Certificate == nil {
		place := placeOf(name, e.Time, e.Promised)
		s.index.add(place, e.Time)
		if p, ok := a.promises[place]; ok {
			s.claim(p)
			delete(a.promises, place)
		}
	}
	for _, j := range a.journals {
		if !j.opened {
			continue
		}
		known, err := j.index.within(name, e.Time, closeBy)
		if err != nil {
			return err
		}
		if known {
			a.metrics.entries.WithLabelValues("explained").Inc()
			return nil
		}
	}
	p := pending{Log: s.Name, LogID: s.Key.ID, Index: index, Time: e.Time, Name: name, Seen: s.seen.UTC(), Final: e.Certificate != nil}
	if _, ok := a.pending[p.subject()]; !ok {
		a.pending[p.subject()] = p
	}
	return nil
}

// nameEntry names an entry if one of our keys signed it. Of a certificate, only its
// signature tells: whatever it says about its issuer, whoever has the key can write.
func (a *Auditor) nameEntry(e Entry) (hash, bool, error) {
	if e.Certificate == nil {
		return nameOf(e.IssuerKeyHash, e.TBSHash), a.isOurs(e.IssuerKeyHash), nil
	}
	cert, err := readCertificate(e.Certificate)
	if err != nil {
		return hash{}, false, err
	}
	for _, issuer := range a.issuers {
		if !cert.signedBy(issuer) {
			continue
		}
		tbs, err := withoutSCTs(cert.tbs)
		if err != nil {
			// Our key signed it, and we do not make such a thing.
			tbs = sha256.Sum256(cert.tbs)
		}
		return nameOf(sha256.Sum256(issuer.RawSubjectPublicKeyInfo), tbs), true, nil
	}
	return hash{}, false, nil
}

// isOurs reports that a key is configured or was used according to a journal: a
// chain that is gone from the configuration is still ours.
func (a *Auditor) isOurs(key hash) bool {
	if a.ours[key] {
		return true
	}
	for _, j := range a.journals {
		if j.keys[key] {
			return true
		}
	}
	return false
}
