package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/internal/ceremony"
)

// minutes is the transcript of a key generation. It says what somebody needs who
// was not there, and nothing that must be kept secret.
func minutes(g *pkcs11.Generated, configuration string, failure error) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s %s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	b.WriteString("Mayfly key generation\n\n")
	line("time", "%s", g.Started.UTC().Format(time.RFC3339))
	line("host", "%s", orUnknown(os.Hostname()))
	line("program", "mayfly %s", versionText())
	line("program sha256", "%s", orUnknown(ownDigest()))
	line("configuration", "%s", configuration)
	line("library", "%s", g.Library.Path)
	line("library sha256", "%s", g.Library.SHA256)
	line("library says", "%s by %s, version %s, Cryptoki %s", g.Library.Description, g.Library.Manufacturer, g.Library.Version, g.Library.Cryptoki)
	line("token", "%s", g.Token.URI)
	line("token says", "slot %d, firmware %s, hardware %s", g.Token.Slot, g.Token.Firmware, g.Token.Hardware)
	line("took", "%s", g.Took.Round(time.Millisecond))
	line("key", "%s", g.Key.URI)
	line("algorithm", "%s", g.Key.Algorithm)
	line("label", "%s", g.Key.Label)
	line("id", "%x", g.Key.ID)
	b.WriteString("\n")
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "private key attribute\tasked for\tread back")
	for _, a := range g.Attributes {
		fmt.Fprintf(table, "%s\t%s\t%s\n", a.Name, a.Want, a.Got)
	}
	_ = table.Flush() // into memory
	for _, n := range g.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	b.WriteString("\n")
	if der, err := x509.MarshalPKIXPublicKey(g.Key.Public); err == nil {
		sum := sha256.Sum256(der)
		line("public sha256", "%x", sum)
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		b.WriteString("\n")
	}
	if failure != nil {
		fmt.Fprintf(&b, "FAILED: %v\n", failure)
		return b.String()
	}
	line("test message", "%s", g.Message)
	line("test signature", "%x", g.Signature)
	b.WriteString("The signature, over the message's SHA-256, verifies under the public key above.\n")
	return b.String()
}

func orUnknown(s string, err error) string {
	if err != nil {
		return "unknown: " + err.Error()
	}
	return s
}

// maxProgram bounds what is hashed.
const maxProgram = 1 << 30

// ownDigest is SHA-256 of this program's file, which a SHA256SUMS beside the
// release tells too.
func ownDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxProgram)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeRequest has a key on a token sign a request for an issuing certificate.
func writeRequest(ctx context.Context, f *config.File, place string, k config.Key, o pkcs11.Object, subject ceremony.Name, file string) (err error) {
	key, err := keys.Open(ctx, f, place, k, o.Public)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	r, err := ceremony.NewRequest(subject, hsm.Signer(key))
	if err != nil {
		return err
	}
	return ceremony.WritePublic(file, r.PEM())
}
