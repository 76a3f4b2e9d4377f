package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func logStatusCommand() *cobra.Command {
	var path, output string
	var online, trusted bool
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Say what each log and shard holds and does",
		Long: `Say for each shard of the log in the state directory what it is called, which key
it has, how many entries its checkpoint covers and how old that is, since when it
takes entries and until when, how much space is left, and what the checkpoint
record outside the directory has.

Without --online, the files decide, also beside a running service. With --online,
the running service tells what it does: whether a shard refuses or has stopped, and
why. mayfly log serve cannot be asked so: see its /readyz and metrics.

With --trusted, it prints the entries that the other replicas need under
trusted_logs, instead. They change when a shard is made.

Exit code 0 means that some log takes entries, 1 that none does, 2 that the
configuration is wrong.`,
		Example: `  mayfly log status --config /etc/mayfly/mayfly.yaml
  mayfly log status --online --output json --config mayfly.yaml
  mayfly log status --trusted --config mayfly.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			var status stack.LogsStatus
			if online {
				err = askService(cmd.Context(), f, http.MethodGet, "/v1/logs", nil, &status)
			} else {
				status, err = stack.OfflineLogs(cmd.Context(), f, time.Now())
			}
			if err != nil {
				return err
			}
			return showLogs(cmd.OutOrStdout(), status, output, trusted)
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "ask the running service")
	cmd.Flags().BoolVar(&trusted, "trusted", false, "print the trusted_logs of other replicas")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	addConfigFlags(cmd, &path)
	return cmd
}

func showLogs(out io.Writer, status stack.LogsStatus, format string, trusted bool) error {
	var err error
	switch {
	case trusted:
		_, err = io.WriteString(out, trustedText(status))
		return err
	case format == "json":
		err = printJSON(out, status)
	default:
		_, err = io.WriteString(out, logsStatusText(status))
	}
	if err == nil && !status.Ready {
		err = errors.New(status.Problem)
	}
	return err
}

func logsStatusText(status stack.LogsStatus) string {
	var b strings.Builder
	for _, l := range status.Logs {
		if l.Remote != "" {
			fmt.Fprintf(&b, "log %s: remote, %s\n", l.Name, l.Remote)
			continue
		}
		fmt.Fprintf(&b, "log %s: %s\n", l.Name, count(len(l.Shards), "shard"))
		for _, s := range l.Shards {
			shardText(&b, s, status.Time)
		}
	}
	if len(status.Logs) == 0 {
		b.WriteString("no logs: the configuration says logs: disabled\n")
	}
	return b.String()
}

func shardText(b *strings.Builder, s stack.ShardStatus, now time.Time) {
	fmt.Fprintf(b, "  %s: %s", s.Name, s.State)
	switch s.State {
	case stack.ShardWaiting:
		fmt.Fprintf(b, ", takes entries from %s", stamp(s.Activate))
	case stack.ShardFrozen:
		fmt.Fprintf(b, " since %s", stamp(s.Frozen))
	default:
		if !s.Until.IsZero() {
			fmt.Fprintf(b, ", to be frozen %s", stamp(s.Until))
		}
	}
	b.WriteByte('\n')
	if s.Problem != "" {
		fmt.Fprintf(b, "    %s\n", s.Problem)
	}
	fmt.Fprintf(b, "    origin      %s\n    log id      %s\n    instance    %s\n    key         %s\n", s.Origin, s.LogID, s.Instance, s.Key)
	if !s.Checkpoint.IsZero() {
		fmt.Fprintf(b, "    checkpoint  %s, of %s (%s ago)\n    root        %s\n", entries(s.Size), stamp(s.Checkpoint),
			now.Sub(s.Checkpoint).Round(time.Second), s.Root)
	}
	if !s.LastEntry.IsZero() {
		fmt.Fprintf(b, "    last entry  %s\n", stamp(s.LastEntry))
	}
	if s.FreeBytes > 0 {
		fmt.Fprintf(b, "    free        %d MiB at %s\n", s.FreeBytes>>20, s.Directory)
	}
	switch {
	case s.RecordProblem != "":
		fmt.Fprintf(b, "    record      %s\n", s.RecordProblem)
	case s.Record != "":
		fmt.Fprintf(b, "    record      %s, of %s, in %s\n", entries(s.RecordSize), stamp(s.RecordTime), s.Record)
	case s.State == stack.ShardWritable:
		b.WriteString("    record      none: an old copy that was restored would go unnoticed; set checkpoint_record\n")
	}
}

// trustedText is what other replicas write to have their clients trust this log.
func trustedText(status stack.LogsStatus) string {
	b := strings.Builder{}
	b.WriteString("# copy each public key beside the configuration of the other replica\ntrusted_logs:\n")
	for _, l := range status.Logs {
		for _, s := range l.Shards {
			fmt.Fprintf(&b, "  # key: %s\n  - {name: replica-%s, url: %s, public_key: replica-%s.pub, from: %s", s.PublicKey, s.Name, s.URL, s.Name, exact(s.Created))
			if !s.Until.IsZero() {
				fmt.Fprintf(&b, ", until: %s", exact(s.Until))
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

// exact is a time as the trust files have it.
func exact(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.999Z07:00") }
