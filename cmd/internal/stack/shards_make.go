package stack

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// EmbeddedLog is the index in logs of the log in the state directory, of which
// there is at most one.
func EmbeddedLog(f *config.File) (int, error) {
	i := slices.IndexFunc(f.Logs.List, func(l config.Log) bool { return l.Embedded != nil })
	if i < 0 && len(f.Logs.List) > 0 {
		return 0, fmt.Errorf("the configuration has no embedded log; the log %s is remote: run this on its machine, with the configuration there", f.Logs.List[0].Name)
	}
	if i < 0 {
		return 0, errors.New("the configuration has no embedded log; add one under logs, such as: - {name: local, embedded: {}}")
	}
	return i, nil
}

// MakeShard makes a shard of the configuration's embedded log: its key, or what
// belongs to the one that the configuration names, its origin and its empty tree.
// The first shard has no suffix and no activation.
func MakeShard(ctx context.Context, f *config.File, suffix string, activate time.Time) (_ Shard, err error) {
	i, err := EmbeddedLog(f)
	if err != nil {
		return Shard{}, err
	}
	if err := belongsToUs(f.State, os.Geteuid()); err != nil {
		return Shard{}, err
	}
	l := f.Logs.List[i]
	public, err := url.Parse(f.PublicURL)
	if err != nil {
		return Shard{}, fmt.Errorf("reading public_url: %w", err)
	}
	name := l.Name
	all, err := Shards(f.State, l.Name)
	switch {
	case suffix != "":
		name += "-" + suffix
	case len(all) > 0 && all[len(all)-1].Name != name:
		// A first shard that is made last would take over at once.
		return Shard{}, fmt.Errorf("the log has the shard %s already; mayfly log rotate makes the next one", all[len(all)-1].Name)
	}
	if err != nil && !errors.Is(err, embedded.ErrNoLog) {
		return Shard{}, err
	}
	c := embedded.InitConfig{
		Dir: LogDir(f.State, name), Origin: strings.ToLower(public.Host) + public.Path + LogPath(name), Activate: activate,
	}
	if k := l.Embedded.Key; k != nil {
		path := fmt.Sprintf("logs[%d].embedded.key", i)
		key, err := keys.Open(ctx, f, path, *k, nil)
		if err != nil {
			return Shard{}, err
		}
		defer func() { err = errors.Join(err, key.Close()) }()
		if err := unusedKey(all, key); err != nil {
			return Shard{}, fmt.Errorf("%s: %w", f.Place(path), err)
		}
		c.Key = key
		if c.KeyPlace, err = KeyPlace(k); err != nil {
			return Shard{}, err
		}
	}
	info, err := embedded.Init(ctx, c)
	if err != nil {
		return Shard{}, err
	}
	return Shard{Name: name, Dir: c.Dir, Info: info}, nil
}

// belongsToUs refuses to make files as root in a directory of somebody else: the
// service, who is that somebody, could not open them. They are not given away
// afterwards either: whoever owns the directory could put another file in their
// place meanwhile, and be given that.
func belongsToUs(state string, user int) error {
	info, err := os.Stat(state)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && user == 0 && st.Uid != 0 {
		return fmt.Errorf("%s belongs to the user %d, as whom the service runs, and you are root: it could not open what you make there; run this as that user, such as with: runuser -u \"$(id -un %[2]d)\" --", state, st.Uid)
	}
	return nil
}

// unusedKey refuses a key that has signed another tree: two trees under one key
// are two stories of one log.
func unusedKey(all []Shard, key embedded.Signer) error {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	id := sha256.Sum256(spki)
	for _, s := range all {
		if s.Info.LogID == id {
			return fmt.Errorf("this is the key of %s, and each shard needs one of its own: make another key, such as with mayfly hsm keygen, and name it here; %s remembers its own", s.Name, s.Name)
		}
	}
	return nil
}

// askLogKeys asks the tokens that keys of the embedded log are on, once each.
func askLogKeys(ctx context.Context, tokens *keys.Tokens, f *config.File) config.Problems {
	i, err := EmbeddedLog(f)
	if err != nil {
		return nil
	}
	path := fmt.Sprintf("logs[%d].embedded", i)
	all, err := Shards(f.State, f.Logs.List[i].Name)
	if err != nil {
		return config.Problems{f.Problem(path, "%v", err)}
	}
	var problems config.Problems
	for _, s := range all {
		place, err := s.Key()
		if err == nil && (place == nil || len(place.Tokens) == 0 || !s.Info.Frozen.IsZero()) {
			continue
		}
		if err == nil {
			err = askLogKey(ctx, tokens, f, s, *place)
		}
		if err != nil {
			problems = append(problems, f.Problem(path, "the key of %s: %v", s.Name, err))
		}
	}
	return problems
}

func askLogKey(ctx context.Context, tokens *keys.Tokens, f *config.File, s Shard, place config.Key) error {
	public, err := x509.ParsePKIXPublicKey(s.Info.PublicKey)
	if err != nil {
		return err
	}
	key, err := tokens.Key(ctx, f, "log "+s.Name, place, public)
	if err != nil {
		return err
	}
	return key.Close()
}
