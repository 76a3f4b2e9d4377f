// Command mayfly is a private keyless certificate authority: it verifies OIDC
// tokens and issues ten-minute code-signing certificates that are logged in a
// certificate transparency log. It speaks the API of Sigstore's Fulcio.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-ca/mayfly/config"
)

// Exit codes. Scripts and supervisors tell a wrong configuration, which no
// restart mends, from a failure.
const (
	exitFailure       = 1
	exitConfiguration = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		fmt.Fprintf(os.Stderr, "%v\nmayfly: %s in the configuration; see docs/configuration.md\n", problems, count(len(problems), "problem"))
		os.Exit(exitConfiguration)
	}
	fmt.Fprintf(os.Stderr, "mayfly: %v\n", err)
	os.Exit(exitFailure)
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
