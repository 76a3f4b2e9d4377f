package ctlog

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// NewSubmission makes a submission of a precertificate and the chain above it,
// the issuing certificate first: it takes the poison out of the one and the key
// out of the other. Signatures are not checked. Every error wraps [ErrRejected].
func NewSubmission(precertificate []byte, issuers [][]byte) (Submission, error) {
	if len(issuers) == 0 {
		return Submission{}, fmt.Errorf("%w: %w", ErrRejected, errors.New("no issuing certificate"))
	}
	issuer, err := x509.ParseCertificate(issuers[0])
	if err != nil {
		return Submission{}, fmt.Errorf("%w: reading issuing certificate: %w", ErrRejected, err)
	}
	tbs, err := defang(precertificate)
	if err != nil {
		return Submission{}, fmt.Errorf("%w: reading precertificate: %w", ErrRejected, err)
	}
	return Submission{
		Precertificate: precertificate,
		Issuers:        issuers,
		TBS:            tbs,
		IssuerKeyHash:  sha256.Sum256(issuer.RawSubjectPublicKeyInfo),
	}, nil
}
