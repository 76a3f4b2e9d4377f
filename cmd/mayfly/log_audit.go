package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/auditor"
)

// logAudit is what the command was told.
type logAudit struct {
	config   string
	log      string
	journals []string
	state    string
	once     bool
	output   string
}

func logAuditCommand() *cobra.Command {
	var o logAudit
	cmd := &cobra.Command{
		Use:   "audit --config FILE",
		Short: "Compare what is in the logs with what the journals say was issued",
		Long: `Read the logs of the configuration, verify their heads, prove that each tree
extends the one that was seen before, and look for an intent in the audit journals
for every entry under one of the configuration's issuing keys, and for the entry
of every SCT in the journals. An entry that no journal knows means that a CA key
was used behind the back of the service.

serve does this by itself, every log_audit.interval, and shows it in readiness,
metrics, log and journal. This command is for another machine, which whoever has
taken over the service's has not: list the log there as a remote one with a
monitoring_url, and name copies of all replicas' journals with --journal. What it
knows is kept in --dir, by default auditor in the state directory.

With --once it ends when everything was read. The exit code is 1 when there is an
alarm or when not everything could be read, and 0 when all is well. Without, it
goes on until a signal arrives. docs/log-audit.md says what to do about alarms.`,
		Example: `  mayfly log audit --once --config auditor.yaml --journal /srv/journals/ca-1 --journal /srv/journals/ca-2
  mayfly log audit accept --config auditor.yaml ID "incident 7: drill of 2026-11-22"`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.output != "text" && o.output != "json" {
				return errors.New("--output is text or json")
			}
			f, err := config.Load(o.config, cmd.Flags())
			if err != nil {
				return err
			}
			return o.run(cmd, f)
		},
	}
	cmd.Flags().BoolVar(&o.once, "once", false, "end when everything was read")
	cmd.Flags().StringVar(&o.log, "log", "", "audit only the log, or the shard of one, of that `name`")
	cmd.Flags().StringArrayVar(&o.journals, "journal", nil, "`directory` with a copy of a replica's audit journal; may be repeated")
	cmd.Flags().StringVar(&o.state, "dir", "", "`directory` for what the audit knows")
	cmd.Flags().StringVarP(&o.output, "output", "o", "text", "`format`: text or json, one object for each round")
	addConfigFlags(cmd, &o.config)
	cmd.AddCommand(logAuditAcceptCommand())
	return cmd
}

func logAuditAcceptCommand() *cobra.Command {
	var path, state string
	cmd := &cobra.Command{
		Use:   "accept --config FILE ID NOTE",
		Short: "Note that a finding of the log audit was looked into",
		Long: `Note that a finding was looked into, and what came out of it. Its alarm ends with
the next round of the audit, of the service or of mayfly log audit. The finding is
named by the id that its alarm shows.`,
		Example: `  mayfly log audit accept --config /etc/mayfly/mayfly.yaml 5f0c...9e "incident 7: the offline drill of 2026-11-22"`,
		Args:    arguments("ID", "NOTE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			if state == "" {
				state = stack.AuditorDir(f.State)
			}
			if err := auditor.Accept(state, args[0], args[1]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "noted; the alarm ends with the next round\n")
			return err
		},
	}
	cmd.Flags().StringVar(&state, "dir", "", "`directory` of what the audit knows")
	addConfigFlags(cmd, &path)
	return cmd
}

// targets is what to audit, as the configuration says it now.
func (o *logAudit) targets(f *config.File) (auditor.Targets, error) {
	t, err := stack.AuditTargets(f, o.journals)
	if err != nil {
		return t, err
	}
	if len(t.Journals) == 0 {
		return t, errors.New("there is no journal to compare with; name copies of all replicas' journals with --journal")
	}
	if o.log != "" {
		t.Logs = slices.DeleteFunc(t.Logs, func(l auditor.Log) bool { return l.Name != o.log })
	}
	if len(t.Logs) == 0 {
		return t, fmt.Errorf("the configuration has no log %q", o.log)
	}
	return t, nil
}

