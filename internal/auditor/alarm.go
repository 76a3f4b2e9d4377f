package auditor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Class is a kind of alarm. docs/log-audit.md says what to do about each.
type Class string

// The classes, the worst first. Those that are findings stay until somebody
// accepts them, across restarts: what was seen once was done once.
const (
	// Unexplained is an entry under one of our keys that no journal knows.
	Unexplained Class = "unexplained"
	// Forked is another root for a tree of the size that was seen before, or a tree
	// that does not extend it.
	Forked Class = "forked"
	// Shrunk is a newer head over a smaller tree.
	Shrunk Class = "shrunk"
	// Missing is an entry that an SCT promised and that is not in the log.
	Missing Class = "missing"
	// Impostor is a head that does not verify under the configured key.
	Impostor Class = "impostor"
	// Damaged is an entry or tile that does not hash to the head.
	Damaged Class = "damaged"
	// Future is a head from the future.
	Future Class = "future"
	// Stale is a log whose last head is too old.
	Stale Class = "stale"
	// Unreachable is a log that could not be read for a while.
	Unreachable Class = "unreachable"
	// BadJournal is a journal that is damaged, was cut, or is not there.
	BadJournal Class = "journal"
	// Behind is a copy of a journal that is too old for entries to be judged, or a log
	// that comes to no end.
	Behind Class = "behind"
	// Forgotten is that the auditor lost what it knew.
	Forgotten Class = "forgotten"
)

// classes is all of them, for metrics and for sorting.
var classes = []Class{Unexplained, Forked, Shrunk, Missing, Impostor, Damaged, Future, Stale, Unreachable, BadJournal, Behind, Forgotten}

// remedies say in one sentence what to do.
var remedies = map[Class]string{
	Unexplained: "first see that log_audit.journals (or --journal) names the journal of every other service that signs with this key: replicas that " +
		"do not list each other's alarm about each other. If none is missing, the CA key was used by somebody else: look at the entry, stop issuing; see docs/log-audit.md",
	Forked:      "the log tells different stories: keep both heads as evidence, stop submitting to it, and rotate to another log",
	Shrunk:      "the log lost entries, or an old copy of it was started: stop submitting to it, and restore the newest copy or rotate",
	Missing:     "the log promised an entry that it does not have: keep the certificate with its SCT, and ask who runs the log; stop submitting to it",
	Impostor:    "something else than the log answers, or its key was changed: compare address and key in the configuration with who runs the log",
	Damaged:     "a file of the log is damaged: for the log in the box run mayfly log fsck; else tell who runs the log",
	Future:      "set the clocks right, of the log or of this machine",
	Stale:       "the log does not sign heads any more: look after its process, its disk and its clock",
	Unreachable: "make the log reachable from here: address, certificate and network",
	BadJournal:  "run mayfly audit verify on the original; if it is whole, copy it again from the beginning",
	Behind:      "of a journal: copy it more often, or find out why its copy stands still; of a log: find out whether it is as long as it says",
	Forgotten:   "everything is read again from the beginning; look for earlier alarms in the audit journal",
}

// Alarm is something that somebody must look after.
type Alarm struct {
	Class Class `json:"class"`
	// Log or Journal is what it is about.
	Log     string `json:"log,omitempty"`
	Journal string `json:"journal,omitempty"`
	// ID names a finding, for it to be accepted; empty for what passes by itself.
	ID    string    `json:"id,omitempty"`
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	// Remedy says what to do.
	Remedy string `json:"remedy"`
}

// key tells alarms from each other from round to round.
func (a Alarm) key() string {
	return strings.Join([]string{string(a.Class), a.Log, a.Journal, a.ID}, "\n")
}

// Report is what the auditor knows.
type Report struct {
	Time     time.Time       `json:"time"`
	Logs     []LogReport     `json:"logs"`
	Journals []JournalReport `json:"journals"`
	// Pending counts entries under our keys whose intent may still be on its way here
	// in a copy of a journal, Promised SCTs whose entry is not in a log yet.
	Pending  int `json:"pending"`
	Promised int `json:"promised"`
	// CaughtUp says that all logs and journals were read to their ends.
	CaughtUp bool    `json:"caught_up"`
	Alarms   []Alarm `json:"alarms"`
}

