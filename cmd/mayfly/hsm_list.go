package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

func hsmListCommand() *cobra.Command {
	var path, module, name string
	cmd := &cobra.Command{
		Use:   "list (--module PATH | --config FILE)",
		Short: "Show tokens and keys as configuration to copy",
		Long: `With --module, print an entry for the configuration for each token that a PKCS#11
library offers. Nobody is logged in, and no PIN is needed.

With --config, log in once to each token of the configuration and print the keys
that it holds: what to write under chains[].key to use one, what the token says of
it, whose certificates lie beside it. Both print the URI (RFC 7512) by which other
programs know the same thing.

A PIN is read from the token's pin_file and from nowhere else.`,
		Example: `  mayfly hsm list --module /usr/lib/softhsm/libsofthsm2.so
  mayfly hsm list --config mayfly.yaml
  mayfly hsm list --config mayfly.yaml --token hsm-a`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), tokenTimeout)
			defer cancel()
			switch {
			case (module == "") == (path == ""):
				return errors.New("say where to look: --module PATH for the tokens of a library, or --config FILE for the keys in those of a configuration")
			case module != "" && name != "":
				return errors.New("--token names an entry of the configuration; give --config with it")
			case module != "":
				return listTokens(ctx, cmd.OutOrStdout(), module)
			}
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
			for _, t := range tokens {
				if err := listKeys(ctx, cmd.OutOrStdout(), t); err != nil {
					return err
				}
			}
			return nil
		},
	}
	addConfigFlags(cmd, &path)
	cmd.Flags().Lookup("config").Usage = "configuration `file`"
	cmd.Flags().StringVar(&module, "module", "", "PKCS#11 library, by its absolute `path`")
	cmd.Flags().StringVar(&name, "token", "", "`name` of the only token of the configuration to log in to")
	return cmd
}

func listTokens(ctx context.Context, out io.Writer, module string) error {
	library, entries, err := pkcs11.List(ctx, module)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: %s by %s, version %s, sha256 %s\n", library.Path, clean(library.Description), clean(library.Manufacturer), library.Version, library.SHA256)
	b.WriteString("tokens:\n")
	named := 0
	for _, e := range entries {
		if !e.Initialized {
			fmt.Fprintf(&b, "  # slot %d holds a token that nobody has initialized: %s\n", e.Slot, e.URI)
			continue
		}
		named++
		fmt.Fprintf(&b, "  # slot %d, firmware %s", e.Slot, clean(e.Firmware))
		if e.PIN != "" {
			fmt.Fprintf(&b, "; look out: %s", e.PIN)
		}
		fmt.Fprintf(&b, "\n  # %s\n  - name: %s\n    module: %s\n", e.URI, entryName(e.Label, named), quote(module))
		for _, field := range [][2]string{{"label", e.Label}, {"serial", e.Serial}, {"manufacturer", e.Manufacturer}, {"model", e.Model}} {
			if field[1] != "" {
				fmt.Fprintf(&b, "    %s: %s\n", field[0], quote(field[1]))
			}
		}
		b.WriteString("    pin_file: hsm.pin   # name your own: the PIN in its only line, mode 0600\n")
	}
	if named == 0 {
		b.WriteString("  # none that could be used; initialize one with the device's own tool\n")
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// entryName makes a name that the configuration accepts of a token's label.
func entryName(label string, n int) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, label), "-._")
	if name == "" {
		return "token-" + strconv.Itoa(n)
	}
	return name
}

// quote writes a YAML string that is read back as it is: what looks like a
// number, as many serials do, stays text.
func quote(s string) string { return strconv.QuoteToGraphic(s) }

// clean keeps what a token says from writing lines of its own.
func clean(s string) string {
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func listKeys(ctx context.Context, out io.Writer, t config.Token) error {
	entry, objects, err := pkcs11.ListKeys(ctx, keys.TokenConfig(t))
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# token %s: %s\n# %s\n", t.Name, entry.URI, count(len(objects), "private key"))
	for _, o := range objects {
		fmt.Fprintf(&b, "\n# %s, %s\n# %s\n", clean(o.Algorithm), protection(o), o.URI)
		if o.Public == nil {
			b.WriteString("# the token tells its public key nowhere\n")
		} else {
			fmt.Fprintf(&b, "# public key sha256 %s (from the %s)\n", o.Fingerprint(), o.PublicFrom)
		}
		var flags []string
		for _, f := range o.Flags {
			flags = append(flags, strings.ToLower(strings.TrimPrefix(f.Name, "CKA_"))+" "+f.String())
		}
		fmt.Fprintf(&b, "# %s\n", strings.Join(flags, ", "))
		for _, c := range o.Certificates {
			fmt.Fprintf(&b, "# certificate beside it: %s, until %s\n", clean(c.Subject.String()), c.NotAfter.UTC().Format("2006-01-02"))
		}
		fmt.Fprintf(&b, "key: {tokens: [%s]%s}\n", t.Name, keyFields(o))
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// keyFields names a key as chains[].key does.
func keyFields(o pkcs11.Object) string {
	var b strings.Builder
	if o.Label != "" {
		b.WriteString(", object: " + quote(o.Label))
	}
	if len(o.ID) > 0 {
		fmt.Fprintf(&b, `, id: "%x"`, o.ID)
	}
	return b.String()
}

// protection says in words how well the token keeps a key.
func protection(o pkcs11.Object) string {
	is := func(name string, want bool) bool { f := o.Flag(name); return f.Known && f.Value == want }
	switch {
	case is("CKA_SENSITIVE", false):
		return "readable in the clear by whoever has the PIN: not for a CA"
	case is("CKA_EXTRACTABLE", true):
		return "can be taken out of the token: not for a CA"
	case is("CKA_NEVER_EXTRACTABLE", true) && is("CKA_LOCAL", true):
		return "made in this token and never able to leave it"
	case is("CKA_SENSITIVE", true) && is("CKA_EXTRACTABLE", false):
		return "cannot leave the token, but was not always locked in it"
	default:
		return "the token does not tell how well it is kept"
	}
}
