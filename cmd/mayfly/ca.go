package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
)

func caCommand() *cobra.Command {
	return group("ca", "Work with the authority's keys and chains", `  mayfly ca csr --config /etc/mayfly/mayfly.yaml --out ca.csr
  mayfly ca check issued.cer root.cer --config /etc/mayfly/mayfly.yaml --write /etc/mayfly/chain.pem`,
		caCSRCommand(), caCheckCommand(), caStatusCommand(), caInitCommand())
}

// keyFlags say which key a command is about: one of a chain in the
// configuration, or a file.
type keyFlags struct {
	config, chain        string
	file, passphraseFile string
}

func (k *keyFlags) add(cmd *cobra.Command) {
	addConfigFlags(cmd, &k.config)
	cmd.Flags().Lookup("config").Usage = "configuration `file` that names the key"
	cmd.Flags().StringVar(&k.chain, "chain", "", "`name` of the chain in the configuration; default the only one")
	cmd.Flags().StringVar(&k.file, "key", "", "private key `file`, in place of --config")
	cmd.Flags().StringVar(&k.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the key file")
	cmd.MarkFlagsMutuallyExclusive("config", "key")
	cmd.MarkFlagsMutuallyExclusive("chain", "key")
	cmd.MarkFlagsMutuallyExclusive("config", "passphrase-file")
}

// given reports that a key was named.
func (k *keyFlags) given() bool { return k.config != "" || k.file != "" }

// namedChain loads the configuration and finds the chain.
func namedChain(cmd *cobra.Command, path, name string) (*config.File, int, error) {
	f, err := config.Load(path, cmd.Flags())
	if err != nil {
		return nil, 0, err
	}
	if name == "" && len(f.Chains) == 1 {
		return f, 0, nil
	}
	var names []string
	for i, c := range f.Chains {
		if c.Name == name {
			return f, i, nil
		}
		names = append(names, c.Name)
	}
	if name == "" {
		return nil, 0, fmt.Errorf("%s has %d chains, %q: name one with --chain", f.Path, len(names), names)
	}
	return nil, 0, fmt.Errorf("%s has no chain %q, but %q", f.Path, name, names)
}

// open opens the key that the flags name. chain is nil for a key in a file.
func (k *keyFlags) open(cmd *cobra.Command) (key hsm.Key, chain *config.Chain, err error) {
	switch {
	case k.file != "":
		key, err := hsm.LoadFile(hsm.FileConfig{Path: k.file, PassphraseFile: k.passphraseFile})
		if err != nil {
			return nil, nil, err
		}
		return key, nil, nil
	case k.config == "":
		return nil, nil, errors.New("no key was named; give --config FILE with --chain NAME, --key FILE, or --new-key FILE to make one")
	}
	f, i, err := namedChain(cmd, k.config, k.chain)
	if err != nil {
		return nil, nil, err
	}
	key, err = openChainKey(cmd.Context(), f, i)
	if err != nil {
		return nil, nil, err
	}
	return key, &f.Chains[i], nil
}

// openChainKey opens the key of a chain, in a file or on tokens. The chain's
// certificate may not exist yet, so the token is asked for the public key.
func openChainKey(ctx context.Context, f *config.File, i int) (hsm.Key, error) {
	return keys.Open(ctx, f, fmt.Sprintf("chains[%d].key", i), f.Chains[i].Key, nil)
}

// keyText names the kind of a key for people.
func keyText(public any) string {
	switch pub := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + pub.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", pub.N.BitLen())
	default:
		return fmt.Sprintf("%T", pub)
	}
}
