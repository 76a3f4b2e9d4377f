package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func logCommand() *cobra.Command {
	return group("log", "Work with the transparency log in the box", "  mayfly log init --config /etc/mayfly/mayfly.yaml\n  mayfly log status --config /etc/mayfly/mayfly.yaml",
		logInitCommand(), logStatusCommand(), logFsckCommand(), logFindCommand(), logRotateCommand(), logAuditCommand(), logServeCommand())
}

func logInitCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make the key, origin and instance of the embedded log",
		Long: `Make the embedded log that the configuration names, once: its P-256 key, its
origin (the public URL of its read path without the scheme) and its empty tree,
below the state directory. serve never does this by itself, so that a lost state
directory cannot quietly become a second log under the same name.

If the configuration names a key under the log, in a file or on a token, that one
is used; it must exist, and no other log may have it.

It overwrites nothing. Back up what it made; the key cannot be made again.`,
		Example: `  mayfly log init --config /etc/mayfly/mayfly.yaml`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			made, err := stack.MakeShard(cmd.Context(), f, "", time.Time{})
			if err != nil {
				return err
			}
			if err := printShard(cmd.OutOrStdout(), made); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Next: back up %s, then run: mayfly config check %s\n", made.Dir, f.Path)
			return err
		},
	}
	addConfigFlags(cmd, &path)
	return cmd
}

func printShard(out io.Writer, s stack.Shard) error {
	_, err := fmt.Fprintf(out, `log %q is made
  directory   %s
  origin      %s
  instance    %s
  log id      %x
  public key  %s
`, s.Name, s.Dir, s.Info.Origin, s.Info.InstanceID, s.Info.LogID, s.Info.PublicKeyFile)
	return err
}

// shardsOf lists the shards of the configuration's embedded log, or the one of
// that name, with the log's entry.
func shardsOf(f *config.File, only string) ([]stack.Shard, config.Log, error) {
	i, err := stack.EmbeddedLog(f)
	if err != nil {
		return nil, config.Log{}, err
	}
	l := f.Logs.List[i]
	all, err := stack.Shards(f.State, l.Name)
	if err != nil || only == "" {
		return all, l, err
	}
	for _, s := range all {
		if s.Name == only {
			return []stack.Shard{s}, l, nil
		}
	}
	return nil, l, fmt.Errorf("there is no log %q in the state directory; mayfly log status lists them", only)
}

// checkOutput refuses a format that there is not before any work is done.
func checkOutput(format string) error {
	if format != "text" && format != "json" {
		return errors.New("--output is text or json")
	}
	return nil
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// entries counts entries in words.
func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
