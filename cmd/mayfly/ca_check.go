package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/ceremony"
)

// checkFile is the one check that the certificates do not pass by themselves:
// that the file is what the service reads.
const checkFile = "file"

const caCheckLong = `Check the certificates that a PKI gave back, as serve does at its start and more:
path, key, CA flags, path length, purpose, name constraints, validity, strength,
size, throw-away certificates for code signing. Each check gives its reason and
what to do.

Read are PEM, DER and PKCS#7 (.p7b), several files together, in any order. The
service wants one PEM file, issuing certificate first and root last: --write makes
it, in a new file, if there is no problem. Without FILE, the chain of the
configuration is checked, with its cross-signed paths.

Exit code 1 means that there is a problem.`

// checkFlags are the flags of ca check.
type checkFlags struct {
	key           keyFlags
	write, output string
}

func caCheckCommand() *cobra.Command {
	var o checkFlags
	cmd := &cobra.Command{
		Use:   "check FILE... [--config FILE [--chain NAME] | --key FILE]",
		Short: "Check a chain, and put it into the form that serve reads",
		Long:  caCheckLong,
		Example: `  mayfly ca check issued.cer root.cer --config /etc/mayfly/mayfly.yaml --write /etc/mayfly/chain.pem
  mayfly ca check certnew.p7b --key ca.key --passphrase-file ca.pass --write chain.pem
  mayfly ca check --config /etc/mayfly/mayfly.yaml --chain 2026
  mayfly ca check chain.pem --output json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args, time.Now()) },
	}
	o.key.add(cmd)
	cmd.Flags().StringVar(&o.write, "write", "", "new `file` for the chain in the order and form that serve reads")
	cmd.Flags().StringVarP(&o.output, "output", "o", "text", "`format`: text or json")
	return cmd
}

// chainReport is what ca check prints.
type chainReport struct {
	Usable       bool                `json:"usable"`
	Certificates []certificateReport `json:"certificates"`
	Findings     []ca.Finding        `json:"findings"`
	Written      string              `json:"written,omitempty"`
}

type certificateReport struct {
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256"`
	NotAfter time.Time `json:"not_after"`
}

func (o *checkFlags) run(cmd *cobra.Command, files []string, now time.Time) error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output %q is neither text nor json", o.output)
	}
	files, crossSigned, public, err := o.subject(cmd, files)
	if err != nil {
		return err
	}
	set, err := readAll(files)
	if err != nil {
		return err
	}
	report, path, err := inspect(set, public, now)
	if err != nil {
		return err
	}
	for _, file := range crossSigned {
		if err := report.addCrossSigned(file, path[0], now); err != nil {
			return err
		}
	}
	usable := func() bool { return ca.Worst(report.Findings) < ca.Problem }
	if o.write == "" {
		report.add(set.shape(path, files))
	} else if usable() {
		if err := ceremony.WritePublic(o.write, ceremony.EncodeChain(path)); err != nil {
			return err
		}
		report.Written = o.write
	}
	report.Usable = usable()
	if o.output == "json" {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.writeText(cmd.OutOrStdout())
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if !report.Usable {
		return errors.New("this chain cannot be used; the problems are named above")
	}
	return nil
}

// subject returns the files to read, the further paths of a chain of the
// configuration that is checked as it stands, and the public key to expect, nil
// when no key was named.
func (o *checkFlags) subject(cmd *cobra.Command, args []string) (files, crossSigned []string, public crypto.PublicKey, err error) {
	if !o.key.given() {
		if len(args) == 0 {
			return nil, nil, nil, errors.New("mayfly ca check needs a FILE, or --config; see mayfly ca check --help")
		}
		return args, nil, nil, nil
	}
	key, chain, err := o.key.open(cmd)
	if err != nil {
		return nil, nil, nil, err
	}
	public = key.Public()
	if err := key.Close(); err != nil {
		return nil, nil, nil, fmt.Errorf("closing the key: %w", err)
	}
	switch {
	case len(args) > 0:
		return args, nil, public, nil
	case chain == nil:
		return nil, nil, nil, errors.New("mayfly ca check needs a FILE beside --key; see mayfly ca check --help")
	}
	return []string{chain.Certificates}, chain.CrossSigned, public, nil
}

// certificateSet is what was read from the files.
type certificateSet struct {
	certs []*x509.Certificate
	forms []string
	whole []byte // of the only file
}

func readAll(files []string) (*certificateSet, error) {
	set := &certificateSet{}
	for _, file := range files {
		// A PKI's answer is small; a mistyped device must not be read for ever.
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, 1<<20))
		_ = f.Close() // nothing was written
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		certs, form, err := ceremony.ReadCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		set.certs, set.forms, set.whole = append(set.certs, certs...), append(set.forms, form), data
	}
	return set, nil
}

