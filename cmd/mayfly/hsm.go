package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

func hsmCommand() *cobra.Command {
	return group("hsm", "Work with PKCS#11 tokens and the keys in them", `  mayfly hsm list --module /usr/lib/softhsm/libsofthsm2.so
  mayfly hsm keygen --config mayfly.yaml --chain corp-2026
  mayfly hsm doctor --config mayfly.yaml`, hsmListCommand(), hsmKeygenCommand(), hsmDoctorCommand())
}

// Bounds of how long a token may take. RSA keys of 4096 bits are minutes of work
// for small devices.
const (
	tokenTimeout  = 2 * time.Minute
	keygenTimeout = 20 * time.Minute
)

// findToken returns the token that a flag names, or the only one that there is.
func findToken(f *config.File, name string) (config.Token, error) {
	switch {
	case name != "":
		return keys.FindToken(f, name)
	case len(f.Tokens) == 1:
		return f.Tokens[0], nil
	case len(f.Tokens) == 0:
		return config.Token{}, fmt.Errorf("%s has no tokens; mayfly hsm list --module PATH prints an entry for each that a library offers", f.Path)
	default:
		return config.Token{}, fmt.Errorf("%s has %d tokens (%s); say which with --token", f.Path, len(f.Tokens), tokenNames(f))
	}
}

func tokenNames(f *config.File) string {
	var names []string
	for _, t := range f.Tokens {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}

func hsmDoctorCommand() *cobra.Command {
	var path, name string
	cmd := &cobra.Command{
		Use:   "doctor --config FILE",
		Short: "Examine tokens and the keys that the configuration has in them",
		Long: `Look at everything between Mayfly and a signature, and say in plain words what is
as it should be, what is not, and what to do about it: the library's file and who
can change it, the token, the state of its PIN, the login, how many sessions open
at once, mechanisms, and each key that the configuration names: its attributes,
whether it is that of the chain's certificate, a test signature, and signatures
per second in one session and in max_sessions.

It logs in once per token, and not at all when the next wrong PIN could lock it.
It changes nothing in the token; for two seconds per key it keeps it busy. A
service may be running beside it, and then its sessions count too.

Exit code 1 means that there is a problem: the service would not start or not
sign. Warnings and notes do not change the exit code.`,
		Example: `  mayfly hsm doctor --config /etc/mayfly/mayfly.yaml
  mayfly hsm doctor --config mayfly.yaml --token hsm-b`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := config.Load(path, cmd.Flags())
			if err != nil {
				return err
			}
			tokens := f.Tokens
			if name != "" || len(tokens) == 0 {
				t, err := findToken(f, name)
				if err != nil {
					return err
				}
				tokens = []config.Token{t}
			}
			problems := 0
			for _, t := range tokens {
				n, err := examine(cmd, f, t)
				if err != nil {
					return err
				}
				problems += n
			}
			if problems > 0 {
				return fmt.Errorf("%s; each says above what to do", count(problems, "problem"))
			}
			return nil
		},
	}
	addConfigFlags(cmd, &path)
	cmd.Flags().StringVar(&name, "token", "", "`name` of the only token to examine (default all of the configuration)")
	return cmd
}

// examine prints findings as they are made and counts the problems.
func examine(cmd *cobra.Command, f *config.File, t config.Token) (problems int, err error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), tokenTimeout)
	defer cancel()
	out := cmd.OutOrStdout()
	if _, err := fmt.Fprintf(out, "token %s\n", t.Name); err != nil {
		return 0, err
	}
	var broken error
	report := func(x pkcs11.Finding) {
		if x.Level == pkcs11.Problem {
			problems++
		}
		_, err := fmt.Fprintf(out, "%-8s %s: %s\n", x.Level, x.Check, indent(x.Text))
		if err == nil && x.Do != "" {
			_, err = fmt.Fprintf(out, "         -> %s\n", indent(x.Do))
		}
		broken = errors.Join(broken, err)
	}
	all, err := keysIn(f, t, report)
	if err != nil {
		return 0, err
	}
	err = pkcs11.Doctor(ctx, pkcs11.DoctorConfig{Token: keys.TokenConfig(t), Keys: all, Report: report})
	return problems, errors.Join(err, broken)
}

// indent keeps further lines of a text below the first.
func indent(text string) string { return strings.ReplaceAll(text, "\n", "\n         ") }

// keysIn lists the keys that the configuration has in a token, each with the
// public key of its chain's certificate where that can be read.
func keysIn(f *config.File, t config.Token, report func(pkcs11.Finding)) ([]pkcs11.KeyConfig, error) {
	var all []pkcs11.KeyConfig
	for i, c := range f.Chains {
		if !slices.Contains(c.Key.Tokens, t.Name) {
			continue
		}
		at := fmt.Sprintf("chains[%d].key (%s)", i, c.Name)
		public, err := stack.IssuingKey(c)
		if err != nil {
			report(pkcs11.Finding{Level: pkcs11.Warning, Check: at, Text: fmt.Sprintf("reading the chain's certificate: %v", err), Do: "have the key certified, and put the certificate and those above it into that file"})
		}
		k, err := keys.KeyConfig(at, c.Key, public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		all = append(all, k)
	}
	return all, nil
}
