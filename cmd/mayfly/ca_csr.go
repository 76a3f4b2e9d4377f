package main

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/internal/ceremony"
)

const caCSRLong = `Make a certificate request (PKCS#10) for an issuing certificate, signed by the key
of a chain in the configuration, whose certificates need not exist yet, or by a
key in a file. The request asks for what an issuing certificate needs and for
nothing more: CA:TRUE with path length 0, keyCertSign and cRLSign, codeSigning.
It is read back and verified before it is written.

With --new-key a key is made first, in a new file, encrypted under the passphrase;
for a key in an HSM see mayfly hsm keygen. Nothing is overwritten.

Without --out the request goes to standard output. What the PKI's administrator
must check, and how usual PKIs sign it, goes to standard error.`

// csrFlags are the flags of ca csr.
type csrFlags struct {
	key                            keyFlags
	newKey, algorithm, subject, to string
}

func caCSRCommand() *cobra.Command {
	var o csrFlags
	cmd := &cobra.Command{
		Use:   "csr (--config FILE [--chain NAME] | --key FILE | --new-key FILE)",
		Short: "Make a certificate request for the organization's PKI to sign",
		Long:  caCSRLong,
		Example: `  mayfly ca csr --config /etc/mayfly/mayfly.yaml --chain 2026 --subject "CN=Mayfly Issuing CA 2026,O=Example Corp" --out ca.csr
  mayfly ca csr --new-key ca.key --passphrase-file ca.pass --subject "CN=Mayfly Issuing CA 2026,O=Example Corp" --out ca.csr`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd, time.Now()) },
	}
	o.key.add(cmd)
	cmd.Flags().StringVar(&o.newKey, "new-key", "", "make a key in this new `file` first")
	cmd.Flags().StringVar(&o.algorithm, "algorithm", "ecdsa-p384", "of the new key: ecdsa-p256, ecdsa-p384, rsa-3072 or rsa-4096")
	cmd.Flags().StringVar(&o.subject, "subject", "", "subject as RFC 4514 writes it (default \"CN=Mayfly Issuing CA\" and the year)")
	cmd.Flags().StringVar(&o.to, "out", "", "new `file` for the request; default standard output")
	cmd.MarkFlagsMutuallyExclusive("config", "key", "new-key")
	return cmd
}

func (o *csrFlags) run(cmd *cobra.Command, now time.Time) error {
	text := o.subject
	if text == "" {
		text = fmt.Sprintf("CN=Mayfly Issuing CA %d", now.UTC().Year())
	}
	subject, err := ceremony.ParseName(text)
	if err != nil {
		return err
	}
	// Before anything is made: no key should be left over for want of a name.
	for _, file := range []string{o.newKey, o.to} {
		if _, err := os.Lstat(file); file != "" && err == nil {
			return fmt.Errorf("%s exists already and is left as it is; name another file", file)
		}
	}
	request, chain, err := o.request(cmd, subject)
	if err != nil {
		return err
	}
	if o.to == "" {
		_, err = cmd.OutOrStdout().Write(request.PEM())
	} else {
		err = ceremony.WritePublic(o.to, request.PEM())
	}
	if err != nil && o.newKey != "" {
		return fmt.Errorf("%w; the new key is in %s: have it make the request with --key", err, o.newKey)
	}
	if err != nil {
		return err
	}
	o.advise(cmd.ErrOrStderr(), request, chain)
	return nil
}

// request makes the request with the key of the flags. chain is nil if that is
// not one of the configuration.
func (o *csrFlags) request(cmd *cobra.Command, subject ceremony.Name) (r *ceremony.Request, chain *config.Chain, err error) {
	if o.newKey == "" {
		key, chain, err := o.key.open(cmd)
		if err != nil {
			return nil, nil, err
		}
		r, err := ceremony.NewRequest(subject, hsm.Signer(key))
		return r, chain, errors.Join(err, key.Close())
	}
	if o.key.passphraseFile == "" {
		return nil, nil, errors.New("--new-key needs --passphrase-file: a CA key is not written in the clear")
	}
	passphrase, err := hsm.ReadPassphrase(o.key.passphraseFile)
	if err != nil {
		return nil, nil, err
	}
	defer clear(passphrase)
	signer, encrypted, err := hsm.GenerateFileKey(o.algorithm, passphrase)
	if err != nil {
		return nil, nil, err
	}
	if r, err = ceremony.NewRequest(subject, signer); err != nil {
		return nil, nil, err
	}
	return r, nil, ceremony.WriteSecret(o.newKey, encrypted)
}

// advise says what is to be done with the request.
func (o *csrFlags) advise(w io.Writer, r *ceremony.Request, chain *config.Chain) {
	file := cmp.Or(o.to, "ca.csr")
	var check string
	switch {
	case chain != nil:
		check = fmt.Sprintf("--config %s --chain %s --write %s", o.key.config, chain.Name, chain.Certificates)
		renewal(w, chain, r.PublicKey())
	case o.newKey != "":
		fmt.Fprintf(w, "new key         %s (encrypted; back it up with its passphrase apart)\n", o.newKey)
		check = fmt.Sprintf("--key %s --passphrase-file %s --write chain.pem", o.newKey, o.key.passphraseFile)
	default:
		check = fmt.Sprintf("--key %s%s --write chain.pem", o.key.file, passphraseFlag(o.key.passphraseFile))
	}
	fmt.Fprintf(w, `request         %s
subject         %s
key             %s
key SHA-256     %s
request SHA-256 %s

The administrator of the PKI checks before signing:
  - that the key's fingerprint is the one above, told by another way than the file came
      openssl req -in %[1]s -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum
  - that the certificate will be that of a CA: CA:TRUE, pathlen:0, keyCertSign and cRLSign,
    extended key usage codeSigning alone, valid for longer than a year
  - that no desktop should trust the root above it: see docs/pki/README.md

To sign it (guides: docs/pki):
  OpenSSL  openssl x509 -req -in %[1]s -CA root.pem -CAkey root.key -days 1825 -copy_extensions copyall -out issued.pem
  AD CS    certreq -submit -attrib "CertificateTemplate:SubCA" %[1]s issued.cer issued.p7b
  EJBCA    bin/ejbca.sh createcert --username mayfly --password PASSWORD -c %[1]s -f issued.pem
  OpenBao  bao write -field=certificate pki/root/sign-intermediate csr=@%[1]s use_csr_values=true max_path_length=0 ttl=43800h > issued.pem

With what comes back, and the root:
  mayfly ca check issued.pem root.pem %[6]s
`, file, r.Subject(), keyText(r.PublicKey()), r.KeyFingerprint(), r.Fingerprint(), check)
}

func passphraseFlag(file string) string {
	if file == "" {
		return ""
	}
	return " --passphrase-file " + file
}

// renewal tells those who have a certificate for this key what they are doing.
func renewal(w io.Writer, chain *config.Chain, public crypto.PublicKey) {
	data, err := os.ReadFile(chain.Certificates)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "note: %s is there and stays as it is\n", filepath.Clean(chain.Certificates))
	certs, err := ca.ParseChain(data)
	k, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if err == nil && ok && k.Equal(certs[0].PublicKey) {
		fmt.Fprintf(w, `note: chain %q has a certificate for this key until %s. This request renews it under the same key.
note: to rotate, make a new key (mayfly ca csr --new-key FILE, or mayfly hsm keygen) for a second chain; see docs/rotation.md
`, chain.Name, certs[0].NotAfter.UTC().Format(time.RFC3339))
	}
}
