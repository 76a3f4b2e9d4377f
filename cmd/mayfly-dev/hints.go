package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// printNext ends the demonstration with three things to try.
func printNext(out io.Writer, s settings) {
	dev, verify, serve := "bin/mayfly-dev", "bin/mayfly audit verify "+filepath.Join(s.state, "audit"), "bin/mayfly serve --help"
	if s.state != defaultState {
		dev += " --state " + s.state
	}
	width := max(len(dev), len(verify), len(serve))
	fmt.Fprintf(out, `
All of it holds. Three commands to try next:

  %-*s   # the same, left running, for cosign
  %-*s   # the journal of what just happened
  %-*s   # the real thing; docs/getting-started.md leads there
`, width, dev, width, verify, width, serve)
}

// printHints tells what runs and how to point cosign at it.
func printHints(out io.Writer, w *world) {
	command := "bin/mayfly-dev token"
	if address := strings.TrimPrefix(w.issuer, "http://"); address != defaultProvider {
		command += " --provider " + address
	}
	fmt.Fprintf(out, `Mayfly is running for demonstration; trust nothing that it signs.

  CA and log        %[1]s
  OpenID provider   %[2]s
  state             %[3]s

To sign and verify a file with cosign v3, paste:

  curl -sO %[1]s/trust/trusted_root.json -O %[1]s/trust/signing_config.json
  echo hello > hello.txt
  cosign sign-blob --yes --signing-config signing_config.json --trusted-root trusted_root.json \
    --bundle hello.sigstore.json hello.txt
  cosign verify-blob --trusted-root trusted_root.json --bundle hello.sigstore.json \
    --certificate-identity alice@demo.mayfly.test --certificate-oidc-issuer %[2]s \
    --insecure-ignore-tlog hello.txt

cosign opens the login page in a browser; the page names the users and their
password. Without a browser, first: export SIGSTORE_ID_TOKEN=$(%[4]s)
Stop with Ctrl-C.
`, w.url, w.issuer, w.settings.state, command)
}
