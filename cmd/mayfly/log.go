package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

func logCommand() *cobra.Command {
	return group("log", "Work with the transparency log in the box", "  mayfly log init --config /etc/mayfly/mayfly.yaml", logInitCommand())
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

It overwrites nothing. Back up what it made; the key cannot be made again.`,
		Example: `  mayfly log init --config /etc/mayfly/mayfly.yaml`,
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			return initLog(cmd, f)
		},
	}
	addConfigFlags(cmd, &path)
	return cmd
}

func initLog(cmd *cobra.Command, f *config.File) error {
	for _, l := range f.Logs.List {
		if l.Embedded == nil {
			continue
		}
		public, err := url.Parse(f.PublicURL)
		if err != nil {
			return fmt.Errorf("reading public_url: %w", err)
		}
		dir := stack.LogDir(f.State, l.Name)
		origin := strings.ToLower(public.Host) + public.Path + stack.LogPath(l.Name)
		info, err := embedded.Init(cmd.Context(), embedded.InitConfig{Dir: dir, Origin: origin})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), `log %q is made
  directory   %s
  origin      %s
  instance    %s
  log id      %x
  public key  %s
Next: back up %s, then run: mayfly config check %s
`, l.Name, dir, info.Origin, info.InstanceID, info.LogID, info.PublicKeyFile, dir, f.Path)
		return err
	}
	return errors.New("the configuration has no embedded log; add one under logs, such as: - {name: local, embedded: {}}")
}
