package stack

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// held is longer than any reload of these tests takes.
const held = 20 * time.Second

// A reload holds a lock, and the end of the service waits for it: what somebody
// puts in the place of a file must not hold the reload. A name that is a pipe
// holds whoever opens it until there is a writer.
func TestReloadIsNotHeldByWhatIsNoFile(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r := s.reloading(Options{})
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	large := func(path string) error {
		s.must(os.WriteFile(path, nil, 0o600))
		return os.Truncate(path, 1<<40)
	}
	directory := func(path string) error { return os.Mkdir(path, 0o700) }
	missing := func(string) error { return nil }
	device := func(path string) error { return os.Symlink("/dev/zero", path) }
	for _, tc := range []struct {
		name, what string
		put        func(path string) error
		says       string
	}{
		{"mayfly.yaml", "a pipe", pipe, ""},
		{"mayfly.yaml", "endless", device, ""},
		{"chain.pem", "a pipe", pipe, "chains[0].certificates"},
		{"chain.pem", "a directory", directory, "chains[0].certificates"},
		{"chain.pem", "a terabyte", large, "chains[0].certificates"},
		{"chain.pem", "endless", device, "chains[0].certificates"},
		{"chain.pem", "missing", missing, "chains[0].certificates"},
		{"ca.key", "a pipe", pipe, "chains[0].key"},
		{"ca.key", "a directory", directory, "chains[0].key"},
		{"ca.key", "a terabyte", large, "chains[0].key"},
	} {
		path := filepath.Join(s.dir, tc.name)
		s.must(os.Rename(path, path+".kept"))
		s.must(tc.put(path))
		result := make(chan error, 1)
		go func() {
			_, err := r.Reload(t.Context(), "test")
			result <- err
		}()
		select {
		case err := <-result:
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), tc.name) {
				t.Errorf("with %s that is %s: Reload = %v, want an error about it", tc.name, tc.what, err)
			}
		case <-time.After(held):
			t.Fatalf("with %s that is %s the reload does not end", tc.name, tc.what)
		}
		s.must(os.RemoveAll(path))
		s.must(os.Rename(path+".kept", path))
	}
	if _, err := r.Reload(t.Context(), "test"); err != nil {
		t.Errorf("with the files back in place: %v", err)
	}
	if a := ask(t, r.url, s.token(nil)); a.status != 200 {
		t.Errorf("a certificate after all that: %d %s", a.status, a.body)
	}
}
