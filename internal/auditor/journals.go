package auditor

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/audit"
)

// Journal is an audit journal, or a copy of one.
type Journal struct {
	// Name tells it from others in messages.
	Name string
	Dir  string
	// Live says that this is the journal itself and no copy: once it is read to its
	// end, there is nothing more.
	Live bool
}

// journalState is how far a journal was read.
type journalState struct {
	Journal
	id       hash
	index    *runs
	follower *audit.Follower
	// keys are the issuing keys that it names.
	keys map[hash]bool
	// until is the time up to which it is known to be read whole.
	until   time.Time
	records uint64
	// opened is false until there is a journal to read.
	opened  bool
	trouble error
	// paused says that there is more to read, when there is room.
	paused bool
}

// runNote is what a run of a journal says beside its hashes: where to go on.
type runNote struct {
	Position audit.Position `json:"position"`
	Keys     []hash         `json:"issuer_keys"`
}

// copySkew is how much the clocks of replicas may differ.
const copySkew = 5 * time.Second

// open finds out which journal it is, and goes on where the index ends.
func (j *journalState) open(dir string) error {
	id, err := audit.Identity(j.Dir)
	if err != nil {
		return err
	}
	j.id = id
	path := filepath.Join(dir, "journals", hex.EncodeToString(id[:16]))
	if j.index, err = openRuns(path); errors.Is(err, errRun) {
		j.index, err = remakeRuns(path) // the journal says everything again
	}
	if err != nil {
		return err
	}
	var position audit.Position
	for _, r := range j.index.list {
		var note runNote
		if err := json.Unmarshal(r.header.Note, &note); err != nil {
			return fmt.Errorf("reading %s: %w", r.path, err)
		}
		position = note.Position
		for _, k := range note.Keys {
			j.keys[k] = true
		}
	}
	j.records = position.Next
	j.follower = audit.Follow(j.Dir, position)
	j.opened = true
	return nil
}

// readJournals reads what is new in all journals. It returns true if one has more.
func (a *Auditor) readJournals(ctx context.Context) (more bool) {
	for _, j := range a.journals {
		at := a.clock()
		err := a.readJournal(ctx, j)
		if ctx.Err() != nil {
			return true
		}
		j.trouble = err
		more = more || j.paused
		if err != nil || j.paused {
			continue
		}
		if j.Live {
			j.until = at
		} else {
			j.until = j.follower.Until()
		}
	}
	return more
}

var errPaused = errors.New("paused")

func (a *Auditor) readJournal(ctx context.Context, j *journalState) error {
	j.paused = false
	if !j.opened {
		if err := j.open(a.dir); err != nil {
			return err
		}
	}
	for {
		more, err := j.follower.Read(ctx, func(r audit.Followed) error { return a.record(j, r) })
		if errors.Is(err, errPaused) {
			j.paused = true
			return nil
		}
		if err != nil || !more {
			return err
		}
		// The promises of the segment are in the state before its run says that the
		// segment need not be read again.
		a.dirty = true
		if err := a.save(); err != nil {
			return err
		}
		position := j.follower.Position()
		note := runNote{Position: position}
		for k := range j.keys {
			note.Keys = append(note.Keys, k)
		}
		if err := j.index.flush(fmt.Sprintf("%020d", position.Next), note); err != nil {
			return err
		}
	}
}

// record takes note of one record.
func (a *Auditor) record(j *journalState, r audit.Followed) error {
	j.records = r.Sequence + 1
	switch {
	case r.Intent != nil:
		name := nameOf(r.Intent.IssuerKeyHash, r.Intent.TBSHash)
		j.index.add(name, r.Time)
		if len(j.keys) < maxKeys {
			j.keys[r.Intent.IssuerKeyHash] = true
		}
		for _, l := range a.logs {
			delete(a.pending, subject{l.Key.ID, name})
		}
		if id := hex.EncodeToString(name[:]); a.state.Findings[id].Class == Unexplained {
			delete(a.state.Findings, id)
			a.dirty = true
		}
	case r.Promise != nil:
		return a.promised(j, r.Promise)
	}
	return nil
}

// maxKeys bounds the issuing keys of one journal.
const maxKeys = 1024

// promise is an SCT whose entry must be in the log.
type promise struct {
	LogID     hash      `json:"log_id"`
	Index     int64     `json:"index"`
	Timestamp time.Time `json:"timestamp"`
	Serial    string    `json:"serial"`
	Journal   string    `json:"journal"`
	Place     hash      `json:"place"`
}

// promised takes note of an SCT, unless its entry was read already.
func (a *Auditor) promised(j *journalState, p *audit.Promise) error {
	l := a.logByID(p.LogID)
	if l == nil || p.TBSHash == (hash{}) {
		a.metrics.unaudited.Inc()
		return nil
	}
	place := placeOf(nameOf(p.IssuerKeyHash, p.TBSHash), p.Timestamp, p.Index)
	there, err := l.index.within(place, p.Timestamp, 0)
	if err != nil {
		return err
	}
	if there {
		if l.cursor.End() > l.good.End() {
			l.claim(promiseOf(j, p, place))
		}
		return nil
	}
	if len(a.promises) >= maxUndecided {
		if len(a.pending) >= maxUndecided {
			// Each side waits for the other, which only happens when journals and logs
			// are in very different orders.
			a.metrics.unaudited.Inc()
			return nil
		}
		a.promises[place] = promiseOf(j, p, place)
		return errPaused
	}
	a.promises[place] = promiseOf(j, p, place)
	return nil
}

func promiseOf(j *journalState, p *audit.Promise, place hash) promise {
	return promise{LogID: p.LogID, Index: p.Index, Timestamp: p.Timestamp, Serial: hex.EncodeToString(p.Serial[:]), Journal: j.Name, Place: place}
}

// raiseJournals raises what is wrong with journals.
func (a *Auditor) raiseJournals(now time.Time) {
	for _, j := range a.journals {
		if j.trouble == nil {
			continue
		}
		text := j.trouble.Error()
		if errors.Is(j.trouble, fs.ErrNotExist) {
			text = "there is no journal in " + j.Dir
		}
		a.raise(Alarm{Class: BadJournal, Journal: j.Name, Text: text})
	}
	late := map[string]time.Duration{}
	for _, p := range a.pending {
		if waited := now.Sub(p.Seen); waited > maxWait {
			for _, j := range a.journals {
				if !j.covers(p.Seen) {
					late[j.Name] = max(late[j.Name], waited)
				}
			}
		}
	}
	for name, waited := range late {
		a.raise(Alarm{Class: Behind, Journal: name,
			Text: fmt.Sprintf("entries wait for %v to be compared with it", waited.Round(time.Minute))})
	}
}

// maxWait is how long an entry may wait for a copy of a journal without alarm.
const maxWait = 10 * time.Minute

// covers reports that an intent from before at would have been read.
func (j *journalState) covers(at time.Time) bool {
	if !j.Live {
		at = at.Add(copySkew)
	}
	return j.trouble == nil && j.opened && !j.until.Before(at)
}
