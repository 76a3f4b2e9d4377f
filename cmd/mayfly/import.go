package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/config"
)

// maxImport bounds a Fulcio identity file, as a configuration of ours is bounded.
const maxImport = 1 << 20

func importFulcioCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import-fulcio FILE",
		Short: "Translate a Fulcio identity file into issuers",
		Long: `Read a Fulcio identity file (YAML or JSON: oidc-issuers, meta-issuers and
ci-issuer-metadata) and print its issuers as they stand in a configuration of
Mayfly, to be pasted there. Names and extensions of certificates come out byte
for byte as Fulcio writes them, for all that Mayfly issues certificates for.

Comments marked "TODO by you" say what could not be translated and why, and what
Fulcio leaves open and Mayfly wants to know. A list of names with "invalid" in
it is a place to fill in; until then the issuer gets no certificate. Wildcard
issuers are listed for you to replace by concrete ones. Nothing is left out
without a word.

It opens no other file and does not use the network.`,
		Example: `  mayfly config import-fulcio /etc/fulcio-config/config.yaml > issuers.yaml`,
		Args:    arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readImport(args[0])
			if err != nil {
				return err
			}
			out, err := importFulcio(text)
			if err != nil {
				return fmt.Errorf("reading %s: %w", args[0], err)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), out)
			return err
		},
	}
}

func readImport(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the Fulcio identity file: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, maxImport+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(text) > maxImport {
		return nil, fmt.Errorf("%s is larger than %d bytes; this is no Fulcio identity file", path, maxImport)
	}
	return text, nil
}

// importFulcio translates the text of a Fulcio identity file into the issuers
// part of a configuration.
func importFulcio(text []byte) (string, error) {
	file, err := readFulcio(text)
	if err != nil {
		return "", err
	}
	if len(file.issuers)+len(file.wildcards) == 0 {
		return "", errors.New("it lists no issuer, neither under oidc-issuers nor under meta-issuers")
	}
	var entries, wildcards []*entry
	names := make(map[string]bool)
	for _, is := range file.issuers {
		entries = append(entries, translate(is, file.providers, names))
	}
	for _, is := range file.wildcards {
		// What stands for the wildcard is no URL, so that the entry cannot be
		// used before somebody has looked at it.
		e := translate(is, file.providers, make(map[string]bool))
		wildcards = append(wildcards, e)
	}
	separate(entries)
	for _, e := range entries {
		e.check()
	}
	var b strings.Builder
	writeHeader(&b, file.remarks)
	b.WriteString("issuers:\n")
	for _, e := range entries {
		e.write(&b)
	}
	for _, e := range wildcards {
		e.writeWildcard(&b)
	}
	return b.String(), nil
}

// aroundIssuers is a configuration in which only the issuers are missing.
const aroundIssuers = `listen: {plaintext: true}
public_url: https://mayfly.corp.example
state: state
chains: [{name: chain, certificates: chain.pem, key: {file: chain.key}}]
logs: disabled
`

// check refuses an entry that a configuration would not be read with. The rules
// for configurations are stricter than Fulcio's for URLs, names and more; they
// are asked rather than repeated.
func (e *entry) check() {
	if e.refused != "" {
		return
	}
	var b strings.Builder
	b.WriteString(aroundIssuers + "issuers:\n")
	e.write(&b)
	_, err := config.Parse("mayfly.yaml", []byte(b.String()))
	problems, _ := errors.AsType[config.Problems](err)
	for _, p := range problems {
		// Variables of the environment may cause other problems.
		if strings.HasPrefix(p.Path, "issuers[0]") {
			e.refused = strings.TrimPrefix(p.Path, "issuers[0].") + ": " + p.Message
			return
		}
	}
}
