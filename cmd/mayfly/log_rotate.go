package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
)

func logRotateCommand() *cobra.Command {
	var path, activate, suffix string
	var yes bool
	cmd := &cobra.Command{
		Use:   "rotate --config FILE",
		Short: "Make the next shard of the log and have the service publish it",
		Long: `Make the next shard of the log in the state directory: a log of its own with a new
key and origin. The running service is told, and has both keys in its trust files
from then on. At the time given with --activate, 24 hours from now if none is,
entries go to the new shard; an hour later the old one gets its last checkpoint and
is frozen. Both are read at their own paths for good.

Clients that keep trust files for longer than 24 hours need more. To activate at
once is for the day on which the shard in use is lost: clients refuse certificates
until they have the new trust files, and the service takes such a shard up at its
next start only.

If the configuration names a key under the log, it must be a new one: make it
before, such as with mayfly hsm keygen, and change the configuration. Shards that
there are remember theirs.`,
		Example: `  mayfly log rotate --config /etc/mayfly/mayfly.yaml
  mayfly log rotate --activate 2027-01-01T00:00:00Z --yes --config mayfly.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			r, err := planRotation(f, activate, suffix, time.Now())
			if err != nil {
				return err
			}
			if err := r.confirm(cmd.InOrStdin(), cmd.OutOrStdout(), yes); err != nil {
				return err
			}
			return r.rotate(cmd, f)
		},
	}
	cmd.Flags().StringVar(&activate, "activate", "", "`time` from which the new shard takes entries, RFC 3339 (default 24h from now)")
	cmd.Flags().StringVar(&suffix, "shard", "", "`name` of the shard, behind the log's name and a dash (default the year of its activation)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	addConfigFlags(cmd, &path)
	return cmd
}

// rotation is what is going to be done.
type rotation struct {
	log      string
	now      stack.Shard // the shard that takes entries at present
	suffix   string
	activate time.Time
	lead     time.Duration
}

var shardForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])?$`)

// maxLogName is what a name in the configuration may have.
const maxLogName = 63

func planRotation(f *config.File, activate, suffix string, now time.Time) (rotation, error) {
	all, l, err := shardsOf(f, "")
	if err != nil {
		return rotation{}, err
	}
	r := rotation{log: l.Name, now: all[stack.CurrentShard(all, now)], suffix: suffix, activate: now.Add(stack.ShardLead).Truncate(time.Second)}
	if last := all[len(all)-1]; last.Name != r.now.Name {
		return rotation{}, fmt.Errorf("the shard %s is waiting already, to take entries from %s; one at a time", last.Name, stamp(last.Info.Activate))
	}
	if activate != "" {
		if r.activate, err = time.Parse(time.RFC3339, activate); err != nil {
			return rotation{}, fmt.Errorf("--activate %q is not a time; write it as in %s", activate, stamp(now.Add(stack.ShardLead)))
		}
	}
	if !r.activate.After(r.now.Info.Activate) || r.activate.Before(r.now.Info.Created) {
		return rotation{}, fmt.Errorf("--activate %s is not after the beginning of the shard in use, %s", stamp(r.activate), r.now.Name)
	}
	r.lead = r.activate.Sub(now)
	if r.suffix == "" {
		r.suffix = freeSuffix(all, l.Name, strconv.Itoa(r.activate.UTC().Year()))
	}
	if !shardForm.MatchString(r.suffix) || len(l.Name)+1+len(r.suffix) > maxLogName {
		return rotation{}, fmt.Errorf("%q is no name for a shard; write up to 32 lower-case letters, digits, dots, dashes and underscores", r.suffix)
	}
	return r, nil
}

// freeSuffix is the year, or the year and a number when the log rotates more often.
func freeSuffix(all []stack.Shard, log, year string) string {
	suffix := year
	for n := 2; slices.ContainsFunc(all, func(s stack.Shard) bool { return s.Name == log+"-"+suffix }); n++ {
		suffix = year + "-" + strconv.Itoa(n)
	}
	return suffix
}

func (r rotation) confirm(in io.Reader, out io.Writer, yes bool) error {
	_, err := fmt.Fprintf(out, "log %s: from %s on, entries go to the new shard %s-%s instead of %s\n", r.log, stamp(r.activate), r.log, r.suffix, r.now.Name)
	if err == nil && r.lead < stack.ShardLead-time.Minute {
		_, err = fmt.Fprintf(out, "CLIENTS HAVE %s TO FETCH THE NEW TRUST FILES; those with older ones will refuse certificates from then on\n", max(r.lead, 0).Round(time.Minute))
	}
	if err != nil || yes {
		return err
	}
	if _, err := fmt.Fprint(out, "Type yes to go on: "); err != nil {
		return err
	}
	answer, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return errors.Join(errors.New("nothing was done; --yes does not ask"), ignoreEOF(err))
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (r rotation) rotate(cmd *cobra.Command, f *config.File) error {
	made, err := stack.MakeShard(cmd.Context(), f, r.suffix, r.activate)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if err := printShard(out, made); err != nil {
		return err
	}
	err = askService(cmd.Context(), f, http.MethodPost, "/v1/reload", nil, &stack.Reloaded{})
	next := "The service has published it: both keys are in its trust files now."
	if err != nil {
		next = fmt.Sprintf("NOT PUBLISHED YET, for the service did not take it up (%v).\nStart it, or run mayfly reload --config %s, in good time before %s. To mayfly log serve, send a HUP signal.", err, f.Path, stamp(r.activate))
	}
	_, printErr := fmt.Fprintf(out, "%s\nNext: back up %s; give other replicas what mayfly log status --trusted prints.\n", next, made.Dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return printErr // published, or there is no service that could
	}
	return errors.Join(fmt.Errorf("publishing %s: %w", made.Name, err), printErr)
}
