package main

import (
	"bufio"
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/internal/ceremony"
)

const caInitLong = `Make a root and an intermediate, for those who have no PKI to chain to. It prints
its plan and asks before it does anything. Then it makes both keys and both
certificates, checks the chain as serve does, and writes all of it, with minutes
to print and sign, into a new directory, or nothing.

Keys are files, encrypted under the passphrase, unless the configuration names
keys in an HSM: with --chain that of the intermediate, with --root-chain that of
the root, as the key of a chain. Those keys must exist; see mayfly hsm keygen.

Do it on a machine that you trust and that is offline. Afterwards the root's key
goes to a safe place and off the machine; the service never needs it. Nothing is
overwritten, and no key is ever deleted.`

// Names of the files of a ceremony.
const (
	rootFile, chainFile, minutesFile = "root.pem", "chain.pem", "minutes.txt"
	rootKeyFile, issuingKeyFile      = "root.key", "issuing.key"
)

// initFlags are the flags of ca init.
type initFlags struct {
	dir, organization, rootSubject, issuingSubject string
	algorithm                                      string
	rootYears, issuingYears                        int
	passphraseFile, rootPassphraseFile             string
	config, chain, rootChain                       string
	yes                                            bool
}

func caInitCommand() *cobra.Command {
	var o initFlags
	cmd := &cobra.Command{
		Use:   "init --dir DIR --organization NAME --passphrase-file FILE",
		Short: "Make a root and an intermediate, in a ceremony with minutes",
		Long:  caInitLong,
		Example: `  mayfly ca init --dir /media/ceremony/pki --organization "Example Corp" --passphrase-file issuing.pass --root-passphrase-file root.pass
  mayfly ca init --dir pki --organization "Example Corp" --config mayfly.yaml --chain 2026 --root-passphrase-file root.pass`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, time.Now()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.dir, "dir", "", "new `directory` for everything (required)")
	flags.StringVar(&o.organization, "organization", "", "`name` of the organization (required unless both subjects are given)")
	flags.StringVar(&o.rootSubject, "root-subject", "", `subject of the root (default "CN=Mayfly Root CA" with the year and the organization)`)
	flags.StringVar(&o.issuingSubject, "intermediate-subject", "", `subject of the intermediate (default "CN=Mayfly Issuing CA" likewise)`)
	flags.StringVar(&o.algorithm, "algorithm", "ecdsa-p384", "of new keys: ecdsa-p256, ecdsa-p384, rsa-3072 or rsa-4096")
	flags.IntVar(&o.rootYears, "root-years", 20, "validity of the root")
	flags.IntVar(&o.issuingYears, "intermediate-years", 5, "validity of the intermediate")
	flags.StringVar(&o.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the intermediate's key")
	flags.StringVar(&o.rootPassphraseFile, "root-passphrase-file", "", "`file` with the passphrase of the root's key; default that of the intermediate's")
	addConfigFlags(cmd, &o.config)
	flags.Lookup("config").Usage = "configuration `file` that names keys in an HSM"
	flags.StringVar(&o.chain, "chain", "", "`name` of the chain whose key the intermediate is for; default a new key in a file")
	flags.StringVar(&o.rootChain, "root-chain", "", "`name` of the chain whose key the root is for; default a new key in a file")
	flags.BoolVar(&o.yes, "yes", false, "do not ask")
	return cmd
}

func (o *initFlags) run(cmd *cobra.Command, now time.Time) error {
	// The minutes and the lines for the configuration are read elsewhere.
	for _, path := range []*string{&o.dir, &o.passphraseFile, &o.rootPassphraseFile, &o.config} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("naming a file: %w", err)
		}
	}
	rootName, issuingName, err := o.names(now)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	plan := o.plan(rootName, issuingName)
	fmt.Fprintf(cmd.OutOrStdout(), "Plan\n%s\n", plan)
	if err := o.confirm(cmd); err != nil {
		return err
	}
	root, err := o.key(cmd, o.rootChain, rootKeyFile, cmp.Or(o.rootPassphraseFile, o.passphraseFile))
	if err != nil {
		return fmt.Errorf("the root's key: %w", err)
	}
	defer root.close()
	issuing, err := o.key(cmd, o.chain, issuingKeyFile, o.passphraseFile)
	if err != nil {
		return fmt.Errorf("the intermediate's key: %w", err)
	}
	defer issuing.close()
	h, err := ceremony.NewHierarchy(ceremony.HierarchyConfig{
		RootName: rootName, IssuingName: issuingName, RootYears: o.rootYears, IssuingYears: o.issuingYears,
		Root: root.signer, Issuing: issuing.signer.Public(), Now: now,
	})
	if err != nil {
		return err
	}
	files := append(root.files, issuing.files...)
	files = append(files,
		ceremony.File{Name: rootFile, Data: ceremony.EncodeChain(h.Chain()[1:])},
		ceremony.File{Name: chainFile, Data: ceremony.EncodeChain(h.Chain())})
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	minutes := ceremony.Minutes{
		Time: now, Host: host, Program: "mayfly " + versionText(), Plan: plan,
		RootKey: root.where, IssuingKey: issuing.where, Hierarchy: h, Files: files, Next: o.next(),
	}.Text()
	if err := ceremony.WriteDirectory(o.dir, append(files, ceremony.File{Name: minutesFile, Data: []byte(minutes)})); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\neverything is in %s; these minutes are %s\n", minutes, o.dir, filepath.Join(o.dir, minutesFile))
	return err
}

