package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/internal/ceremony"
)

// keygen is what hsm keygen was asked for.
type keygen struct {
	path, chain, token, object, algorithm string
	transcript, csr, subject              string

	file  *config.File
	key   config.Key
	place string
	on    config.Token
	name  ceremony.Name
}

func hsmKeygenCommand() *cobra.Command {
	var k keygen
	cmd := &cobra.Command{
		Use:   "keygen --config FILE (--chain NAME | --token NAME --object LABEL)",
		Short: "Make a CA key in a token",
		Long: `Make the key that a chain's entry in the configuration names, in the first of its
tokens. It may sign and nothing else, and can never leave the token. A label or id
that the token already holds is refused, and nothing is ever deleted or
overwritten, here or in any other command.

Afterwards the attributes are read back, and a token that did not heed them is an
error; a test signature is made and verified. --transcript writes all of it, with
time, host, program, library and token, into a new file for the ceremony's minutes.
It holds no secret.

A second token of the chain gets the same key by the device's own cloning, backup
or replication. Mayfly cannot do that: it makes keys that it cannot take out.

--csr goes on to have the new key sign a certificate request for --subject, as
mayfly ca csr does at any time later. Send it to the PKI that is to certify it.`,
		Example: `  mayfly hsm keygen --config mayfly.yaml --chain corp-2026 --transcript keygen.txt
  mayfly hsm keygen --config mayfly.yaml --chain corp-2026 --csr corp-2026.csr --subject "CN=Corp Code Signing CA 2026,O=Corp"
  mayfly hsm keygen --config mayfly.yaml --token hsm-a --object corp-2027 --algorithm rsa-4096`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := k.plan(cmd); err != nil {
				return err
			}
			return k.run(cmd)
		},
	}
	addConfigFlags(cmd, &k.path)
	flags := cmd.Flags()
	flags.StringVar(&k.chain, "chain", "", "`name` of the chain whose key to make")
	flags.StringVar(&k.token, "token", "", "`name` of the token to make a key in that no chain names yet")
	flags.StringVar(&k.object, "object", "", "`label` of that key")
	flags.StringVar(&k.algorithm, "algorithm", pkcs11.Algorithms[0], strings.Join(pkcs11.Algorithms, ", "))
	flags.StringVar(&k.transcript, "transcript", "", "new `file` for the ceremony's minutes")
	flags.StringVar(&k.csr, "csr", "", "new `file` for a certificate request")
	flags.StringVar(&k.subject, "subject", "", "subject of the request, such as \"CN=Corp Code Signing CA 2026,O=Corp\"")
	return cmd
}

// plan reads the configuration and refuses all that can be refused before the
// token is touched: a key that was made for nothing cannot be deleted here.
func (k *keygen) plan(cmd *cobra.Command) (err error) {
	if k.file, err = config.Load(k.path, cmd.Flags()); err != nil {
		return err
	}
	switch {
	case (k.chain != "") == (k.object != ""):
		return errors.New("say which key to make: --chain NAME for that of a chain of the configuration, or --token NAME --object LABEL")
	case k.chain != "":
		err = k.ofChain()
	default:
		k.on, err = findToken(k.file, k.token)
		k.key, k.place = config.Key{Tokens: []string{k.on.Name}, Object: k.object}, "--object"
	}
	if err != nil {
		return err
	}
	if (k.csr != "") != (k.subject != "") {
		return errors.New("--csr and --subject go together: a request has a subject")
	}
	if k.subject != "" {
		if k.name, err = ceremony.ParseName(k.subject); err != nil {
			return err
		}
	}
	if k.csr != "" && k.csr == k.transcript {
		return errors.New("--csr and --transcript name the same file")
	}
	for _, file := range []string{k.csr, k.transcript} {
		if file == "" {
			continue
		}
		if _, err := os.Lstat(file); err == nil {
			return fmt.Errorf("%s exists already and is left as it is; name another file", file)
		}
		if st, err := os.Stat(filepath.Dir(file)); err != nil || !st.IsDir() {
			return fmt.Errorf("%s is no directory to write %s into", filepath.Dir(file), filepath.Base(file))
		}
	}
	return nil
}

