package rfc6962

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// maxLead is how far the clock of a submitter may be ahead of ours.
const maxLead = 5 * time.Minute

var oidPoison = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}

// entry is a submission that was checked in full.
type entry struct {
	// identity is the same for submissions that come to the same leaf.
	identity fingerprint
	submit   func(context.Context, Log) (ctlog.SCT, error)
}

// check verifies a chain as the entry of a precertificate or of a certificate.
func (is *Issuers) check(chain [][]byte, precertificate bool, now time.Time) (entry, error) {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return entry{}, fmt.Errorf("certificate 0 of the chain: %w", err)
	}
	poisoned := slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidPoison) })
	switch {
	case poisoned && !precertificate:
		return entry{}, errors.New("pre-certificate submitted to add-chain")
	case !poisoned && precertificate:
		return entry{}, errors.New("certificate without CT poison submitted to add-pre-chain")
	}
	if err := checkLeaf(leaf, now); err != nil {
		return entry{}, err
	}
	p, err := is.pathOf(leaf, chain[1:], now)
	if err != nil {
		return entry{}, err
	}
	if precertificate {
		return precertificateEntry(leaf, p)
	}
	return certificateEntry(leaf, p), nil
}

func checkLeaf(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf.IsCA:
		return errors.New("rejecting the certificate of a certificate authority")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return errors.New("rejecting certificate without EKU codeSigning")
	case now.After(leaf.NotAfter):
		return fmt.Errorf("rejecting expired certificate: NotAfter is %s", leaf.NotAfter.Format(time.RFC3339))
	case leaf.NotBefore.Sub(now) > maxLead:
		return fmt.Errorf("rejecting certificate that is not valid yet: NotBefore is %s", leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// precertificateEntry is about the TBSCertificate without poison and the issuing
// key: two precertificates that differ in nothing but their signature come to the
// same leaf.
func precertificateEntry(leaf *x509.Certificate, p *path) (entry, error) {
	s, err := ctlog.NewSubmission(leaf.Raw, p.raw)
	if err != nil {
		return entry{}, err
	}
	h := sha256.New()
	h.Write([]byte{1}) // RFC 6962, Section 3.1: precert_entry(1)
	h.Write(s.IssuerKeyHash[:])
	h.Write(s.TBS)
	return entry{
		identity: fingerprint(h.Sum(nil)),
		submit:   func(ctx context.Context, l Log) (ctlog.SCT, error) { return l.Submit(ctx, s) },
	}, nil
}

func certificateEntry(leaf *x509.Certificate, p *path) entry {
	h := sha256.New()
	h.Write([]byte{0}) // RFC 6962, Section 3.1: x509_entry(0)
	h.Write(leaf.Raw)
	e := embedded.Entry{Certificate: leaf.Raw, Issuers: p.raw}
	return entry{
		identity: fingerprint(h.Sum(nil)),
		submit:   func(ctx context.Context, l Log) (ctlog.SCT, error) { return l.Add(ctx, e) },
	}
}
