package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/freeze"
)

// maxAdminAnswer bounds what is read from the service: its longest list.
const maxAdminAnswer = 16 << 20

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
		Args: cobra.ExactArgs(2),
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
		Args:    cobra.ExactArgs(2),
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
		Args:    cobra.NoArgs,
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
		if _, err := fmt.Fprintf(out, "%s  %s %q%s  %s\n", e.At.UTC().Format(time.RFC3339), e.Kind, e.Value, where, e.Note); err != nil {
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
	req, err := http.NewRequestWithContext(ctx, method, "http://mayfly/v1/freeze", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	resp, err := stack.AdminClient(f.State).Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the service at %s: %w; is it running, and may you open its socket?", stack.AdminSocket(f.State), err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the service's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ Error string }
		if json.Unmarshal(data, &refusal) != nil || refusal.Error == "" {
			return nil, fmt.Errorf("the service answered with status %d", resp.StatusCode)
		}
		return nil, errors.New(refusal.Error)
	}
	var entries []freeze.Entry
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("reading the service's answer: %w", err)
	}
	return entries, nil
}