// ofChain takes the token and the name of the key from a chain's entry.
func (k *keygen) ofChain() error {
	i := slices.IndexFunc(k.file.Chains, func(c config.Chain) bool { return c.Name == k.chain })
	if i < 0 {
		return fmt.Errorf("%s has no chain %q", k.file.Path, k.chain)
	}
	k.key, k.place = k.file.Chains[i].Key, fmt.Sprintf("chains[%d].key", i)
	switch {
	case len(k.key.Tokens) == 0:
		return fmt.Errorf("the key of chain %q is not on a token; write key: {tokens: [NAME], object: LABEL}, or make a file key with openssl", k.chain)
	case k.token != "" && k.token != k.key.Tokens[0]:
		return fmt.Errorf("the key of chain %q is made on %s, the first of its tokens; a copy for %s is made by cloning with the device's own tool", k.chain, k.key.Tokens[0], k.token)
	}
	var err error
	k.on, err = keys.FindToken(k.file, k.key.Tokens[0])
	return err
}

func (k *keygen) run(cmd *cobra.Command) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), keygenTimeout)
	defer cancel()
	c, err := keys.KeyConfig(k.place, k.key, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", k.place, err)
	}
	label := c.Object
	if label == "" {
		// The entry names the key by its id alone; people need a label too.
		label = k.chain
	}
	done := tellProgress(ctx, cmd.ErrOrStderr(), fmt.Sprintf("making an %s key in token %s", k.algorithm, k.on.Name))
	made, err := pkcs11.Generate(ctx, keys.TokenConfig(k.on), pkcs11.GenerateConfig{Object: label, ID: c.ID, Algorithm: k.algorithm})
	done()
	var text string
	if made != nil {
		text = minutes(made, k.file.Path, err)
		if k.transcript != "" {
			// Also, and all the more, when the token made something else.
			err = errors.Join(err, ceremony.WritePublic(k.transcript, []byte(text)))
		}
	}
	if err != nil {
		return err
	}
	if _, err := io.WriteString(cmd.OutOrStdout(), text+k.advice(made)); err != nil {
		return err
	}
	if k.csr == "" {
		return nil
	}
	return k.request(ctx, cmd, made)
}

// advice says what comes next.
func (k *keygen) advice(made *pkcs11.Generated) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nIn the configuration:\n  key: {tokens: [%s]%s}\n", k.on.Name, keyFields(made.Key))
	if more := k.key.Tokens[1:]; len(more) > 0 {
		fmt.Fprintf(&b, "Next: clone the key to %s with the device's own tool; it must keep its label.\n", strings.Join(more, ", "))
	}
	b.WriteString("Next: back up the token as its maker says. This key exists nowhere else.\n")
	return b.String()
}

// request has the new key sign its certificate request.
func (k *keygen) request(ctx context.Context, cmd *cobra.Command, made *pkcs11.Generated) error {
	// The id too: it is what was just made.
	key := config.Key{Tokens: []string{k.on.Name}, Object: made.Key.Label, ID: hex.EncodeToString(made.Key.ID)}
	err := writeRequest(ctx, k.file, k.place, key, made.Key, k.name, k.csr)
	if err != nil {
		return fmt.Errorf("the key is made, but the request is not: %w; mayfly ca csr makes one", err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Next: have %s certified, and put the certificate with those above it into the chain's file.\n", k.csr)
	return err
}

// tellProgress says now and then that the token still works: prime numbers take
// small devices minutes, and silence looks like a hang.
func tellProgress(ctx context.Context, out io.Writer, what string) (done func()) {
	stopped := make(chan struct{})
	ended := make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		fmt.Fprintf(out, "%s ...\n", what)
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(out, "  still at it after %s\n", time.Since(begin).Round(time.Second))
			case <-stopped:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { close(stopped); <-ended }
}
