package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/memory"
	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
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
			f, o, err := serviceOptions(cmd, path)
			if err != nil {
				return err
			}
			l, err := stack.OpenLogServer(cmd.Context(), f, o)
			if err != nil {
				return err
			}
			defer memory.Relax()()
			o.Logger.LogAttrs(cmd.Context(), slog.LevelInfo, "mayfly log starts", startFacts(f)...)
			defer onHangup(func(ctx context.Context) { _ = l.Reload(ctx) })() // it has told why not
			return l.Run(cmd.Context())
		},
	}
	addServiceFlags(cmd, &path)
	return cmd
}
