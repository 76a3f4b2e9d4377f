package files

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// held is longer than reading a file takes.
const held = 20 * time.Second

func TestReadTakesFilesOfAtMostMaxSizeWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for size, accepted := range map[int]bool{0: true, MaxSize: true, MaxSize + 1: false} {
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if accepted != (err == nil) || accepted && !bytes.Equal(got, want) {
			t.Errorf("a file of %d bytes: got %d bytes and error %v, want it accepted: %v", size, len(got), err, accepted)
		}
	}
	// What Kubernetes mounts are links.
	link := filepath.Join(dir, "link")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(link); err != nil || string(got) != "text" {
		t.Errorf("a link to a file: got %q, %v, want what the file holds", got, err)
	}
}

func TestReadDoesNotWaitForWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/zero", filepath.Join(dir, "missing")} {
		result := make(chan error, 1)
		go func() {
			_, err := Read(path)
			result <- err
		}()
		select {
		case err := <-result:
			if err == nil {
				t.Errorf("%s was read, want an error", path)
			}
		case <-time.After(held):
			t.Fatalf("reading %s does not end", path)
		}
	}
}
