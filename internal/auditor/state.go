package auditor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// state is what outlasts a restart. Everything else is read again.
type state struct {
	Logs     map[string]*savedLog `json:"logs"`
	Findings map[string]Alarm     `json:"findings"`
	// MoreFindings counts those beyond what is kept.
	MoreFindings uint64 `json:"more_findings,omitempty"`
	// Promises are those whose record will not be read again.
	Promises []promise `json:"promises,omitempty"`
	// Told is when which head was handed to the journal.
	Told map[string]told `json:"told,omitempty"`
}

// savedLog is what is kept of a log.
type savedLog struct {
	// Kept is the last head that was proven, and Root its root.
	Kept Head     `json:"kept"`
	Root [32]byte `json:"root"`
	// Base is up to where entries need not be read again, and Hashes the compact
	// range of the tree up to there.
	Base   uint64   `json:"base"`
	Hashes [][]byte `json:"hashes"`
	// Runs is how many files the index had then.
	Runs int `json:"runs"`
	// Pending are the undecided entries below Base.
	Pending []pending `json:"pending,omitempty"`
}

type told struct {
	Size uint64    `json:"size"`
	Root [32]byte  `json:"root"`
	At   time.Time `json:"at"`
}

const (
	stateName = "state.json"
	lockName  = "lock"
	maxState  = 64 << 20
	// maxSaved bounds what is undecided in the state. Beyond it, the state stays as
	// it is, and a restart reads from there.
	maxSaved = 20000
)

func newState() state {
	return state{Logs: map[string]*savedLog{}, Findings: map[string]Alarm{}, Told: map[string]told{}}
}

var errDamaged = errors.New("the auditor's state is damaged")

// readState reads the state.
func readState(dir string) (state, error) {
	s := newState()
	f, err := os.Open(filepath.Join(dir, stateName))
	if err != nil {
		return s, fmt.Errorf("reading the auditor's state: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return s, fmt.Errorf("reading the auditor's state: %w", err)
	}
	first, body, _ := bytes.Cut(data, []byte("\n"))
	if string(first) != stateLine(body) {
		return newState(), errDamaged
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return newState(), errors.Join(errDamaged, err)
	}
	for _, l := range s.Logs {
		l.Kept.Root = l.Root
		if _, err := factory.NewRange(0, l.Base, l.Hashes); err != nil || l.Base > l.Kept.Size {
			return newState(), errDamaged
		}
	}
	return s, nil
}

func stateLine(body []byte) string {
	return fmt.Sprintf("mayfly auditor state 1 %08x", crc32.Checksum(body, castagnoli))
}

func (s state) write(dir string) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding the auditor's state: %w", err)
	}
	return replaceFile(filepath.Join(dir, stateName), append([]byte(stateLine(body)+"\n"), body...))
}

// lockDir takes a directory for this process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the auditor's directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the auditor's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// ErrLocked says that another process, such as the service, audits already with
// this directory.
var ErrLocked = errors.New("another process audits with this directory already")

// save writes the state if it changed and if what is undecided fits.
func (a *Auditor) save() error {
	if !a.dirty {
		return nil
	}
	a.state.Promises = a.state.Promises[:0]
	if len(a.promises) <= maxSaved {
		for _, p := range a.promises {
			a.state.Promises = append(a.state.Promises, p)
		}
	}
	if err := a.state.write(a.dir); err != nil {
		return err
	}
	a.dirty = false
	return nil
}
