package auditor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// retarget takes up what the targets are now.
func (a *Auditor) retarget() error {
	t, err := a.targets()
	if err != nil {
		return fmt.Errorf("finding what to audit: %w", err)
	}
	if len(t.Journals) == 0 {
		return errors.New("finding what to audit: there is no journal")
	}
	a.issuers, a.ours = t.Issuers, map[hash]bool{}
	for _, c := range t.Issuers {
		a.ours[sha256.Sum256(c.RawSubjectPublicKeyInfo)] = true
	}
	var journals []*journalState
	for _, j := range t.Journals {
		i := slices.IndexFunc(a.journals, func(s *journalState) bool { return s.Dir == j.Dir })
		if i >= 0 {
			a.journals[i].Journal = j
			journals = append(journals, a.journals[i])
			continue
		}
		journals = append(journals, &journalState{Journal: j, keys: map[hash]bool{}})
	}
	a.journals = journals
	var logs []*logState
	var errs []error
	for _, l := range t.Logs {
		if s := a.logByID(l.Key.ID); s != nil {
			s.Log = l
			logs = append(logs, s)
			continue
		}
		s, err := a.openLog(l)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		logs = append(logs, s)
	}
	a.logs = logs
	// What waits of a log that is not audited any more would wait for ever. If it
	// comes back, it is in the state or is read again.
	maps.DeleteFunc(a.pending, func(s subject, _ pending) bool { return a.logByID(s.log) == nil })
	return errors.Join(errs...)
}

func (a *Auditor) logByID(id hash) *logState {
	for _, l := range a.logs {
		if l.Key.ID == id {
			return l
		}
	}
	return nil
}

// judge decides what can be decided by now, and raises what is wrong now.
func (a *Auditor) judge() {
	now := a.clock()
	for _, p := range a.pending {
		if err := a.judgeEntry(p); err != nil {
			a.raise(Alarm{Class: Forgotten, Text: err.Error()})
			break
		}
	}
	a.raiseMissing()
	a.raiseLogs(now)
	a.raiseJournals(now)
}

// judgeEntry decides about an entry once every journal is known to be read up to a
// time after it was seen.
func (a *Auditor) judgeEntry(p pending) error {
	name := p.Name
	l := a.logByID(p.LogID)
	if l == nil || p.Index >= max(l.good.End(), l.saved.Base) {
		return nil // not proven to be in the log so far
	}
	for _, j := range a.journals {
		if !j.covers(p.Seen) {
			return nil
		}
	}
	// Close by, it was looked for when it was read. Somebody may have submitted a
	// certificate of last year.
	for _, j := range a.journals {
		known, err := j.index.has(name)
		if err != nil {
			return err // it waits until that can be found out
		}
		if known {
			delete(a.pending, p.subject())
			return nil
		}
	}
	delete(a.pending, p.subject())
	what := "precertificate"
	if p.Final {
		what = "certificate"
	}
	if _, known := a.state.Findings[hex.EncodeToString(name[:])]; !known {
		a.metrics.unexplained.Inc()
	}
	a.find(name, Alarm{Class: Unexplained, Log: p.Log, Text: fmt.Sprintf(
		"entry %d of %v is a %s under one of our keys, and no journal knows it (read: %s): either the journal of another service "+
			"with this key is not among them, or the key was used behind the back of the service",
		p.Index, p.Time.Format(time.RFC3339), what, a.journalNames())})
	return nil
}

// journalNames lists the journals that were read, for whoever finds one missing.
func (a *Auditor) journalNames() string {
	var names []string
	for _, j := range a.journals {
		names = append(names, j.Name)
	}
	return strings.Join(names, ", ")
}

// maxTold bounds how many alarms of a kind are told one by one.
const maxTold = 20

// raiseMissing raises alarms of entries that were promised and are not there.
func (a *Auditor) raiseMissing() {
	missing := 0
	for place, p := range a.promises {
		l := a.logByID(p.LogID)
		if l == nil {
			delete(a.promises, place)
			continue
		}
		due := p.Index >= 0 && uint64(p.Index) < l.good.End()
		if l.good.End() == l.saved.Kept.Size && l.saved.Kept.Time.After(p.Timestamp.Add(l.Merge)) {
			due = true
		}
		if !due {
			continue
		}
		there, err := l.index.has(place)
		if err != nil {
			a.raise(Alarm{Class: Forgotten, Log: l.Name, Text: err.Error()})
			return
		}
		if there {
			delete(a.promises, place)
			continue
		}
		if missing++; missing <= maxTold {
			a.raise(Alarm{Class: Missing, Log: l.Name, Journal: p.Journal, Text: fmt.Sprintf(
				"the SCT of %v for the certificate with serial %s promises entry %d, which is not there", p.Timestamp.UTC().Format(time.RFC3339), p.Serial, p.Index)})
		}
	}
	if missing > maxTold {
		a.raise(Alarm{Class: Missing, Text: fmt.Sprintf("%d promised entries are missing, of which %d are listed", missing, maxTold)})
	}
}

