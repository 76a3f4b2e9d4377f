package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func policyCommand() *cobra.Command {
	return group("policy", "Work with the rules that decide who gets a certificate",
		"  mayfly policy explain --token token.jwt --config mayfly.yaml", policyExplainCommand())
}

// maxTokenFile bounds the file of a token.
const maxTokenFile = 128 << 10

func policyExplainCommand() *cobra.Command {
	var path, token string
	var online bool
	cmd := &cobra.Command{
		Use:   "explain --token FILE --config FILE",
		Short: "Say what policy decides about a token, and why",
		Long: `Say which rule of the configuration matches a token, and what name and extensions
its certificate would have; or, rule by rule, which conditions fail and what the
token has instead. The file holds a token or its claims as a JSON object; "-" is
standard input. The token is never printed.

Without --online, the configuration decides and nothing but policy is looked at:
the token may be old or forged. With --online, the running service checks the
token as it would for a certificate, without using it up, and explains its own
policy.

Exit code 0 means that policy lets it pass, 1 that it does not.`,
		Example: `  mayfly policy explain --token token.jwt --config mayfly.yaml
  mayfly login --output - | mayfly policy explain --token - --online --config mayfly.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			text, err := readToken(token, cmd.InOrStdin())
			if err != nil {
				return err
			}
			ask := func() (stack.Explanation, error) { return stack.Explain(cmd.Context(), f, text, time.Now()) }
			if online {
				ask = func() (stack.Explanation, error) { return explainOnline(cmd.Context(), f, text) }
			}
			e, err := ask()
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), e); err != nil {
				return err
			}
			if !e.Allowed() {
				return errors.New("no certificate")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "`file` with the token or its claims; - is standard input (required)")
	cmd.Flags().BoolVar(&online, "online", false, "ask the running service, which checks the token too")
	addConfigFlags(cmd, &path)
	return cmd
}

func readToken(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	switch path {
	case "":
		return nil, errors.New("no token was named; give its file with --token")
	case "-":
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the token: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxTokenFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	if len(text) > maxTokenFile {
		return nil, fmt.Errorf("the token has more than %d bytes", maxTokenFile)
	}
	return bytes.TrimSpace(text), nil
}

func explainOnline(ctx context.Context, f *config.File, token []byte) (stack.Explanation, error) {
	body, err := json.Marshal(map[string]string{"token": string(token)})
	if err != nil {
		return stack.Explanation{}, fmt.Errorf("encoding the request: %w", err)
	}
	var e stack.Explanation
	err = askService(ctx, f, http.MethodPost, "/v1/explain", body, &e)
	return e, err
}
