package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func configCommand() *cobra.Command {
	return group("config", "Work with the configuration", "  mayfly config check mayfly.yaml", configCheckCommand(), importFulcioCommand())
}

func configCheckCommand() *cobra.Command {
	var (
		path   string
		online bool
	)
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration, without the network unless told to",
		Long: `Make every check that serve makes at its start and that needs no network:
names and types, files, chains (path, key, usage, validity), server certificate,
issuers, names that two issuers could both vouch for, log keys, the log in the
box. Every problem is printed with its line and key path.

It opens nothing that a running service holds, and loads no PKCS#11 library: that
a token holds a key is believed. With --online it logs in to the tokens that
chains name, once each, and has each key sign once; mayfly hsm doctor says more.

Exit code 0 means that there is no problem, 2 that there are some, 1 that the file
could not be read.`,
		Example: `  mayfly config check mayfly.yaml
  mayfly config check --online mayfly.yaml
  mayfly config check /etc/mayfly/mayfly.yaml && systemctl restart mayfly`,
		Args: func(cmd *cobra.Command, args []string) error {
			if path != "" { // as all the other commands have it
				return arguments()(cmd, args)
			}
			return arguments("FILE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if path == "" {
				path = args[0]
			}
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			if problems := stack.Check(f, time.Now()); len(problems) > 0 {
				return problems
			}
			if online {
				if problems := stack.CheckOnline(cmd.Context(), f, time.Now()); len(problems) > 0 {
					return problems
				}
			}
			for i, l := range f.Logs.List {
				if l.Embedded != nil && l.Embedded.CheckpointRecord == "" {
					cmd.Println(f.Problem(fmt.Sprintf("logs[%d].embedded", i), "note: without checkpoint_record, "+
						"an old copy of the log that was restored goes unnoticed; name a file on another disk"))
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: no problems (%s, %s, %s)\n", f.Path,
				count(len(f.Issuers), "issuer"), count(len(f.Chains), "chain"), logsText(f.Logs))
			return err
		},
	}
	addServiceFlags(cmd, &path)
	cmd.Flags().Lookup("config").Usage = "configuration `file`, in place of the argument"
	cmd.Flags().BoolVar(&online, "online", false, "also log in to the tokens that hold CA keys")
	return cmd
}

func logsText(l config.Logs) string {
	if l.Disabled {
		return "logs disabled"
	}
	return count(len(l.List), "log")
}
