package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func logServeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the embedded log alone, for others to submit to",
		Long: `Serve the log of the state directory without a certificate authority: RFC 6962
submission at the address of logs[].embedded.submission, for clients with a
certificate under its client_ca and for certificates of its issuers; and the read
path at listen.address, for everybody. Several replicas of mayfly serve can use it
as their remote log.

The configuration needs neither issuers nor chains. Make the log beforehand with
mayfly log init, as for mayfly serve. The certificates that the configuration
names are read again when they change; a HUP signal also takes a shard into use
that mayfly log rotate has made. A TERM or INT signal lets submissions under way
finish within the configured bound and stops.

Exit codes: 0 after an orderly stop, 1 after a failure, 2 when the
configuration is wrong.`,
		Example: `  mayfly log init --config log.yaml
  mayfly log serve --config log.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			setLevel(level, f.Logging)
			logger := newLogger(f.Logging, level, cmd.ErrOrStderr())
			l, err := stack.OpenLogServer(cmd.Context(), f, stack.Options{
				Version: versionText(), Logger: logger,
				Load: func() (*config.File, error) { return config.Load(path, cmd.Flags()) },
			})
			if err != nil {
				return err
			}
			logger.Info("mayfly log starts", "version", versionText(), "config", f.Path,
				"config_digest", fmt.Sprintf("%x", f.Digest), "pid", os.Getpid())
			defer onHangup(func(ctx context.Context) { _ = l.Reload(ctx) })() // it has told why not
			return l.Run(cmd.Context())
		},
	}
	addServiceFlags(cmd, &path)
	return cmd
}
