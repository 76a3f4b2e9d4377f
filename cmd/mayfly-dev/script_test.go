package main

import (
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/scripttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly-dev": main})
}

// TestScripts runs testdata/*.txtar, which say what the program does. They meet
// the real mayfly too: it has to refuse what the demonstration made.
func TestScripts(t *testing.T) {
	scripttest.Run(t, "testdata", map[string]string{"mayfly": buildMayfly(t)})
}

// buildMayfly builds mayfly as this test was built, so that what is already
// compiled is used.
func buildMayfly(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mayfly")
	args := []string{"build", "-buildvcs=false", "-o", file}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				args = append(args, "-race")
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "github.com/mayfly-ca/mayfly/cmd/mayfly")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building mayfly: %v\n%s", err, out)
	}
	return file
}

// TestEveryCommandHasAnExample: see the test of that name in cmd/mayfly.
func TestEveryCommandHasAnExample(t *testing.T) {
	for _, cmd := range append([]*cobra.Command{root()}, root().Commands()...) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: short text %q, example %q; both are wanted", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
	}
}
