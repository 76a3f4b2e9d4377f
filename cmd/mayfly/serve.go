package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func serveCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the certificate authority",
		Long: `Serve REST and gRPC on one port until a TERM or INT signal arrives, then let
requests under way finish within the configured bound and stop.

Without a configuration it refuses to start. The server certificate is read
again when its files change. Some settings may be given as variables or flags,
which win over the file; the flags below name them, and the variable of
--listen-address is MAYFLY_LISTEN_ADDRESS.

Exit codes: 0 after an orderly stop, 1 after a failure, 2 when the
configuration is wrong.`,
		Example: `  mayfly serve --config /etc/mayfly/mayfly.yaml
  MAYFLY_LOGGING_LEVEL=debug mayfly serve --config mayfly.yaml
  mayfly serve --config mayfly.yaml --listen-address 127.0.0.1:8443`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			logger := newLogger(f.Logging, cmd.ErrOrStderr())
			s, err := stack.Open(cmd.Context(), f, stack.Options{Version: versionText(), Logger: logger})
			if err != nil {
				return err
			}
			logger.Info("mayfly starts", "version", versionText(), "config", f.Path,
				"config_digest", fmt.Sprintf("%x", f.Digest), "pid", os.Getpid())
			return s.Run(cmd.Context())
		},
	}
	addConfigFlags(cmd, &path)
	return cmd
}

// addConfigFlags adds --config and the settings that flags may override.
func addConfigFlags(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "configuration `file` (required)")
	config.AddFlags(cmd.Flags())
}

func newLogger(c config.Logging, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked the word
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = func(_ []string, a slog.Attr) slog.Attr {
		// slog writes a bare number of nanoseconds, which nobody can read.
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
