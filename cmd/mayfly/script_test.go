package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/scripttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly": main, "demo-provider": demoProvider, "browser": browser})
}

// TestScripts runs testdata/*.txtar, which say what the program does.
func TestScripts(t *testing.T) { scripttest.Run(t, "testdata", nil) }

// TestEveryCommandHasAnExample: what to type is what most people look for in a
// help text.
func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: short text %q, example %q; both are wanted", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root())
}
