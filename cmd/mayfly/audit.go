package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/audit"
)

func auditCommand() *cobra.Command {
	return group("audit", "Work with the audit journal", "  mayfly audit verify /var/lib/mayfly/audit", auditVerifyCommand())
}

func auditVerifyCommand() *cobra.Command {
	var heads []string
	cmd := &cobra.Command{
		Use:   "verify DIRECTORY",
		Short: "Check the journal's hash chain",
		Long: `Read the audit journal from its first record to its last, check that each
record carries the hash of the one before it, that sequence numbers have no gap
and that every outcome closes an intent, and name the first record that does not
fit. It only reads, and may run beside the service or on a copy.

A journal that was cut off at its end, or written anew as a whole, is consistent
in itself. Note the printed head somewhere else, and give it with --head later:
the journal must still contain it.

Exit code 0 means that the journal is whole, 1 that it is not.`,
		Example: `  mayfly audit verify /var/lib/mayfly/audit
  mayfly audit verify /var/lib/mayfly/audit --head 1041:6f0c...9e`,
		Args: arguments("DIRECTORY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var known []audit.Head
			for _, text := range heads {
				h, err := parseHead(text)
				if err != nil {
					return err
				}
				known = append(known, h)
			}
			r, err := audit.Verify(args[0], known...)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; the journal is the directory audit in the state directory", err)
			}
			if err != nil {
				return err
			}
			return printReport(cmd.OutOrStdout(), args[0], r)
		},
	}
	cmd.Flags().StringArrayVar(&heads, "head", nil, "`SEQUENCE:HASH` that an earlier run printed; may be repeated")
	return cmd
}

func parseHead(text string) (audit.Head, error) {
	seq, hash, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	raw, hexErr := hex.DecodeString(hash)
	if err != nil || hexErr != nil || len(raw) != 32 {
		return audit.Head{}, fmt.Errorf("--head %q is not SEQUENCE:HASH as printed by an earlier run", text)
	}
	return audit.Head{Sequence: n, Hash: [32]byte(raw)}, nil
}

func printReport(out io.Writer, dir string, r audit.Report) error {
	_, err := fmt.Fprintf(out, `%s is whole
  records   %d in %s, %s to %s
  intents   %d: %d issued, %d not issued, %d unknown (treat as issued), %d open now
  head      %d:%x
`, dir, r.Records, count(r.Segments, "segment"), r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339),
		r.Intents, r.Issued, r.NotIssued, r.Unknown, len(r.Open), r.Head.Sequence, r.Head.Hash)
	if r.TornBytes > 0 && err == nil {
		_, err = fmt.Fprintf(out, "  note      the last line is unfinished (%d bytes): it is being written, or a crash cut it short\n", r.TornBytes)
	}
	if r.ClockSteps > 0 && err == nil {
		_, err = fmt.Fprintf(out, "  note      %s older than the one before: the clock was set back\n", count(int(r.ClockSteps), "record"))
	}
	return err
}
