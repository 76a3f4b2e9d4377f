package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

func logFsckCommand() *cobra.Command {
	var path, only, output string
	cmd := &cobra.Command{
		Use:   "fsck --config FILE",
		Short: "Read and prove the whole log in the state directory",
		Long: `Read every file of the log in the state directory and prove it: each entry hashes
to its leaf, each tile to the one above, all of them to the root of the checkpoint,
which verifies under the log's key and origin; every issuing certificate is there;
the sequence file follows on; the checkpoint record outside the directory is not
newer. It says which file is wrong, and what to do.

It changes nothing and works beside a running service. Memory does not grow with
the log.

Exit code 0 means that nothing is wrong, 1 that something is, 2 that the
configuration is wrong.`,
		Example: `  mayfly log fsck --config /etc/mayfly/mayfly.yaml
  mayfly log fsck --log local-2027 --output json --config mayfly.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			shards, l, err := shardsOf(f, only)
			if err != nil {
				return err
			}
			var found []fsckResult
			for _, s := range shards {
				r, err := fsck(cmd.Context(), cmd.ErrOrStderr(), s, stack.RecordOf(l.Embedded, l.Name, s))
				if err != nil {
					return err
				}
				found = append(found, r)
			}
			return showFsck(cmd.OutOrStdout(), found, output)
		},
	}
	cmd.Flags().StringVar(&only, "log", "", "check the shard of this `name` only")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	addConfigFlags(cmd, &path)
	return cmd
}

// fsckResult is what the check of a shard found.
type fsckResult struct {
	Name       string           `json:"name"`
	Directory  string           `json:"directory"`
	Size       uint64           `json:"size"`
	Root       string           `json:"root"`
	Checkpoint time.Time        `json:"checkpoint,omitzero"`
	Entries    uint64           `json:"entries"`
	Issuers    uint64           `json:"issuers"`
	Sequenced  uint64           `json:"sequenced"`
	Faults     []embedded.Fault `json:"faults"`
	// Incomplete says that there is more than the faults tell.
	Incomplete bool `json:"incomplete,omitempty"`
}

// progressInterval keeps a terminal informed without filling a log.
const progressInterval = 5 * time.Second

func fsck(ctx context.Context, progress io.Writer, s stack.Shard, record string) (_ fsckResult, err error) {
	v, err := embedded.OpenView(s.Dir)
	if err != nil {
		return fsckResult{}, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	next := time.Now().Add(progressInterval)
	r, err := v.Check(ctx, embedded.CheckConfig{CheckpointRecord: record, Progress: func(done, all uint64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(progressInterval)
			_, _ = fmt.Fprintf(progress, "%s: %d of %d entries checked\n", s.Name, done, all)
		}
	}})
	if err != nil {
		return fsckResult{}, fmt.Errorf("checking log %q: %w", s.Name, err)
	}
	if r.Faults == nil {
		r.Faults = []embedded.Fault{}
	}
	return fsckResult{
		Name: s.Name, Directory: s.Dir, Size: r.Head.Size, Root: fmt.Sprintf("%x", r.Head.Root), Checkpoint: r.Head.Time,
		Entries: r.Entries, Issuers: r.Issuers, Sequenced: r.Sequenced, Faults: r.Faults, Incomplete: r.Cut,
	}, nil
}

func showFsck(out io.Writer, found []fsckResult, format string) error {
	faults := 0
	for _, r := range found {
		faults += len(r.Faults)
	}
	var err error
	if format == "json" {
		err = printJSON(out, found)
	} else {
		for _, r := range found {
			err = errors.Join(err, fsckText(out, r))
		}
	}
	if err == nil && faults > 0 {
		err = fmt.Errorf("%s found", count(faults, "fault"))
	}
	return err
}

func fsckText(out io.Writer, r fsckResult) error {
	var err error
	say := func(format string, args ...any) {
		_, printErr := fmt.Fprintf(out, format, args...)
		err = errors.Join(err, printErr)
	}
	for _, f := range r.Faults {
		say("%s: %s\n  %s\n", f.File, f.Problem, f.Remedy)
	}
	switch {
	case r.Incomplete:
		say("%s: the check could not go on, or there is more of the same\n", r.Name)
	case len(r.Faults) == 0:
		say("%s: no fault in %s and %s; the root is that of the checkpoint of %s\n", r.Name,
			entries(r.Entries), count(int(r.Issuers), "issuing certificate"), stamp(r.Checkpoint))
	}
	return err
}
