package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/freeze"
)

// kindArgument is what the first argument is, for whoever left it out.
const kindArgument = "KIND (identity, issuer or key)"

func freezeCommand() *cobra.Command {
	var path, issuer, note string
	cmd := &cobra.Command{
		Use:   "freeze identity|issuer|key VALUE --config FILE",
		Short: "Give an identity, an issuer or a key no certificates for now",
		Long: `Tell the running service that somebody gets no certificate until unfreeze: an
identity by its subject, its email or the name that would be in the certificate;
everybody of an issuer by its name in the configuration; or a client key by the
SHA-256 of its public key in hexadecimal, as the journal has it.

It counts for every request that begins afterwards, survives restarts and is in
the journal. It revokes nothing: certificates that are out live for their ten
minutes. With several replicas, tell each of them.

The command talks to the service's socket in the state directory; whoever may
open that file is an administrator.`,
		Example: `  mayfly freeze identity alice@corp.example --note "laptop stolen" --config mayfly.yaml
  mayfly freeze issuer jenkins --config mayfly.yaml
  mayfly freeze key 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --config mayfly.yaml
  mayfly freeze list --config mayfly.yaml`,
		Args: arguments(kindArgument, "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e := freeze.Entry{Kind: freeze.Kind(args[0]), Value: args[1], Issuer: issuer, Note: note}
			return changeFrozen(cmd, path, http.MethodPost, e, "frozen")
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for the journal and the next administrator")
	addFreezeFlags(cmd, &path, &issuer)
	cmd.AddCommand(freezeListCommand())
	return cmd
}

func unfreezeCommand() *cobra.Command {
	var path, issuer string
	cmd := &cobra.Command{
		Use:     "unfreeze identity|issuer|key VALUE --config FILE",
		Short:   "Take back a freeze",
		Long:    "Take back what freeze said, with the same words. It fails if nothing of that name is frozen.",
		Example: `  mayfly unfreeze identity alice@corp.example --config mayfly.yaml`,
		Args:    arguments(kindArgument, "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e := freeze.Entry{Kind: freeze.Kind(args[0]), Value: args[1], Issuer: issuer}
			return changeFrozen(cmd, path, http.MethodDelete, e, "no longer frozen")
		},
	}
	addFreezeFlags(cmd, &path, &issuer)
	return cmd
}

func freezeListCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "list --config FILE",
		Short:   "List what is frozen",
		Example: `  mayfly freeze list --config mayfly.yaml`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, err := askFrozen(cmd.Context(), cmd, path, http.MethodGet, nil)
			if err != nil {
				return err
			}
			return printFrozen(cmd.OutOrStdout(), entries)
		},
	}
	addConfigFlags(cmd, &path)
	return cmd
}

func addFreezeFlags(cmd *cobra.Command, path, issuer *string) {
	addConfigFlags(cmd, path)
	cmd.Flags().StringVar(issuer, "issuer", "", "limit an identity to the issuer with this `name`")
}

func changeFrozen(cmd *cobra.Command, path, method string, e freeze.Entry, done string) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	if _, err := askFrozen(cmd.Context(), cmd, path, method, body); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %q is %s\n", e.Kind, e.Value, done)
	return err
}

func printFrozen(out io.Writer, entries []freeze.Entry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(out, "nothing is frozen")
		return err
	}
	for _, e := range entries {
		where := ""
		if e.Issuer != "" {
			where = " at " + e.Issuer
		}
		line := fmt.Sprintf("%s  %s %q%s  %s", e.At.UTC().Format(time.RFC3339), e.Kind, e.Value, where, e.Note)
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// askFrozen asks the running service whose configuration is at path.
func askFrozen(ctx context.Context, cmd *cobra.Command, path, method string, body []byte) ([]freeze.Entry, error) {
	f, err := config.Load(path, cmd.Flags())
	if err != nil {
		return nil, err
	}
	var entries []freeze.Entry
	err = askService(ctx, f, method, "/v1/freeze", body, &entries)
	return entries, err
}
