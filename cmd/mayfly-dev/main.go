// Command mayfly-dev is the whole of Mayfly on this machine's loopback, for
// trying it: a demonstration PKI made on the spot, the transparency log in the
// box and a demo OpenID provider with a real login page. Nothing it makes is to
// be trusted, and mayfly serve refuses its state.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/memory"
	"github.com/mayfly-ca/mayfly/cmd/mayfly-dev/provider"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	release := memory.Relax()
	err := root().ExecuteContext(ctx)
	release()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "mayfly-dev: %v\n", err)
		os.Exit(1)
	}
}

// Defaults of flags that the printed commands leave out.
const (
	defaultState    = "demo-state"
	defaultProvider = "127.0.0.1:8451"
)

// settings are the flags.
type settings struct {
	state, address, provider string
	verbose                  bool
}

func root() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "mayfly-dev",
		Short: "Mayfly with a demonstration PKI, log and login page, on loopback",
		Long: `Run everything that a keyless certificate authority needs on this machine's
loopback, until interrupted: an organization root with an intermediate below it,
made on the spot; the certificate transparency log in the box; an OpenID provider
with a login page. It prints cosign commands, ready to paste.

It is for trying things. Trust nothing that is signed by it.`,
		Example: `  mayfly-dev                     # left running, for cosign and friends
  mayfly-dev demo                # the whole way once, each step told
  mayfly-dev --state /tmp/try    # keep PKI and log somewhere else`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runDev(cmd, s) },
	}
	cmd.PersistentFlags().StringVar(&s.state, "state", defaultState, "`directory` for PKI, log and journal; made when missing")
	cmd.PersistentFlags().BoolVarP(&s.verbose, "verbose", "v", false, "show the service's own log")
	cmd.Flags().StringVar(&s.address, "listen", "127.0.0.1:8450", "loopback address of the CA")
	cmd.PersistentFlags().StringVar(&s.provider, "provider", defaultProvider, "loopback address of the OpenID provider")
	cmd.AddCommand(demoCommand(&s), tokenCommand(&s))
	return cmd
}

func demoCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "A token in, a logged ten-minute certificate out, each step told",
		Long: `Start everything on free ports, sign in at the OpenID provider's login page, get
a certificate for an ephemeral key, sign a file, and verify the signature, the
chain to the root, the SCT and the entry's inclusion in the log. Then stop.`,
		Example: `  mayfly-dev demo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.address, s.provider = "127.0.0.1:0", "127.0.0.1:0"
			return runDemo(cmd.Context(), cmd.OutOrStdout(), *s)
		},
	}
}

func tokenCommand(s *settings) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Sign in at a running mayfly-dev without a browser and print the ID token",
		Long: `Go through the login page of the running demonstration's OpenID provider as a
browser would, and print the ID token. It is for machines without a browser.`,
		Example: `  SIGSTORE_ID_TOKEN=$(mayfly-dev token) cosign sign-blob ...`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := provider.New(provider.Config{Issuer: "http://" + s.provider})
			if err != nil {
				return err
			}
			token, err := p.SignIn(cmd.Context(), nil, user)
			if _, unreachable := errors.AsType[*net.OpError](err); unreachable {
				return fmt.Errorf("%w; is mayfly-dev running, and with which --provider?", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", demoUser, "who signs in")
	return cmd
}

func runDev(cmd *cobra.Command, s settings) error {
	w, err := startWorld(cmd.Context(), s)
	if err != nil {
		return err
	}
	printHints(cmd.OutOrStdout(), w)
	err = w.wait(cmd.Context())
	fmt.Fprintln(cmd.OutOrStdout(), "\nstopped")
	return err
}

func (s settings) logger() *slog.Logger {
	if !s.verbose {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
