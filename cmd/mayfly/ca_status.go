package main

import (
	"cmp"
	"encoding/json"
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

func caStatusCommand() *cobra.Command {
	var path, output string
	var online bool
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Say what signs now, what will, and what ends",
		Long: `Say for each authority which chain signs now, which will and from when, where its
key is and when its certificates end; and what ends within 70 days.

Without --online, the configuration and the files that it names decide; no key is
read. With --online, the running service tells about the configuration that it
uses, whether it refused a newer one, and which keys could not sign now.

Exit code 0 means that every authority has a chain that signs, 1 that one has not,
2 that the configuration is wrong.`,
		Example: `  mayfly ca status --config /etc/mayfly/mayfly.yaml
  mayfly ca status --online --output json --config mayfly.yaml`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			var status stack.Status
			if online {
				err = askService(cmd.Context(), f, http.MethodGet, "/v1/status", nil, &status)
			} else {
				status, err = stack.OfflineStatus(cmd.Context(), f, time.Now())
			}
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), status, output); err != nil {
				return err
			}
			for _, a := range status.Authorities {
				if a.Signs == "" {
					return fmt.Errorf("no chain of the authority %q signs now", a.Name)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "ask the running service")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	addConfigFlags(cmd, &path)
	return cmd
}

func printStatus(out io.Writer, status stack.Status, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(status)
	case "text":
		_, err := io.WriteString(out, statusText(status))
		return err
	}
	return errors.New("--output is text or json")
}

func statusText(status stack.Status) string {
	var b strings.Builder
	for _, a := range status.Authorities {
		fmt.Fprintf(&b, "authority %s at %s: %s\n", a.Name, a.URL, cmp.Or(prefixed("signs with ", a.Signs), "NOTHING SIGNS"))
		for _, c := range a.Chains {
			fmt.Fprintf(&b, "  %s: %s\n", c.Name, chainText(c))
			for _, cert := range c.Certificates {
				fmt.Fprintf(&b, "    until %s  %s\n", day(cert.Expires), cert.Subject)
			}
			if c.Key != "" {
				fmt.Fprintf(&b, "    key in %s\n", c.Key)
			}
			if c.KeyProblem != "" {
				fmt.Fprintf(&b, "    THE KEY COULD NOT SIGN NOW: %s\n", c.KeyProblem)
			}
		}
	}
	for _, e := range status.Expiring {
		fmt.Fprintf(&b, "within %d days: %s %s ends %s (%s)\n", e.WithinDays, e.Kind, e.Name, stamp(e.At), e.What)
	}
	if status.ReloadRefused {
		b.WriteString("the files on disk were refused; the service uses the configuration before: see its log, or mayfly reload\n")
	}
	fmt.Fprintf(&b, "configuration %.16s at %s\n", status.ConfigDigest, stamp(status.Time))
	return b.String()
}

// chainText says in a line what a chain does and what it will do.
func chainText(c stack.ChainStatus) string {
	var parts []string
	add := func(what string, at time.Time) {
		if !at.IsZero() {
			parts = append(parts, what+" "+stamp(at))
		}
	}
	parts = append(parts, string(c.State))
	switch c.State {
	case stack.Waiting:
		add("published from", c.PublishFrom)
		add("signs from", c.Activate)
	case stack.Published:
		add("since", c.Published)
		add("signs from", c.Activate)
	case stack.Signing:
		add("since", c.Activate)
		add("until", c.Retire)
	case stack.Superseded:
		add("signed from", c.Activate)
	case stack.Retired:
		add("since", c.Retire)
	}
	return strings.Join(parts, ", ")
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }
