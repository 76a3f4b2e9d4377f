package main

import (
	"regexp"
	"strings"
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

// An example is copied; a flag in it that there is not is the reader's first
// error.
func TestExamplesUseFlagsThatThereAre(t *testing.T) {
	top := root()
	invocation := regexp.MustCompile(`\bmayfly ([^|)#\n]+)`)
	flag := regexp.MustCompile(`\s--([a-z-]+)`)
	found := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, line := range invocation.FindAllStringSubmatch(cmd.Example, -1) {
			named, _, err := top.Find(strings.Fields(line[1]))
			if err != nil || named == top {
				t.Errorf("example of %q: %q names no command: %v", cmd.CommandPath(), line[0], err)
				continue
			}
			for _, f := range flag.FindAllStringSubmatch(line[1], -1) {
				found++
				if named.Flag(f[1]) == nil {
					t.Errorf("example of %q: %q has no flag --%s", cmd.CommandPath(), named.CommandPath(), f[1])
				}
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(top)
	if found < 10 {
		t.Errorf("%d flags were found in examples; does this test still read them?", found)
	}
}
