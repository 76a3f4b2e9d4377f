package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func reloadCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "reload --config FILE",
		Short: "Have the running service read its configuration again",
		Long: `Have the running service take its configuration, and every file that the
configuration names, into use now, and say what is wrong with them if it does not.
The service then goes on with the configuration that it has. Requests under way
end under the one that they began with.

It does so by itself too, within a second of a change where the file system tells
of changes and within 30 seconds elsewhere, and on a HUP signal. What a reload
cannot change, such as listen.address, it names; that takes a new start.`,
		Example: `  mayfly reload --config /etc/mayfly/mayfly.yaml
  mayfly reload --config mayfly.yaml   # says what is wrong, if anything`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			var done stack.Reloaded
			if err := askService(cmd.Context(), f, http.MethodPost, "/v1/reload", nil, &done); err != nil {
				return err
			}
			if done.Previous == done.Digest {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "reloaded; the configuration has not changed (%.16s), the files that it names were read again\n", done.Digest)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "reloaded; the configuration changed from %.16s to %.16s\n", done.Previous, done.Digest)
			}
			return err
		},
	}
	addConfigFlags(cmd, &path)
	return cmd
}
