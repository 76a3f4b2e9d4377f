package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// envPrefix starts the name of every variable that Load reads.
const envPrefix = "MAYFLY_"

// Scalar is a key that a variable or a flag may set. Only these: what decides
// who gets a certificate is in the file, where it is reviewed.
type Scalar struct {
	// Key is the key path in the file, such as listen.address.
	Key string
	// Variable is the environment variable, such as MAYFLY_LISTEN_ADDRESS. An
	// empty variable counts as one that is not set.
	Variable string
	// Flag is the flag without dashes, such as listen-address.
	Flag string
	// Usage is one line for the help text.
	Usage string
}

// Scalars lists the keys that variables and flags may set.
func Scalars() []Scalar {
	list := []Scalar{
		{Key: "listen.address", Usage: "address of the service, host:port"},
		{Key: "listen.tls.certificate", Usage: "PEM `file` with the server certificate"},
		{Key: "listen.tls.key", Usage: "PEM `file` with the server certificate's key"},
		{Key: "public_url", Usage: "https `URL` under which clients reach the service"},
		{Key: "metrics", Usage: "address of the Prometheus endpoint, host:port; empty is off"},
		{Key: "state", Usage: "`directory` of journal, embedded log and caches"},
		{Key: "shutdown", Usage: "how long requests in flight may take at shutdown"},
		{Key: "logging.level", Usage: "debug, info, warn or error"},
		{Key: "logging.format", Usage: "json or text"},
		{Key: "limits.per_identity", Usage: "`rate` for one identity, such as 60/min"},
		{Key: "limits.per_address", Usage: "`rate` for one client address, such as 600/min"},
		{Key: "limits.in_flight", Usage: "how many requests with a verified token are worked on at once"},
		{Key: "limits.token_size", Usage: "longest token accepted, such as 16KiB"},
	}
	for i, s := range list {
		list[i].Variable = variable(s.Key)
		list[i].Flag = strings.NewReplacer(".", "-", "_", "-").Replace(s.Key)
	}
	return list
}

func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// AddFlags defines a flag for each of Scalars, for handing the set to Load.
func AddFlags(flags *pflag.FlagSet) {
	for _, s := range Scalars() {
		flags.String(s.Flag, "", s.Usage)
	}
}

// Load reads the configuration file at path and lays variables and the flags of
// Scalars over it; flags may be nil. An error about what the configuration says
// is a Problems and holds all of them. Relative paths are relative to the file's
// directory in the file, and to the working directory in variables and flags.
func Load(path string, flags *pflag.FlagSet) (*File, error) {
	return load(path, flags, time.Now())
}

// load is Load at a given time: whether a chain is active depends on it.
func load(path string, flags *pflag.FlagSet, now time.Time) (*File, error) {
	if path == "" {
		return nil, errors.New("no configuration file was named; give one with --config")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the configuration file: %w", err)
	}
	text, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading configuration: there is no such file, check the path given with --config: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return parse(path, text, flags, now)
}

// Parse is Load of a text that stands in no file yet. The path says where it is
// going to stand, for problems and relative paths.
func Parse(path string, text []byte) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the place of the configuration: %w", err)
	}
	return parse(path, text, nil, time.Now())
}

// parse is load after reading.
func parse(path string, text []byte, flags *pflag.FlagSet, now time.Time) (*File, error) {
	f := &File{Path: path, lines: make(map[string]int), origins: make(map[string]string)}
	f.setDefaults()
	d := &decoder{file: f, base: filepath.Dir(path), reported: make(map[place]bool)}
	readable := d.document(text)
	if err := d.overlay(flags); err != nil {
		return nil, err
	}
	if readable {
		f.addDefaultProfile()
		d.problems = append(d.problems, unexplained(check(f, now), d.problems)...)
	}
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	canonical, err := yaml.Marshal(f.Config)
	if err != nil {
		return nil, fmt.Errorf("digesting configuration: %w", err)
	}
	f.Digest = sha256.Sum256(canonical)
	return f, nil
}

