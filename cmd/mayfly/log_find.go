package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

func logFindCommand() *cobra.Command {
	var path, only, output string
	var q logQuery
	cmd := &cobra.Command{
		Use:   "find --config FILE",
		Short: "Find certificates in the log in the state directory",
		Long: `Find entries of the log in the state directory by what their certificates say, and
prove each against the checkpoint. All of --serial, --email, --uri, --index and
--since that are given must match; one of them must be given.

It reads the log from its first entry, or from --since on, which is quick. It
changes nothing and works beside a running service. What was logged within the
last second may not be under a checkpoint yet.

Exit code 0 means that something was found, 1 that nothing was or that an entry is
not proven.`,
		Example: `  mayfly log find --email dev@corp.example --since 24h --config mayfly.yaml
  mayfly log find --serial 3f5a9c --output json --config mayfly.yaml
  mayfly log find --index 1024 --log local-2027 --config mayfly.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			q.indexed = cmd.Flags().Changed("index")
			if err := errors.Join(checkOutput(output), q.prepare(time.Now())); err != nil {
				return err
			}
			shards, _, err := shardsOf(f, only)
			if err != nil {
				return err
			}
			found := []foundEntry{}
			for _, s := range shards {
				if found, err = q.search(cmd.Context(), s, found); err != nil {
					return fmt.Errorf("log %q: %w", s.Name, err)
				}
			}
			return showFound(cmd.OutOrStdout(), found, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.serialText, "serial", "", "serial number, in `hex`adecimal")
	flags.StringVar(&q.email, "email", "", "email `address` in the certificate")
	flags.StringVar(&q.uri, "uri", "", "`URI` in the certificate")
	flags.Uint64Var(&q.index, "index", 0, "the entry at this `index`")
	flags.StringVar(&q.sinceText, "since", "", "entries since a `time` (RFC 3339) or for a duration, such as 24h")
	flags.IntVar(&q.limit, "limit", 1000, "how many entries to print at most")
	flags.StringVar(&only, "log", "", "look in the shard of this `name` only")
	flags.StringVarP(&output, "output", "o", "text", "`format`: text or json")
	addConfigFlags(cmd, &path)
	return cmd
}

// logQuery is what an entry must be like.
type logQuery struct {
	serialText, sinceText, email, uri string
	index                             uint64
	indexed                           bool
	limit                             int
	serial                            *big.Int
	since                             time.Time
}

func (q *logQuery) prepare(now time.Time) error {
	if q.serialText == "" && q.email == "" && q.uri == "" && q.sinceText == "" && !q.indexed {
		return errors.New("say what to look for: --serial, --email, --uri, --index or --since")
	}
	if q.limit < 1 {
		return errors.New("--limit is 1 or more")
	}
	if text := strings.ReplaceAll(q.serialText, ":", ""); text != "" {
		var ok bool
		if q.serial, ok = new(big.Int).SetString(strings.TrimPrefix(text, "0x"), 16); !ok || q.serial.Sign() < 0 {
			return fmt.Errorf("--serial %q is not a number in hexadecimal", q.serialText)
		}
	}
	if q.sinceText == "" {
		return nil
	}
	var err error
	if q.since, err = time.Parse(time.RFC3339, q.sinceText); err == nil {
		return nil
	}
	ago, err := time.ParseDuration(q.sinceText)
	if err != nil || ago < 0 {
		return fmt.Errorf("--since %q is neither a time, such as 2026-11-01T12:00:00Z, nor a duration, such as 24h", q.sinceText)
	}
	q.since = now.Add(-ago)
	return nil
}

// foundEntry is an entry as it is printed.
type foundEntry struct {
	Log       string    `json:"log"`
	Index     uint64    `json:"index"`
	Timestamp time.Time `json:"timestamp"`
	// Kind is precertificate or certificate.
	Kind          string    `json:"kind"`
	Serial        string    `json:"serial"`
	Emails        []string  `json:"emails,omitempty"`
	URIs          []string  `json:"uris,omitempty"`
	Issuer        string    `json:"issuer"`
	IssuerKeyHash string    `json:"issuer_key_hash,omitempty"`
	NotBefore     time.Time `json:"not_before,omitzero"`
	NotAfter      time.Time `json:"not_after,omitzero"`
	LeafHash      string    `json:"leaf_hash"`
	// Proven says that the checkpoint over TreeSize entries covers the entry.
	Proven   bool   `json:"proven"`
	TreeSize uint64 `json:"tree_size"`
	Problem  string `json:"problem,omitempty"`
}

// search adds what is found in a shard.
func (q *logQuery) search(ctx context.Context, s stack.Shard, found []foundEntry) (_ []foundEntry, err error) {
	v, err := embedded.OpenView(s.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	head, err := v.Head()
	if err != nil {
		return nil, err
	}
	from := uint64(0)
	switch {
	case q.indexed:
		from = q.index
	case !q.since.IsZero():
		if from, err = v.Since(head, q.since); err != nil {
			return nil, err
		}
	}
	err = v.Entries(ctx, head, from, func(e embedded.LoggedEntry) bool {
		if len(found) == q.limit {
			return false
		}
		if cert, certErr := certificateOf(e); q.matches(e, cert) {
			one := describeEntry(s.Name, head, e, cert)
			if err := errors.Join(certErr, v.VerifyEntry(ctx, head, e)); err != nil {
				one.Problem = err.Error()
			}
			one.Proven = one.Problem == ""
			found = append(found, one)
		}
		return !q.indexed
	})
	return found, err
}

// certificateOf parses an entry's certificate; what is in a log need not parse.
func certificateOf(e embedded.LoggedEntry) (*x509.Certificate, error) {
	der := e.Certificate
	if e.Precertificate != nil {
		der = e.Precertificate
	}
	return x509.ParseCertificate(der)
}

func (q *logQuery) matches(e embedded.LoggedEntry, cert *x509.Certificate) bool {
	if q.indexed && e.Index != q.index || e.Time.Before(q.since) {
		return false
	}
	if q.serial == nil && q.email == "" && q.uri == "" {
		return true
	}
	if cert == nil || q.serial != nil && cert.SerialNumber.Cmp(q.serial) != 0 {
		return false
	}
	if q.email != "" && !slices.ContainsFunc(cert.EmailAddresses, func(a string) bool { return strings.EqualFold(a, q.email) }) {
		return false
	}
	return q.uri == "" || slices.Contains(uriText(cert), q.uri)
}

func uriText(cert *x509.Certificate) []string {
	var all []string
	for _, u := range cert.URIs {
		all = append(all, u.String())
	}
	return all
}

func describeEntry(log string, head embedded.Head, e embedded.LoggedEntry, cert *x509.Certificate) foundEntry {
	one := foundEntry{
		Log: log, Index: e.Index, Timestamp: e.Time, Kind: "certificate", LeafHash: fmt.Sprintf("%x", e.LeafHash), TreeSize: head.Size,
	}
	if e.Precertificate != nil {
		one.Kind, one.IssuerKeyHash = "precertificate", fmt.Sprintf("%x", e.IssuerKeyHash)
	}
	if cert != nil {
		one.Serial, one.Emails, one.URIs = fmt.Sprintf("%x", cert.SerialNumber), cert.EmailAddresses, uriText(cert)
		one.Issuer, one.NotBefore, one.NotAfter = cert.Issuer.String(), cert.NotBefore.UTC(), cert.NotAfter.UTC()
	}
	return one
}

func showFound(out io.Writer, found []foundEntry, format string) error {
	var err error
	if format == "json" {
		err = printJSON(out, found)
	} else if len(found) > 0 {
		err = foundText(out, found)
	}
	unproven := 0
	for _, e := range found {
		if !e.Proven {
			unproven++
		}
	}
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return errors.New("no entry was found")
	case unproven > 0:
		return fmt.Errorf("not proven: %s; run mayfly log fsck", entries(uint64(unproven)))
	}
	return nil
}

func foundText(out io.Writer, found []foundEntry) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprintln(w, "LOG\tINDEX\tLOGGED\tVALID UNTIL\tSERIAL\tIDENTITY\tPROVEN")
	for _, e := range found {
		proven := fmt.Sprintf("in %d", e.TreeSize)
		if !e.Proven {
			proven = "NO: " + e.Problem
		}
		until := "-"
		if !e.NotAfter.IsZero() {
			until = stamp(e.NotAfter)
		}
		_, lineErr := fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", e.Log, e.Index, stamp(e.Timestamp), until, e.Serial,
			strings.Join(slices.Concat(e.Emails, e.URIs), " "), proven)
		err = errors.Join(err, lineErr)
	}
	return errors.Join(err, w.Flush())
}