func (o *initFlags) names(now time.Time) (root, issuing ceremony.Name, err error) {
	if o.organization != "" {
		if root, issuing, err = ceremony.DefaultNames(o.organization, now); err != nil {
			return root, issuing, err
		}
	}
	if o.rootSubject != "" {
		if root, err = ceremony.ParseName(o.rootSubject); err != nil {
			return root, issuing, err
		}
	}
	if o.issuingSubject != "" {
		if issuing, err = ceremony.ParseName(o.issuingSubject); err != nil {
			return root, issuing, err
		}
	}
	if root.IsZero() || issuing.IsZero() {
		return root, issuing, errors.New("give --organization, or --root-subject and --intermediate-subject")
	}
	return root, issuing, nil
}

// check refuses before anything is asked what could not be done afterwards.
func (o *initFlags) check() error {
	switch {
	case o.dir == "":
		return errors.New("name a new directory with --dir")
	case (o.chain != "" || o.rootChain != "") && o.config == "":
		return errors.New("--chain and --root-chain name chains of a configuration; give it with --config")
	case o.config != "" && o.chain == "" && o.rootChain == "":
		return errors.New("--config is given, but neither --chain nor --root-chain says what for")
	case o.chain == "" && o.passphraseFile == "":
		return errors.New("--passphrase-file is missing: a CA key is not written in the clear")
	case o.rootChain == "" && cmp.Or(o.rootPassphraseFile, o.passphraseFile) == "":
		return errors.New("--root-passphrase-file is missing: a CA key is not written in the clear")
	}
	return ceremony.CheckVacant(o.dir)
}

func (o *initFlags) plan(root, issuing ceremony.Name) string {
	source := func(chain, file string) string {
		if chain != "" {
			return fmt.Sprintf("the key of chain %q in %s, which stays where it is", chain, o.config)
		}
		return fmt.Sprintf("a new %s key, encrypted, in %s", o.algorithm, filepath.Join(o.dir, file))
	}
	return fmt.Sprintf(`root          %s
  valid       %d years, for one level of authorities below it
  key         %s
intermediate  %s
  valid       %d years, for code signing alone, for no authority below it
  key         %s
directory     %s, which must not exist or be empty
`, root, o.rootYears, source(o.rootChain, rootKeyFile), issuing, o.issuingYears, source(o.chain, issuingKeyFile), o.dir)
}

// confirm asks. An input that ends, as in a pipeline, is a no.
func (o *initFlags) confirm(cmd *cobra.Command) error {
	if o.yes {
		return nil
	}
	fmt.Fprint(cmd.OutOrStdout(), "Type yes to go on: ")
	in := bufio.NewScanner(cmd.InOrStdin())
	if in.Scan() && strings.TrimSpace(in.Text()) == "yes" {
		fmt.Fprintln(cmd.OutOrStdout())
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout())
	return errors.New("nothing was made")
}

// ceremonyKey is a key of the ceremony.
type ceremonyKey struct {
	signer crypto.Signer
	// where says where the private key is.
	where string
	// files is the key file, if the key was made here.
	files []ceremony.File
	// open is the key, if it is one of the configuration.
	open hsm.Key
}

// close logs out of the token. What was signed is signed, whatever it says.
func (k *ceremonyKey) close() {
	if k.open != nil {
		_ = k.open.Close()
	}
}

func (o *initFlags) key(cmd *cobra.Command, chain, file, passphraseFile string) (*ceremonyKey, error) {
	if chain != "" {
		f, i, err := namedChain(cmd, o.config, chain)
		if err != nil {
			return nil, err
		}
		key, err := openChainKey(cmd.Context(), f, i)
		if err != nil {
			return nil, err
		}
		return &ceremonyKey{signer: hsm.Signer(key), open: key, where: fmt.Sprintf("that of chain %q in %s", chain, o.config)}, nil
	}
	passphrase, err := hsm.ReadPassphrase(passphraseFile)
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	signer, text, err := hsm.GenerateFileKey(o.algorithm, passphrase)
	if err != nil {
		return nil, err
	}
	return &ceremonyKey{
		signer: signer, where: file + ", encrypted under " + passphraseFile,
		files: []ceremony.File{{Name: file, Secret: true, Data: text}},
	}, nil
}

// next says what is to be done with what was made.
func (o *initFlags) next() []string {
	at := func(file string) string { return filepath.Join(o.dir, file) }
	var steps []string
	if o.rootChain == "" {
		steps = append(steps,
			fmt.Sprintf("Copy %s to two offline media, kept in two places, apart from its passphrase.\n   Open each copy: openssl pkey -in root.key -noout -check", at(rootKeyFile)),
			fmt.Sprintf("Then take %s off this machine yourself: the service never needs it,\n   and this program deletes no key.", at(rootKeyFile)))
	}
	key := "key: as it is"
	if o.chain == "" {
		key = fmt.Sprintf("key: {file: %s, passphrase_file: %s}", at(issuingKeyFile), o.passphraseFile)
	}
	return append(steps,
		fmt.Sprintf("In the configuration, under chains: certificates: %s, %s", at(chainFile), key),
		fmt.Sprintf("Give %s to those who verify, with its SHA-256 from above by another way.\n   Keep it out of the roots of desktops: who holds a certificate of ours could sign programs for them.", at(rootFile)),
		"Print these minutes; everybody present signs them.")
}