// LogReport is about one log, or one shard of one.
type LogReport struct {
	Name string `json:"name"`
	ID   string `json:"log_id"`
	// Size and Time are of the last head that was proven; Read is how far entries
	// were read.
	Size uint64    `json:"size"`
	Time time.Time `json:"time"`
	Read uint64    `json:"read"`
	// Ours and Others count the entries that were read since the start.
	Ours   uint64 `json:"ours"`
	Others uint64 `json:"others"`
	// Problem is why it could not be read the last time.
	Problem string `json:"problem,omitempty"`
}

// JournalReport is about one journal.
type JournalReport struct {
	Name string `json:"name"`
	// Until is the time up to which it is known to be read whole.
	Until   time.Time `json:"until"`
	Records uint64    `json:"records"`
	Problem string    `json:"problem,omitempty"`
}

// maxFindings bounds what is kept of unexplained entries of one log, and maxTold of
// its other findings, which are long; more are counted.
const maxFindings = 1000

// find notes a finding, once.
func (a *Auditor) find(id hash, f Alarm) {
	name := hex.EncodeToString(id[:])
	if _, ok := a.state.Findings[name]; ok || a.accepted[name] {
		return
	}
	// Whoever runs one log must not be able to crowd out what is found in another.
	kept := 0
	for _, k := range a.state.Findings {
		if k.Class == f.Class && k.Log == f.Log {
			kept++
		}
	}
	if kept >= maxFindings || f.Class != Unexplained && kept >= maxTold {
		a.state.MoreFindings++
		return
	}
	f.ID, f.Since, f.Remedy = name, a.clock().UTC(), remedies[f.Class]
	a.state.Findings[name] = f
	a.dirty = true
}

// raise notes what is wrong now and may pass.
func (a *Auditor) raise(f Alarm) { a.passing = append(a.passing, f) }

// alarms lists findings and what is wrong now, the worst first.
func (a *Auditor) alarms() []Alarm {
	all := []Alarm{}
	for id, f := range a.state.Findings {
		if a.accepted[id] {
			delete(a.state.Findings, id)
			a.dirty = true
			continue
		}
		all = append(all, f)
	}
	now := a.clock().UTC()
	began := map[string]time.Time{}
	for _, f := range a.passing {
		f.Since, f.Remedy = now, remedies[f.Class]
		if since, ok := a.began[f.key()]; ok {
			f.Since = since
		}
		began[f.key()] = f.Since
		all = append(all, f)
	}
	a.began = began
	slices.SortStableFunc(all, func(x, y Alarm) int {
		if c := slices.Index(classes, x.Class) - slices.Index(classes, y.Class); c != 0 {
			return c
		}
		if c := x.Since.Compare(y.Since); c != 0 {
			return c
		}
		return strings.Compare(x.key(), y.key())
	})
	return all
}

// acceptedName is the file of findings that were looked into. It is text for
// people: an id and a note on each line.
const acceptedName = "accepted.txt"

// Accept says that a finding was looked into. The auditor of dir takes note in its
// next round.
func Accept(dir, id, note string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 32 {
		return fmt.Errorf("%q is not the id of a finding: 64 digits of hex", id)
	}
	if note == "" || strings.ContainsAny(note, "\r\n") {
		return errors.New("a note of one line must say what was found out")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("accepting a finding: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, acceptedName), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("accepting a finding: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s %s\n", strings.ToLower(id), note)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("accepting a finding: %w", err)
	}
	return nil
}

// readAccepted reads what was accepted; a line that says nothing is passed over.
func (a *Auditor) readAccepted(ctx context.Context) error {
	data, err := FetchDir(a.dir)(ctx, acceptedName, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		a.accepted = map[string]bool{}
		return nil
	}
	if err != nil {
		return err
	}
	accepted := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		id, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		accepted[strings.ToLower(id)] = true
	}
	a.accepted = accepted
	return lines.Err()
}
