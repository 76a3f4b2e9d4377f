package stack

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// LogsStatus is what an administrator is told about the logs.
type LogsStatus struct {
	Time time.Time `json:"time"`
	// Ready says that some log would take an entry now, Problem why none would. A
	// remote log counts as ready as long as nobody has asked it.
	Ready   bool        `json:"ready"`
	Problem string      `json:"problem,omitempty"`
	Logs    []LogStatus `json:"logs"`
}

// LogStatus is about one log of the configuration.
type LogStatus struct {
	Name string `json:"name"`
	// Remote is the URL of a remote log; Shards are those of the log in the state
	// directory, in the order in which they take entries.
	Remote string        `json:"remote,omitempty"`
	Shards []ShardStatus `json:"shards,omitempty"`
}

// ShardStatus is about one shard of the log in the state directory.
type ShardStatus struct {
	Name  string     `json:"name"`
	State ShardState `json:"state"`
	// Problem says why the shard is in a state in which it should not be.
	Problem   string    `json:"problem,omitempty"`
	URL       string    `json:"url"`
	Origin    string    `json:"origin"`
	LogID     string    `json:"log_id"`
	Instance  string    `json:"instance"`
	Directory string    `json:"directory"`
	PublicKey string    `json:"public_key"`
	Key       string    `json:"key"`
	Created   time.Time `json:"created"`
	Activate  time.Time `json:"activate"`
	// Until is when the shard is to be frozen, for the next has begun; zero when
	// there is no next one. Frozen is when it was.
	Until  time.Time `json:"until,omitzero"`
	Frozen time.Time `json:"frozen,omitzero"`
	// Size, Root and Checkpoint are of the published checkpoint.
	Size       uint64    `json:"size"`
	Root       string    `json:"root,omitempty"`
	Checkpoint time.Time `json:"checkpoint,omitzero"`
	LastEntry  time.Time `json:"last_entry,omitzero"`
	FreeBytes  uint64    `json:"free_bytes,omitempty"`
	// Record is the checkpoint record's path, RecordSize and RecordTime what it has.
	Record        string    `json:"record,omitempty"`
	RecordSize    uint64    `json:"record_size,omitempty"`
	RecordTime    time.Time `json:"record_time,omitzero"`
	RecordProblem string    `json:"record_problem,omitempty"`
}

// ShardState says what a shard does now.
type ShardState string

// The states of a shard.
const (
	ShardWaiting    ShardState = "waiting"    // in the trust files, and will take entries
	ShardWritable   ShardState = "writable"   // takes entries
	ShardRefusing   ShardState = "refusing"   // should take entries, and does not for now
	ShardStopped    ShardState = "stopped"    // needs a new start of the service
	ShardSuperseded ShardState = "superseded" // its successor takes entries; to be frozen
	ShardFrozen     ShardState = "frozen"     // only read
	ShardUnreadable ShardState = "unreadable" // cannot be read
)

// minFreeBytes is the free space below which a log takes nothing.
const minFreeBytes = 256 << 20

// OfflineLogs tells what the files say, without asking a running service.
func OfflineLogs(ctx context.Context, f *config.File, now time.Time) (LogsStatus, error) {
	status := LogsStatus{Time: now.UTC(), Logs: []LogStatus{}}
	for _, l := range f.Logs.List {
		one := LogStatus{Name: l.Name}
		if l.Embedded == nil {
			one.Remote, status.Ready = l.Remote.URL, true
			status.Logs = append(status.Logs, one)
			continue
		}
		shards, err := Shards(f.State, l.Name)
		if err != nil {
			return LogsStatus{}, err
		}
		for i := range shards {
			s := shardStatus(ctx, f, l, shards, i, now)
			if s.State == ShardWritable {
				status.Ready = true
			}
			one.Shards = append(one.Shards, s)
		}
		status.Logs = append(status.Logs, one)
	}
	if !status.Ready {
		status.Problem = "no log could take an entry"
	}
	return status, nil
}