// maxUnproven is how long reading may take before it proves a head: a log may have
// a long past, but none without end.
const maxUnproven = 2 * time.Hour

// raiseLogs raises what is wrong with logs.
func (a *Auditor) raiseLogs(now time.Time) {
	for _, l := range a.logs {
		if l.trouble != nil {
			a.raise(*l.trouble)
		}
		newest := l.saved.Kept.Time
		if l.latest.Time.After(newest) {
			newest = l.latest.Time
		}
		if age := now.Sub(newest); l.MaxAge > 0 && !newest.IsZero() && age > l.MaxAge {
			a.raise(Alarm{Class: Stale, Log: l.Name, Text: fmt.Sprintf("the last head is of %v, and there should be one every %v", newest.Format(time.RFC3339), l.MaxAge/2)})
		}
		if wait := now.Sub(l.proven); wait > maxUnproven && l.cursor.End() < l.target.Size {
			a.raise(Alarm{Class: Behind, Log: l.Name, Text: fmt.Sprintf(
				"%d entries of %d were read, and no head was proven for %v", l.cursor.End(), l.target.Size, wait.Round(time.Minute))})
		}
		if l.failure != nil && now.Sub(l.since) > maxWait {
			a.raise(Alarm{Class: Unreachable, Log: l.Name, Text: l.failure.Error()})
		}
	}
}

func (a *Auditor) makeReport(done bool) Report {
	r := Report{Time: a.clock().UTC(), Logs: []LogReport{}, Journals: []JournalReport{}, Pending: len(a.pending), Promised: len(a.promises), CaughtUp: done}
	for _, l := range a.logs {
		r.Logs = append(r.Logs, LogReport{
			Name: l.Name, ID: hex.EncodeToString(l.Key.ID[:]), Size: l.saved.Kept.Size, Time: l.saved.Kept.Time,
			Read: l.cursor.End(), Ours: l.ours, Others: l.others, Problem: textOf(l.failure),
		})
		r.CaughtUp = r.CaughtUp && l.failure == nil && l.trouble == nil && !l.halted
	}
	for _, j := range a.journals {
		r.Journals = append(r.Journals, JournalReport{Name: j.Name, Until: j.until, Records: j.records, Problem: textOf(j.trouble)})
		r.CaughtUp = r.CaughtUp && j.trouble == nil
	}
	r.Alarms = a.alarms()
	return r
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// tell logs every alarm in every round, records those that are new, and hands new
// heads to the journal.
func (a *Auditor) tell(ctx context.Context, r Report) {
	current := map[string]bool{}
	for i, f := range r.Alarms {
		if i == maxTold {
			a.logger.Error("log audit alarm", "more", len(r.Alarms)-maxTold)
		}
		if i < maxTold {
			a.logger.Error("log audit alarm", "class", f.Class, "log", f.Log, "journal", f.Journal, "text", f.Text, "do", f.Remedy, "since", f.Since, "id", f.ID)
		}
		key := f.key()
		current[key] = true
		if a.recorded[key] || i >= maxFindings {
			continue
		}
		err := a.recordEvent(ctx, "log.alarm", slog.String("class", string(f.Class)), slog.String("log", f.Log),
			slog.String("journal", f.Journal), slog.String("id", f.ID), slog.String("text", f.Text))
		if err == nil {
			a.recorded[key] = true
		}
	}
	for key := range a.recorded {
		if !current[key] {
			delete(a.recorded, key)
		}
	}
	for _, l := range a.logs {
		a.handOver(ctx, l)
	}
}

func (a *Auditor) recordEvent(ctx context.Context, kind string, attrs ...slog.Attr) error {
	if a.sink == nil {
		return nil
	}
	// A round that came to its bound must still be able to say so.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	err := a.sink(ctx, kind, attrs...)
	if err != nil {
		a.logger.Error("the journal did not take an event of the log audit", "kind", kind, "err", err)
	}
	return err
}

// quiet is how often a head is handed over that only says again what the last said.
const quiet = time.Hour

// handOver hands the proven head of a log to the journal, which is kept elsewhere
// too: when the tree has changed, but not more than once in an interval.
func (a *Auditor) handOver(ctx context.Context, l *logState) {
	id := hex.EncodeToString(l.Key.ID[:])
	kept, last, now := l.saved.Kept, a.state.Told[id], a.clock()
	since := now.Sub(last.At)
	same := kept.Size == last.Size && kept.Root == last.Root
	if kept.Note == "" || a.sink == nil || !last.At.IsZero() && since >= 0 && (since < a.interval || same && since < quiet) {
		return
	}
	err := a.recordEvent(ctx, "log.head", slog.String("log", l.Name), slog.String("log_id", id),
		slog.Uint64("size", kept.Size), slog.Time("time", kept.Time), slog.String("head", kept.Note))
	if err == nil {
		a.state.Told[id] = told{Size: kept.Size, Root: kept.Root, At: now}
		a.dirty = true
	}
}
