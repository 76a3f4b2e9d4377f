package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeviceLogin: the page is opened elsewhere, and the token arrives here.
func TestDeviceLogin(t *testing.T) {
	issuer := startDemoProvider(t)
	for _, name := range []string{"CI", "SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "ID_TOKEN_FILE", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	file := filepath.Join(t.TempDir(), "token")
	messages := newLines()
	cmd := root()
	cmd.SetArgs([]string{"login", "--issuer", issuer, "--output", file}) // auto, on a machine without a browser
	cmd.SetErr(messages.pipe)
	done := make(chan error, 1)
	go func() {
		done <- cmd.ExecuteContext(t.Context())
		messages.pipe.Close()
	}()
	var text strings.Builder
	for line := range messages.c {
		text.WriteString(line + "\n")
		if page := strings.TrimSpace(line); strings.Contains(page, "/device?user_code=") {
			if err := signInAt(t.Context(), page); err != nil {
				t.Errorf("approving at %s: %v", page, err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatalf("login: %v\n%s", err, &text)
	}
	token, err := os.ReadFile(file)
	if err != nil || strings.Count(string(token), ".") != 2 || strings.ContainsAny(string(token), " \n") {
		t.Errorf("the file holds %d bytes, error %v; want a token and nothing else", len(token), err)
	}
	if !strings.Contains(text.String(), "flow device") || !strings.Contains(text.String(), "alice@demo.mayfly.test") || strings.Contains(text.String(), string(token)) {
		t.Errorf("the messages must name flow and user, and not show the token:\n%s", &text)
	}
}

// TestTokenFileIsForItsOwnerOnly, whatever stood there before.
func TestTokenFileIsForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	name, victim := filepath.Join(dir, "token"), filepath.Join(dir, "victim")
	write := func() {
		t.Helper()
		if err := writeSecret(name, "secret"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, error %v; want a file of mode 0600", info.Mode(), err)
		}
	}
	write()
	if err := os.Chmod(name, 0o666); err != nil {
		t.Fatal(err)
	}
	write()
	if err := os.WriteFile(victim, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, name); err != nil {
		t.Fatal(err)
	}
	write()
	if left, err := os.ReadFile(victim); err != nil || len(left) != 0 {
		t.Errorf("the token went through a link, into another file: %q, %v", left, err)
	}
	if err := writeSecret(filepath.Join(dir, "absent", "token"), "secret"); err == nil {
		t.Error("a directory that does not exist: no error, want one")
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".mayfly-login-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