// Logs tells what the logs of the service do.
func (s *Stack) Logs(ctx context.Context) (LogsStatus, error) {
	n := s.current.Load()
	status, err := OfflineLogs(ctx, n.file, s.options.Clock())
	if err != nil {
		return LogsStatus{}, err
	}
	for _, l := range status.Logs {
		for i := range l.Shards {
			if opened := s.shard(l.Shards[i].Name); opened != nil {
				opened.tell(&l.Shards[i])
			} else {
				l.Shards[i].Problem = "the service has not taken the shard up yet: run mayfly reload"
			}
		}
	}
	status.Ready, status.Problem = true, ""
	if n.log != nil {
		if err := n.log.Ready(); err != nil {
			status.Ready, status.Problem = false, err.Error()
		}
	}
	return status, nil
}

// tell adds what only the process knows that has the shard open.
func (s *shard) tell(status *ShardStatus) {
	l, err := s.writer()
	switch {
	case err != nil && status.State != ShardFrozen:
		status.State, status.Problem = ShardStopped, err.Error()
		return
	case err != nil:
		return
	}
	err = l.Ready()
	select {
	case <-l.Stopped():
		status.State, status.Problem = ShardStopped, fmt.Sprint(err)
		return
	default:
	}
	if status.State == ShardWritable || status.State == ShardRefusing {
		status.State, status.Problem = ShardWritable, ""
		if err != nil {
			status.State, status.Problem = ShardRefusing, err.Error()
		}
	}
}

// shardStatus tells what the files of a shard say.
func shardStatus(ctx context.Context, f *config.File, l config.Log, all []Shard, i int, now time.Time) ShardStatus {
	sh := all[i]
	s := ShardStatus{
		Name: sh.Name, URL: f.PublicURL + LogPath(sh.Name), Origin: sh.Info.Origin, LogID: hex.EncodeToString(sh.Info.LogID[:]),
		Instance: sh.Info.InstanceID, Directory: sh.Dir, PublicKey: sh.Info.PublicKeyFile, Key: "log.key in the directory",
		Created: sh.Info.Created, Activate: sh.activation(), Until: frozenAt(all, i), Frozen: sh.Info.Frozen,
	}
	if k, err := sh.Key(); err != nil {
		s.Key = err.Error()
	} else if k != nil {
		s.Key = keyPlace(*k)
		for _, which := range []struct{ what, value string }{{"object", k.Object}, {"id", k.ID}, {"uri", k.URI}} {
			if which.value != "" {
				s.Key += ", " + which.what + " " + which.value
			}
		}
	}
	switch current := CurrentShard(all, now); {
	case !s.Frozen.IsZero():
		s.State = ShardFrozen
	case i == current:
		s.State = ShardWritable
	case i < current:
		s.State = ShardSuperseded
	default:
		s.State = ShardWaiting
	}
	s.look(ctx, sh.Dir, RecordOf(l.Embedded, l.Name, sh), now)
	return s
}

// look adds what is in the shard's tree and in its record.
func (s *ShardStatus) look(ctx context.Context, dir, record string, now time.Time) {
	head, err := s.read(ctx, dir, record)
	if err != nil {
		s.State, s.Problem = ShardUnreadable, err.Error()
		return
	}
	s.Size, s.Root, s.Checkpoint = head.Size, hex.EncodeToString(head.Root[:]), head.Time
	if s.State != ShardWritable {
		return
	}
	switch {
	case s.FreeBytes < minFreeBytes:
		s.State, s.Problem = ShardRefusing, fmt.Sprintf("%d bytes are free at %s, and it wants %d: make room", s.FreeBytes, dir, minFreeBytes)
	case now.Before(head.Time.Add(-time.Second)):
		s.State, s.Problem = ShardRefusing, fmt.Sprintf("the clock says %s, and the checkpoint is of %s: set the clock", now.UTC().Format(time.RFC3339), head.Time.Format(time.RFC3339))
	}
}

func (s *ShardStatus) read(ctx context.Context, dir, record string) (head embedded.Head, err error) {
	v, err := embedded.OpenView(dir)
	if err != nil {
		return head, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if s.FreeBytes, err = v.FreeBytes(); err != nil {
		return head, err
	}
	if s.Record = record; record != "" {
		if kept, err := v.RecordHead(record); err != nil {
			s.RecordProblem = err.Error()
		} else {
			s.RecordSize, s.RecordTime = kept.Size, kept.Time
		}
	}
	if head, err = v.Head(); err != nil || head.Size == 0 {
		return head, err
	}
	return head, v.Entries(ctx, head, head.Size-1, func(e embedded.LoggedEntry) bool {
		s.LastEntry = e.Time
		return true
	})
}