// readTimeout is for a configuration that comes through a pipe, as a shell's
// process substitution has it.
const readTimeout = 5 * time.Second

// read returns at most one byte more than a configuration may have. It does not
// wait for a pipe that nobody writes to: a service reads its configuration again.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()                   // nothing was written
	_ = f.SetReadDeadline(time.Now().Add(readTimeout)) // files have none and need none
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// overlay sets what flags and variables say. Viper knows which of them wins; the
// file stays out of it, because viper folds the case of keys and converts values.
func (d *decoder) overlay(flags *pflag.FlagSet) error {
	base, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("finding the working directory: %w", err)
	}
	d.refuseVariables()
	v := viper.New()
	d.base = base
	for _, s := range Scalars() {
		if err := v.BindEnv(s.Key, s.Variable); err != nil {
			return fmt.Errorf("binding %s: %w", s.Variable, err)
		}
		origin := s.Variable
		if f := lookup(flags, s.Flag); f != nil && f.Changed {
			if err := v.BindPFlag(s.Key, f); err != nil {
				return fmt.Errorf("binding --%s: %w", s.Flag, err)
			}
			origin = "--" + s.Flag
		}
		if !v.IsSet(s.Key) {
			continue
		}
		d.file.origins[s.Key] = origin
		field, tag := fieldAt(reflect.ValueOf(&d.file.Config).Elem(), s.Key)
		if err := d.scalar(v.GetString(s.Key), "", field, tag); err != nil {
			d.problems = append(d.problems, d.file.Problem(s.Key, "%v", err))
		}
	}
	return nil
}

func lookup(flags *pflag.FlagSet, name string) *pflag.Flag {
	if flags == nil {
		return nil
	}
	return flags.Lookup(name)
}

// fieldAt finds the field at a key path without indexes, and its config tag.
func fieldAt(v reflect.Value, keyPath string) (reflect.Value, string) {
	var tag string
	for key := range strings.SplitSeq(keyPath, ".") {
		i := slices.Index(keysOf(v.Type()), key)
		tag = v.Type().Field(i).Tag.Get("config")
		v = v.Field(i)
	}
	return v, tag
}

// refuseVariables refuses a variable that was meant for Load but would be
// ignored: nearly the name of one that is read, or a key that only the file may
// set. Others are left alone, because Kubernetes sets MAYFLY_PORT and more of
// the kind for a service called mayfly.
func (d *decoder) refuseVariables() {
	fileOnly := make(map[string]string)
	walk(reflect.ValueOf(Config{}), "", func(path string, _ reflect.StructField, _ reflect.Value) {
		fileOnly[variable(path)] = path
	})
	var known []string
	for _, s := range Scalars() {
		known = append(known, s.Variable)
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) || value == "" {
			continue
		}
		if path, ok := fileOnly[name]; ok {
			d.problems = append(d.problems, Problem{File: name, Path: path,
				Message: "no variable can set this key; write it in the file and unset the variable"})
			continue
		}
		for _, k := range known {
			if len(name) <= 64 && distance(name, k) <= 2 {
				d.problems = append(d.problems, Problem{File: name,
					Message: fmt.Sprintf("unknown variable; did you mean %s?", k)})
			}
		}
	}
}

// unexplained leaves out problems that are only about the default that stands in
// for a value which could not be read: those at or below its place, and those
// about the things around it as a whole.
func unexplained(found, read Problems) Problems {
	unread, around := make(map[string]bool), make(map[string]bool)
	for _, p := range read {
		unread[p.Path] = p.Path != ""
		for path := parent(p.Path); path != ""; path = parent(path) {
			around[path] = true
		}
	}
	return slices.DeleteFunc(found, func(p Problem) bool {
		for path := p.Path; path != ""; path = parent(path) {
			if unread[path] {
				return true
			}
		}
		return around[p.Path]
	})
}
