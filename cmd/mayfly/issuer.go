package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/probe"
	"github.com/mayfly-ca/mayfly/oidc"
)

func issuerCommand() *cobra.Command {
	return group("issuer", "Work with OpenID providers", "  mayfly issuer probe https://keycloak.corp.example/realms/eng", issuerProbeCommand())
}

func issuerProbeCommand() *cobra.Command {
	var caFile string
	cmd := &cobra.Command{
		Use:   "probe URL",
		Short: "Look at an OpenID provider before its tokens are accepted",
		Long: `Fetch the discovery document and the keys of an OpenID provider as the service
would, from this machine, and report: where the name leads, TLS certificate,
clock, keys with their thumbprints, algorithms, kinds of login. Each finding says
what to do about it. At the end stands the block for the configuration, in which
audiences and may_issue are for you to correct.

Nothing is logged in to, and no secret is sent. HTTPS_PROXY and NO_PROXY are
obeyed, as by the service. Exit code 1 means that tokens of this issuer would be
refused.`,
		Example: `  mayfly issuer probe https://keycloak.corp.example/realms/eng
  mayfly issuer probe --ca-file corp-root.pem https://adfs.corp.example/adfs`,
		Args: arguments("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := roots(caFile)
			if err != nil {
				return err
			}
			report, err := probe.Run(cmd.Context(), probe.Config{URL: args[0], RootCAs: pool, CAFile: caFile})
			if err != nil {
				return fmt.Errorf("issuer: %w", err)
			}
			if report.Usable() {
				rehearse(cmd.Context(), report, pool)
			}
			if err := report.WriteText(cmd.OutOrStdout()); err != nil {
				return fmt.Errorf("writing the report: %w", err)
			}
			if !report.Usable() {
				return errors.New("tokens of this issuer would be refused; the problems are named above")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&caFile, "ca-file", "", "PEM file with the only roots for the provider's TLS certificate (default the system's)")
	return cmd
}

// rehearsal bounds how long the service's own code may take.
const rehearsal = 15 * time.Second

// rehearse lets the code that the service will use fetch the keys, with the entry
// that the report proposes, so that the two cannot disagree.
func rehearse(ctx context.Context, report *probe.Report, pool *x509.CertPool) {
	e := report.Entry
	issuer := oidc.Issuer{
		Name: e.Name, URL: e.URL, Audiences: []string{"sigstore"}, Algorithms: e.Algorithms, RootCAs: pool,
		AllowInsecureHTTP: e.InsecureHTTP, JWKSHosts: e.JWKSHosts, ScheduleOnly: true,
	}
	for _, text := range e.Loopback {
		if ip, err := netip.ParseAddr(text); err == nil {
			issuer.AllowLoopback = append(issuer.AllowLoopback, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	const do = "this is the service's own view, whatever else is said here; correct it at the provider"
	v, err := oidc.New(oidc.Config{Issuers: []oidc.Issuer{issuer}})
	if err != nil {
		report.Fatal(do, "the service would not take the entry: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, rehearsal)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.Run(ctx)
	}()
	defer func() { cancel(); <-done }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := v.Ready()[0]
		switch {
		case st.Ready:
			return
		case st.Err != "":
			report.Fatal(do, "the service could not fetch the keys: %s", st.Err)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			report.Fatal(do, "the service could not fetch the keys within %s", rehearsal)
			return
		}
	}
}
