// Package freeze keeps the list of those who get no certificate for now: an
// identity, everybody of an issuer, or a key. It is the switch for the night in
// which something was stolen, when changing policy takes too long.
//
// A change is on disk before it counts and counts for every request that policy
// has not decided yet. The list survives restarts; a list that cannot be read
// stops the start, because starting without it would thaw everybody.
//
// It does not revoke: certificates that are out live for their ten minutes.
package freeze

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/ca"
)

// Kind is what an entry freezes.
type Kind string

// The kinds of entries.
const (
	// Identity freezes who has this subject, this email, or would be named so in
	// the certificate, at one issuer or at all.
	Identity Kind = "identity"
	// Issuer freezes everybody of the issuer with this configured name.
	Issuer Kind = "issuer"
	// Key freezes the client key whose SubjectPublicKeyInfo has this SHA-256, in
	// hexadecimal.
	Key Kind = "key"
)

// Limits of the list.
const (
	maxFile    = 4 << 20
	maxEntries = 10_000
	maxText    = 1024
)

// Entry is one thing that is frozen.
type Entry struct {
	Kind  Kind   `json:"kind"`
	Value string `json:"value"`
	// Issuer limits an identity to one issuer, by configured name; empty means
	// all of them.
	Issuer string `json:"issuer,omitempty"`
	// Note says why, for people.
	Note string    `json:"note,omitempty"`
	At   time.Time `json:"at"`
}

func (e Entry) same(o Entry) bool {
	return e.Kind == o.Kind && e.Value == o.Value && e.Issuer == o.Issuer
}

// normal returns the entry as it is compared, or why it freezes nothing.
func (e Entry) normal() (Entry, error) {
	if e.Value == "" || len(e.Value) > maxText || len(e.Note) > maxText || len(e.Issuer) > maxText {
		return e, fmt.Errorf("a value has 1 to %d bytes, a note and an issuer at most as many", maxText)
	}
	switch e.Kind {
	case Identity:
		// Email addresses are compared in lower case, subjects as they are; so an
		// identity keeps its spelling here.
	case Issuer:
		if e.Issuer != "" {
			return e, errors.New("an issuer is frozen by its name alone")
		}
	case Key:
		e.Value = strings.ToLower(e.Value)
		if raw, err := hex.DecodeString(e.Value); err != nil || len(raw) != 32 {
			return e, fmt.Errorf("key %q is not the SHA-256 of a public key in hexadecimal", e.Value)
		}
	default:
		return e, fmt.Errorf("unknown kind %q: it is identity, issuer or key", e.Kind)
	}
	return e, nil
}

// hidden reports text that equals no name although it looks like one. Names in
// certificates are visible ASCII, so that nobody is out of reach by it. It is not
// part of normal: what is in the file already must not stop a start.
func hidden(s string) bool {
	return s != strings.TrimSpace(s) || !utf8.ValidString(s) ||
		strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// List is the list of what is frozen, kept in a file.
type List struct {
	path  string
	clock func() time.Time
	// mu guards writing; readers take the snapshot.
	mu      sync.Mutex
	entries atomic.Pointer[[]Entry]
}

// Open reads the list at path, which need not exist yet. A nil clock means
// time.Now.
func Open(path string, clock func() time.Time) (*List, error) {
	if clock == nil {
		clock = time.Now
	}
	l := &List{path: path, clock: clock}
	entries, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("freeze: reading %s: %w; mend or restore it, for without it everybody would be thawed", path, err)
	}
	l.entries.Store(&entries)
	return l, nil
}

func read(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	var entries []Entry
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(&entries); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something follows the list")
	}
	for i := range entries {
		if entries[i], err = entries[i].normal(); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	return entries, nil
}

// Entries returns what is frozen, oldest first.
func (l *List) Entries() []Entry { return slices.Clone(*l.entries.Load()) }

// Freeze adds an entry; one that is there already gets the new note and time.
func (l *List) Freeze(e Entry) error {
	e, err := e.normal()
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if hidden(e.Value) || hidden(e.Issuer) {
		return fmt.Errorf("freeze: %q at issuer %q begins or ends with a space, or has a character in it that nobody sees; no name has that", e.Value, e.Issuer)
	}
	e.At = l.clock().UTC()
	return l.change(func(entries []Entry) ([]Entry, error) {
		entries = slices.DeleteFunc(entries, e.same)
		if len(entries) == maxEntries {
			return nil, fmt.Errorf("freeze: the list is full with %d entries; freeze an issuer instead", maxEntries)
		}
		return append(entries, e), nil
	})
}

// Unfreeze removes an entry, and fails if there is none: a slip in the name must
// not look like success.
func (l *List) Unfreeze(e Entry) error {
	e, err := e.normal()
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	return l.change(func(entries []Entry) ([]Entry, error) {
		left := slices.DeleteFunc(entries, e.same)
		if len(left) == len(*l.entries.Load()) {
			return nil, fmt.Errorf("freeze: no entry for %s %q; list them with: mayfly freeze list", e.Kind, e.Value)
		}
		return left, nil
	})
}

// change writes the changed list and then lets it count.
func (l *List) change(f func([]Entry) ([]Entry, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, err := f(l.Entries())
	if err != nil {
		return err
	}
	if err := write(l.path, entries); err != nil {
		return fmt.Errorf("freeze: writing %s: %w", l.path, err)
	}
	l.entries.Store(&entries)
	return nil
}

// write replaces the file so that a crash leaves the old list or the new one.
func write(path string, entries []Entry) (err error) {
	if entries == nil {
		entries = []Entry{}
	}
	data, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".freeze-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Guard returns a policy that refuses who is frozen and otherwise decides as
// policy does.
func (l *List) Guard(policy ca.Policy) ca.Policy {
	return func(ctx context.Context, r ca.Request) (ca.Decision, error) {
		// A refusal of policy comes first: it names a rule, and it is a refusal
		// all the same.
		d, err := policy(ctx, r)
		if err != nil {
			return d, err
		}
		if e, ok := l.match(r, d.SAN.String()); ok {
			return d, ca.Refuse(ca.KindDenied, ca.ReasonFrozen, "%s %q is frozen since %s: %s",
				e.Kind, e.Value, e.At.Format(time.RFC3339), e.Note)
		}
		return d, nil
	}
}

func (l *List) match(r ca.Request, name string) (Entry, bool) {
	spki := r.Key.SPKIHash()
	key := hex.EncodeToString(spki[:])
	for _, e := range *l.entries.Load() {
		hit := false
		switch e.Kind {
		case Identity:
			hit = (e.Issuer == "" || e.Issuer == r.Identity.IssuerName) &&
				(e.Value == r.Identity.Subject || strings.EqualFold(e.Value, r.Identity.Email) || strings.EqualFold(e.Value, name))
		case Issuer:
			hit = e.Value == r.Identity.IssuerName
		case Key:
			hit = e.Value == key
		}
		if hit {
			return e, true
		}
	}
	return Entry{}, false
}
