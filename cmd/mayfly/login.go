package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/login"
)

// loginFlags are the ones that are not fields of login.Config.
type loginFlags struct {
	flow       string
	caFile     string
	secretFile string
	noBrowser  bool
	loginOutput
}

// loginOutput says where the token goes.
type loginOutput struct {
	file     string
	printEnv bool
}

func loginCommand() *cobra.Command {
	var (
		cfg   login.Config
		flags loginFlags
	)
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Get an ID token for cosign and other clients",
		Long: `Get an ID token from an OpenID provider, for cosign, gitsign or another client
to sign with: by browser, on another device, from the CI job that this runs in,
or for a service account.

In a CI job, flow auto takes the job's own token: from --token-file,
SIGSTORE_ID_TOKEN, GitHub Actions, Buildkite, Azure DevOps, ID_TOKEN_FILE (as
Jenkins has it) or ` + "`/var/run/sigstore/cosign/oidc-token`" + ` (Kubernetes), whichever
is there first. If it is there and fails, that is the end: no other flow is
tried. Elsewhere a browser is opened, or the device flow shown if this machine
has none.

The token is checked before it is handed out, and goes where you say and nowhere
else: --output FILE (readable by you only, without a newline at the end, as
cosign wants it) or --print-env (for eval). What it says, and not the token
itself, is on standard error. Whoever has the token can sign as you until it
expires.

HTTPS_PROXY and NO_PROXY are obeyed. docs/login.md has more.`,
		Example: `  mayfly login --server https://ca.corp.example --output token
  cosign sign-blob --identity-token token ... artifact; rm token

  eval "$(mayfly login --server https://ca.corp.example --print-env)"

  mayfly login --issuer https://keycloak.corp.example/realms/eng --acr mfa --max-age 5m --output token`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLogin(cmd, cfg, flags)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Server, "server", "", "URL of the Mayfly service, which is asked for issuer and audience")
	f.StringVar(&cfg.Issuer, "issuer", "", "issuer URL of the provider, exactly as tokens say it")
	f.StringVar(&cfg.ClientID, "client-id", login.DefaultClientID, "client at the provider")
	f.StringVar(&flags.secretFile, "client-secret-file", "", "file with the secret of a confidential client")
	f.StringVar(&cfg.Audience, "audience", "", "audience that the token must have; CI providers are asked for it (default what --server says)")
	f.StringSliceVar(&cfg.Scopes, "scope", []string{"openid", "email"}, "scopes to ask for")
	f.StringVar(&flags.flow, "flow", string(login.FlowAuto), "auto, browser, device, ambient or client-credentials")
	f.DurationVar(&cfg.MaxAge, "max-age", 0, "how long ago you may have authenticated, such as 5m; else the provider asks again")
	f.StringSliceVar(&cfg.ACR, "acr", nil, "authentication levels (acr), of which the token must have one")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file with the CI job's token")
	f.StringVar(&cfg.Callback, "callback", "127.0.0.1:0", "host and port that the browser returns to: 127.0.0.1, [::1] or localhost; 0 is any port")
	f.BoolVar(&flags.noBrowser, "no-browser", false, "print the address instead of opening a browser")
	f.StringVar(&flags.caFile, "ca-file", "", "PEM file with the only roots for TLS (default the system's)")
	f.DurationVar(&cfg.Timeout, "timeout", 10*time.Minute, "how long everything may take")
	f.StringVar(&flags.file, "output", "", "write the token to this file, - for standard output")
	f.BoolVar(&flags.printEnv, "print-env", false, "print a shell command that sets SIGSTORE_ID_TOKEN")
	return cmd
}

func runLogin(cmd *cobra.Command, cfg login.Config, flags loginFlags) error {
	if err := flags.check(cmd.OutOrStdout()); err != nil {
		return err
	}
	var err error
	if cfg.RootCAs, err = roots(flags.caFile); err != nil {
		return err
	}
	if flags.secretFile != "" {
		secret, err := os.ReadFile(flags.secretFile)
		if err != nil {
			return fmt.Errorf("reading the client secret: %w", err)
		}
		cfg.ClientSecret = strings.TrimRight(string(secret), "\r\n")
	}
	cfg.Flow = login.Flow(flags.flow)
	if cfg.Flow == login.FlowClientCredentials && !cmd.Flags().Changed("scope") {
		// A service has no address, and Keycloak refuses scopes that a client
		// does not have.
		cfg.Scopes = []string{"openid"}
	}
	cfg.Messages = cmd.ErrOrStderr()
	cfg.Headless = headless(os.Getenv)
	if !flags.noBrowser {
		cfg.OpenBrowser = openBrowser
	}
	token, err := login.Acquire(cmd.Context(), cfg)
	if err != nil {
		return interrupted(cmd.Context(), err)
	}
	return flags.write(cmd.OutOrStdout(), cmd.ErrOrStderr(), token)
}

// interrupted puts Ctrl-C into words.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted; no token was written")
	}
	return err
}

// check refuses before the login what could not be written after it.
func (o loginOutput) check(stdout io.Writer) error {
	switch {
	case o.file == "" && !o.printEnv:
		return errors.New("where should the token go? Give --output FILE, or --print-env for eval")
	case o.file != "" && o.printEnv:
		return errors.New("--output and --print-env: give one of them")
	case o.file != "" && o.file != "-":
		if info, err := os.Stat(filepath.Dir(o.file)); err != nil {
			return fmt.Errorf("the token's directory: %w", err)
		} else if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", filepath.Dir(o.file))
		}
		return nil
	}
	if f, ok := stdout.(*os.File); ok && isTerminal(f) {
		return errors.New("standard output is a terminal, which keeps what it shows: use --output FILE, " +
			"or eval \"$(mayfly login --print-env ...)\"")
	}
	return nil
}

// isTerminal also takes /dev/null for one, where a token is of no use either.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (o loginOutput) write(stdout, stderr io.Writer, token login.Token) error {
	var err error
	switch {
	case o.printEnv:
		// A token consists of letters, digits, dots, hyphens and underscores.
		_, err = fmt.Fprintf(stdout, "export SIGSTORE_ID_TOKEN=%s\n", token.Raw())
	case o.file == "-":
		_, err = io.WriteString(stdout, token.Raw())
	default:
		if err = writeSecret(o.file, token.Raw()); err == nil {
			fmt.Fprintf(stderr, "  written   %s\n", o.file)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the token: %w", err)
	}
	return nil
}

// writeSecret replaces a file whole. The temporary file is made for its owner
// only, and the name of an existing one, its permissions or what it links to play
// no part.
func writeSecret(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".mayfly-login-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// roots reads the roots of --ca-file; nil means the system's.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return pool, nil
}
