package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/memory"
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

Without a configuration it refuses to start. The configuration and the files that
it names are read again on a HUP signal, on mayfly reload and when they change;
what is wrong with them then is logged, and the configuration before stays in
use. Some settings may be given as variables or flags,
which win over the file; the flags below name them, and the variable of
--listen-address is MAYFLY_LISTEN_ADDRESS.

Exit codes: 0 after an orderly stop, 1 after a failure, 2 when the
configuration is wrong.`,
		Example: `  mayfly serve --config /etc/mayfly/mayfly.yaml
  MAYFLY_LOGGING_LEVEL=debug mayfly serve --config mayfly.yaml
  mayfly serve --config mayfly.yaml --listen-address 127.0.0.1:8443`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, o, err := serviceOptions(cmd, path)
			if err != nil {
				return err
			}
			s, err := stack.Open(cmd.Context(), f, o)
			if err != nil {
				return err
			}
			defer memory.Relax()()
			o.Logger.LogAttrs(cmd.Context(), slog.LevelInfo, "mayfly starts", startFacts(f)...)
			defer reloadOnHangup(s)()
			return s.Run(cmd.Context())
		},
	}
	addServiceFlags(cmd, &path)
	return cmd
}

// serviceOptions loads the configuration of a service and makes of it, and of the
// flags, what a service is opened with.
func serviceOptions(cmd *cobra.Command, path string) (*config.File, stack.Options, error) {
	load := func() (*config.File, error) { return config.Load(path, cmd.Flags()) }
	f, err := load()
	if err != nil {
		return nil, stack.Options{}, err
	}
	level := new(slog.LevelVar)
	setLevel(level, f.Logging)
	return f, stack.Options{
		Version: versionText(), Logger: newLogger(f.Logging, level, cmd.ErrOrStderr()), Load: load,
		Reloaded: func(f *config.File) { setLevel(level, f.Logging) },
	}, nil
}

// startFacts is what a service says of itself when it starts.
func startFacts(f *config.File) []slog.Attr {
	return []slog.Attr{
		slog.String("version", versionText()), slog.String("config", f.Path),
		slog.String("config_digest", fmt.Sprintf("%x", f.Digest)), slog.Int("pid", os.Getpid()),
	}
}

// addServiceFlags adds --config and the settings that flags may override.
func addServiceFlags(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "configuration `file` (required)")
	config.AddFlags(cmd.Flags())
}

// addConfigFlags adds the same to a command that starts no service. Whoever started
// the service with settings as flags may give them here, too, but a dozen of them
// in each command's help would hide its own.
func addConfigFlags(cmd *cobra.Command, path *string) {
	addServiceFlags(cmd, path)
	for _, s := range config.Scalars() {
		cmd.Flags().Lookup(s.Flag).Hidden = s.Flag != "state"
	}
}

// reloadOnHangup reloads the configuration at each HUP signal until the returned
// function is called, which waits for the reload under way.
func reloadOnHangup(s *stack.Stack) (stop func()) {
	return onHangup(func(ctx context.Context) { _, _ = s.Reload(ctx, "HUP signal") }) // it has told why not
}

// onHangup calls reload at each HUP signal, one after the other, until the returned
// function is called, which waits for the one under way.
func onHangup(reload func(context.Context)) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				reload(ctx)
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		cancel()
		<-done
	}
}

func setLevel(v *slog.LevelVar, c config.Logging) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked the word
	v.Set(level)
}

func newLogger(c config.Logging, level slog.Leveler, w io.Writer) *slog.Logger {
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
