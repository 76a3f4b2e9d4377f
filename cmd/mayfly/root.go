package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = "devel"

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mayfly",
		Short: "A private keyless certificate authority",
		Long: `Mayfly verifies OIDC tokens of your identity providers and issues ten-minute
code-signing certificates, each logged in a certificate transparency log and
chained to your organization's PKI. It speaks the API of Sigstore's Fulcio, so
cosign, gitsign and the other Sigstore clients work with it unmodified.

To try it without any set-up, run mayfly-dev instead.`,
		Example: `  mayfly config check mayfly.yaml        # every problem, with line and key
  mayfly log init --config mayfly.yaml   # once: the key of the log in the box
  mayfly serve --config mayfly.yaml
  mayfly audit verify /var/lib/mayfly/audit`,
		Args:          commandName,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionText(),
	}
	cmd.AddCommand(serveCommand(), reloadCommand(), configCommand(), logCommand(), auditCommand(), caCommand(), policyCommand(), freezeCommand(), unfreezeCommand(), loginCommand(), issuerCommand(), hsmCommand(), versionCommand())
	return cmd
}

// group is a command that only holds others. Without one of them it shows its
// help.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:     use + " COMMAND",
		Short:   short,
		Example: example,
		Args:    commandName,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// commandName refuses the name of a command that there is not, with those that are
// nearly the same.
func commandName(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	unknown := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%s; did you mean %s? See %s --help", unknown, strings.Join(near, " or "), cmd.CommandPath())
	}
	return fmt.Errorf("%s; see %s --help", unknown, cmd.CommandPath())
}

// arguments demands one argument for each name, and says in words what is
// missing or too much: cobra takes the file in "serve mayfly.yaml" for an unknown
// command.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s needs a %s; see %[1]s --help", cmd.CommandPath(), names[len(args)])
		}
		if len(args) == len(names) {
			return nil
		}
		extra := args[len(names)]
		if cmd.Flags().Lookup("config") != nil {
			return fmt.Errorf("%s takes no argument %q; a configuration is named with --config", cmd.CommandPath(), extra)
		}
		return fmt.Errorf("%s takes no argument %q; see %[1]s --help", cmd.CommandPath(), extra)
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  mayfly version`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "mayfly", versionText())
			return err
		},
	}
}

func versionText() string {
	revision := "unknown revision"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return fmt.Sprintf("%s (%s, %s, %s/%s)", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
