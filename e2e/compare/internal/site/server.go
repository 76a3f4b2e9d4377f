package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// LogMode is where certificates are logged.
type LogMode string

// The logs of a comparison.
const (
	// NoLog is the explicit choice of none.
	NoLog LogMode = "none"
	// StubLog signs at once and keeps nothing.
	StubLog LogMode = "stub"
	// RealLog is `mayfly log serve` in a process of its own.
	RealLog LogMode = "real"
	// EmbeddedLog is the log in Mayfly.
	EmbeddedLog LogMode = "embedded"
)

// Setup is what a server is started with.
type Setup struct {
	CA  CA
	Log LogMode
	// TLS serves it on the port of the test: gRPC in Fulcio, both in Mayfly.
	TLS bool
	// PerAddress is Mayfly's limit; empty means one that nobody reaches.
	PerAddress string
}

// Server is an authority that runs.
type Server struct {
	*Process
	// REST and GRPC are host:port.
	REST, GRPC string
	// behind are the processes of the server's own log, which end with it.
	behind []*Process
}

// Stop ends the server and what is behind it.
func (s *Server) Stop() {
	if s.Process != nil {
		s.Process.Stop()
	}
	for _, p := range s.behind {
		p.Stop()
	}
}

// Site is the surroundings of both servers.
type Site struct {
	Dir string
	*PKI
	Provider *Provider
	// Programs; Fulcio may be empty. Compare is this program, for the backend.
	Mayfly, Fulcio, Compare string

	address        string // of the backend
	logKey, logPub string // files of the stub log
	backend        *Process
	http           *http.Client
	starts         int
	given          map[string]bool // addresses
}

// Open makes keys and certificates below the directory, and starts the backend,
// which is this program.
func Open(ctx context.Context, dir, compare string) (*Site, error) {
	pki, err := NewPKI(dir)
	if err != nil {
		return nil, err
	}
	s := &Site{Dir: dir, PKI: pki, Compare: compare, given: make(map[string]bool), http: &http.Client{Timeout: 5 * time.Second}}
	if s.address, err = s.freeAddress(); err != nil {
		return nil, err
	}
	if s.Provider, err = NewProvider("http://" + s.address + realmPath); err != nil {
		return nil, err
	}
	key, err := NewCAKey("P-256")
	if err != nil {
		return nil, err
	}
	s.logKey, s.logPub = s.file("log.key"), s.file("log.pub")
	if err := writeKey(s.logKey, key); err != nil {
		return nil, err
	}
	if err := writePublic(s.logPub, key.Public()); err != nil {
		return nil, err
	}
	s.backend, err = s.startBackend(ctx, s.address, "")
	return s, err
}

// Close ends the backend.
func (s *Site) Close() {
	if s.backend != nil {
		s.backend.Stop()
	}
}

// startBackend starts a process with provider and stub log. A target is the
// submission URL of a real log.
func (s *Site) startBackend(ctx context.Context, address, target string) (*Process, error) {
	keys, err := s.Provider.keySet()
	if err != nil {
		return nil, err
	}
	cert, key := s.Client()
	text, err := json.Marshal(BackendConfig{
		Address: address, Issuer: s.Provider.URL, Keys: keys, LogKey: s.logKey,
		Target: target, Certificate: cert, Key: key, Roots: s.Root(),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the backend's configuration: %w", err)
	}
	dir, err := s.newDir("backend")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "backend.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("writing the backend's configuration: %w", err)
	}
	p, err := Start(dir, s.Compare, BackendCommand, path)
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx, func() error { return s.get(ctx, "http://"+address+realmPath+"/certs") }); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

const realmPath = "/realms/eng"

// BackendCommand is the first argument with which the comparing program is the
// backend; the second is the file of its configuration.
const BackendCommand = "backend"

func (s *Site) file(name string) string { return filepath.Join(s.Dir, name) }

// newDir is a directory for a server that starts.
func (s *Site) newDir(name string) (string, error) {
	s.starts++
	dir := s.file(fmt.Sprintf("%s-%d", name, s.starts))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	return dir, nil
}

func (s *Site) get(ctx context.Context, url string) error {
	_, err := fetch(ctx, s.http, url)
	return err
}

// fetch reads a document.
func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %.300s", url, resp.StatusCode, body)
	}
	return body, nil
}

const commandTimeout = time.Minute

// run runs a program to its end.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // programs that the caller names
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running %s %q: %w\n%s", filepath.Base(name), args, err, out.String())
	}
	return out.String(), nil
}

var publicKeyLine = regexp.MustCompile(`(?m)^\s*public key\s+(\S+)$`)

// initLog makes the log of a configuration and returns its public key's file.
func (s *Site) initLog(ctx context.Context, dir, config string) (string, error) {
	out, err := run(ctx, dir, s.Mayfly, "log", "init", "--config", config)
	if err != nil {
		return "", err
	}
	found := publicKeyLine.FindStringSubmatch(out)
	if found == nil {
		return "", errors.New("mayfly log init does not name the public key's file")
	}
	return found[1], nil
}

// Backend is the process with provider and stub log.
func (s *Site) Backend() *Process { return s.backend }
