package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const guides = "../../docs/pki/"

// blocks returns the console blocks of a page, which are what is typed.
func blocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(guides + page)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	if len(found) == 0 {
		t.Fatalf("%s has no console block; does this test still read it?", page)
	}
	return found
}

// typed runs commands in a directory as somebody at a terminal would.
func typed(t *testing.T, dir, commands, input string) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sh", "-eu", "-c", commands)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("typing\n%s\n%v\n%s", commands, err, out)
	}
	return string(out)
}

// The page is typed as it stands, with OpenSSL as the organization's PKI. What is
// not on it is the passphrase that the root's owner has chosen.
func TestOpenSSLGuideAsTyped(t *testing.T) {
	dir := t.TempDir()
	typed(t, dir, "umask 077; openssl rand -base64 24 > root.pass", "")
	out := typed(t, dir, strings.Join(blocks(t, "openssl.md"), "\n"), "")
	// What was told over the telephone is what the offline machine shows.
	sum := regexp.MustCompile(`key SHA-256 +([0-9a-f]{64})`).FindStringSubmatch(out)
	if sum == nil || strings.Count(out, sum[1]) < 2 {
		t.Errorf("the key's SHA-256 %q is not shown by both machines:\n%s", sum, out)
	}
	for _, want := range []string{"written to chain.pem", "issued.pem: OK", "ok       extended-key-usage", "ok       path-length"} {
		if !strings.Contains(out, want) {
			t.Errorf("typing openssl.md does not show %q:\n%s", want, out)
		}
	}
}

func TestCeremonyGuideAsTyped(t *testing.T) {
	dir := t.TempDir()
	typed(t, dir, strings.Join(blocks(t, "README.md"), "\n"), "yes\n")
	entries, err := os.ReadDir(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(guides + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.Contains(string(page), "| `"+e.Name()+"` |") {
			t.Errorf("ca init makes %s, which the table in README.md does not explain", e.Name())
		}
	}
}

// Where the PKI cannot be run here, what is typed of ours has flags that there are.
func TestGuidesUseFlagsThatThereAre(t *testing.T) {
	top, flag := root(), regexp.MustCompile(`\s--([a-z-]+)`)
	for _, page := range []string{"README.md", "openssl.md", "adcs.md", "ejbca.md", "openbao.md"} {
		for _, line := range strings.Split(strings.Join(blocks(t, page), ""), "\n") {
			rest, ours := strings.CutPrefix(line, "mayfly ")
			if !ours {
				continue
			}
			named, _, err := top.Find(strings.Fields(rest))
			if err != nil || named == top {
				t.Errorf("%s: %q names no command: %v", page, line, err)
				continue
			}
			for _, f := range flag.FindAllStringSubmatch(line, -1) {
				if named.Flag(f[1]) == nil {
					t.Errorf("%s: %q: there is no flag --%s", page, line, f[1])
				}
			}
		}
	}
}