// inspect finds the path and makes every check.
func inspect(set *certificateSet, public crypto.PublicKey, now time.Time) (*chainReport, []*x509.Certificate, error) {
	path, rest, err := ceremony.Order(set.certs, public)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the path: %w", err)
	}
	r := &chainReport{Findings: ca.Inspect(path, public, now)}
	system, err := x509.SystemCertPool()
	if err != nil {
		system = nil // a machine without roots of its own is no reason to stop
	}
	r.Findings = append(r.Findings, ceremony.DesktopEvidence(path, system, now)...)
	for _, c := range path {
		r.Certificates = append(r.Certificates, certificateReport{ceremony.ShowName(c.RawSubject), fmt.Sprintf("%x", sha256.Sum256(c.Raw)), c.NotAfter.UTC()})
	}
	if last := path[len(path)-1]; !bytes.Equal(last.RawIssuer, last.RawSubject) {
		r.add(ca.Finding{Check: checkFile, Level: ca.Note, Text: fmt.Sprintf(
			"the certificate of %q is not there; ask the PKI for it and name its file, too", ceremony.ShowName(last.RawIssuer))})
	}
	for _, c := range rest {
		r.add(ca.Finding{Check: checkFile, Level: ca.Note, Text: fmt.Sprintf("the certificate of %q is not part of the path", ceremony.ShowName(c.RawSubject))})
	}
	return r, path, nil
}

// addCrossSigned checks a further path for the key of the issuing certificate, and
// says what is to be said about it.
func (r *chainReport) addCrossSigned(file string, issuing *x509.Certificate, now time.Time) error {
	set, err := readAll([]string{file})
	if err != nil {
		return err
	}
	other, path, err := inspect(set, issuing.PublicKey, now)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	other.add(set.shape(path, []string{file}))
	// Who trusts the other root must come to the same key by name and identifier.
	if !bytes.Equal(path[0].RawSubject, issuing.RawSubject) || !bytes.Equal(path[0].SubjectKeyId, issuing.SubjectKeyId) {
		other.add(ca.Finding{Check: ca.CheckIdentifiers, Level: ca.Problem, Text: "its first certificate has another subject, " +
			"or one that is encoded otherwise, or another key identifier than the chain's; have both made of one request"})
	}
	for _, f := range other.Findings {
		if f.Level > ca.OK {
			r.add(ca.Finding{Check: f.Check, Level: f.Level, Text: file + ": " + f.Text})
		}
	}
	if ca.Worst(other.Findings) < ca.Problem {
		r.add(ca.Finding{Check: checkFile, Level: ca.OK, Text: file + ": this further path can be used, too"})
	}
	return nil
}

func (r *chainReport) add(f ca.Finding) { r.Findings = append(r.Findings, f) }

// shape compares what was given with what serve reads.
func (set *certificateSet) shape(path []*x509.Certificate, files []string) ca.Finding {
	const remedy = "serve wants one PEM file with the issuing certificate first and the root last; have it made with --write FILE"
	bad := func(what string) ca.Finding {
		return ca.Finding{Check: checkFile, Level: ca.Problem, Text: what + "; " + remedy}
	}
	switch {
	case len(files) > 1:
		return ca.Finding{Check: checkFile, Level: ca.Note, Text: fmt.Sprintf("these are %d files; %s", len(files), remedy)}
	case set.forms[0] != "PEM":
		return bad("the file is " + set.forms[0])
	case !slices.EqualFunc(set.certs, path, (*x509.Certificate).Equal):
		return bad("the certificates are in another order, or there are too many")
	}
	if _, err := ca.ParseChain(set.whole); err != nil {
		return bad(err.Error())
	}
	return ca.Finding{Check: checkFile, Level: ca.OK, Text: "the file is in the form and order that serve reads"}
}

func (r *chainReport) writeText(w io.Writer) error {
	var b strings.Builder
	for i, c := range r.Certificates {
		fmt.Fprintf(&b, "%d  %s\n   until %s, SHA-256 %s\n", i+1, c.Subject, c.NotAfter.Format(time.RFC3339), c.SHA256)
	}
	b.WriteByte('\n')
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-8s %-20s %s\n", f.Level, f.Check, f.Text)
	}
	switch {
	case r.Written != "":
		fmt.Fprintf(&b, "\nwritten to %s; name it under chains: certificates\n", r.Written)
	case r.Usable:
		b.WriteString("\nthis chain can be used\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