func (o *logAudit) run(cmd *cobra.Command, f *config.File) error {
	if _, err := o.targets(f); err != nil {
		return err
	}
	if o.state == "" {
		o.state = stack.AuditorDir(f.State)
	}
	level := new(slog.LevelVar)
	setLevel(level, f.Logging)
	var printErr error
	c := auditor.Config{
		Dir: o.state, Interval: f.LogAudit.Interval,
		Targets: func() (auditor.Targets, error) { return o.targets(f) },
	}
	if !o.once {
		c.Logger = newLogger(f.Logging, level, cmd.ErrOrStderr())
		c.Reported = func(r auditor.Report) { printErr = errors.Join(printErr, printAudit(cmd.OutOrStdout(), r, o.output)) }
	}
	a, err := auditor.Open(c)
	if errors.Is(err, auditor.ErrLocked) {
		return fmt.Errorf("%w; the service has its own audit, so give this one another directory with --dir", err)
	}
	if err != nil {
		return err
	}
	if !o.once {
		a.Run(cmd.Context())
		return errors.Join(a.Close(), printErr, verdict(a.Report()))
	}
	r := onceThrough(cmd.Context(), a)
	return errors.Join(a.Close(), printAudit(cmd.OutOrStdout(), r, o.output), verdict(&r))
}

// onceThrough goes rounds until everything was read, or until there is no way on.
func onceThrough(ctx context.Context, a *auditor.Auditor) auditor.Report {
	for read := uint64(0); ; {
		r := a.Round(ctx)
		sum := uint64(1)
		for _, l := range r.Logs {
			sum += l.Read
		}
		for _, j := range r.Journals {
			sum += j.Records
		}
		if r.CaughtUp || ctx.Err() != nil || sum == read {
			return r
		}
		read = sum
	}
}

// verdict is why the exit code is not 0.
func verdict(r *auditor.Report) error {
	switch {
	case r == nil:
		return errors.New("nothing was audited")
	case len(r.Alarms) > 0:
		return fmt.Errorf("%s; see docs/log-audit.md", count(len(r.Alarms), "alarm"))
	case !r.CaughtUp:
		return errors.New("not everything could be read")
	}
	return nil
}

func printAudit(out io.Writer, r auditor.Report, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	p := printer{out: out}
	p.line("audit of %s", r.Time.Format(time.RFC3339))
	for _, l := range r.Logs {
		p.line("  log %-20s %d entries proven, %d read now: %d ours, %d of others; head of %s", l.Name, l.Size, l.Ours+l.Others, l.Ours, l.Others, l.Time.Format(time.RFC3339))
		if l.Problem != "" {
			p.line("    problem: %s", l.Problem)
		}
	}
	for _, j := range r.Journals {
		until := "nothing of it is known to be whole"
		if !j.Until.IsZero() {
			until = "whole until " + j.Until.UTC().Format(time.RFC3339)
		}
		p.line("  journal %s: %d records, %s", j.Name, j.Records, until)
		if j.Problem != "" {
			p.line("    problem: %s", j.Problem)
		}
	}
	if r.Pending > 0 {
		p.line("  entries that wait for newer copies of journals: %d", r.Pending)
	}
	if r.Promised > 0 {
		p.line("  promised entries that are not in a log yet: %d", r.Promised)
	}
	for _, a := range r.Alarms {
		p.line("ALARM %s %s%s since %s", a.Class, a.Log, a.Journal, a.Since.Format(time.RFC3339))
		p.line("  %s", a.Text)
		p.line("  do: %s", a.Remedy)
		if a.ID != "" {
			p.line("  id: %s", a.ID)
		}
	}
	if len(r.Alarms) == 0 && r.CaughtUp {
		p.line("no alarm")
	}
	return p.err
}

// printer remembers the first error.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}
