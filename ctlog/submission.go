package ctlog

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxCertificateSize = 64 << 10
	maxIssuers         = 10
)

var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Check says whether the parts of the submission belong together: TBS is the
// precertificate without its poison, and IssuerKeyHash is the hash of the first
// issuer's key. A log must not sign anything else. Signatures are not checked:
// the CA made them a moment ago. Every error wraps [ErrRejected].
func (s Submission) Check() error {
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return nil
}

func (s Submission) check() error {
	if len(s.Issuers) == 0 || len(s.Issuers) > maxIssuers {
		return fmt.Errorf("%d issuing certificates, want 1 to %d", len(s.Issuers), maxIssuers)
	}
	for i, issuer := range s.Issuers {
		if len(issuer) == 0 || len(issuer) > maxCertificateSize {
			return fmt.Errorf("issuing certificate %d of %d bytes, want 1 to %d", i, len(issuer), maxCertificateSize)
		}
	}
	if len(s.Precertificate) > maxCertificateSize {
		return fmt.Errorf("precertificate of %d bytes, at most %d", len(s.Precertificate), maxCertificateSize)
	}
	tbs, err := defang(s.Precertificate)
	if err != nil {
		return fmt.Errorf("reading precertificate: %w", err)
	}
	if !bytes.Equal(tbs, s.TBS) {
		return errors.New("TBS is not the precertificate without its poison")
	}
	issuer, err := x509.ParseCertificate(s.Issuers[0])
	if err != nil {
		return fmt.Errorf("reading issuing certificate: %w", err)
	}
	if sha256.Sum256(issuer.RawSubjectPublicKeyInfo) != s.IssuerKeyHash {
		return errors.New("issuer key hash is not that of the issuing certificate")
	}
	return nil
}

// defang takes the TBSCertificate from a precertificate and removes the poison,
// leaving every other byte as it was.
//
// RFC 6962, Section 3.2: "the TBSCertificate component of the Precertificate,
// without the signature and the poison extension".
//
//	Certificate    ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
//	TBSCertificate ::= SEQUENCE { ..., extensions [3] EXPLICIT Extensions OPTIONAL }
func defang(precertificate []byte) ([]byte, error) {
	in := cryptobyte.String(precertificate)
	var cert, tbs, algorithm, signature cryptobyte.String
	if !in.ReadASN1(&cert, cbasn1.SEQUENCE) || !in.Empty() ||
		!cert.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!cert.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) ||
		!cert.ReadASN1Element(&signature, cbasn1.BIT_STRING) || !cert.Empty() {
		return nil, errors.New("not a certificate")
	}
	extensionsTag := cbasn1.Tag(3).ContextSpecific().Constructed()
	var before, explicit, list cryptobyte.String
	var head []byte
	for !tbs.Empty() && !tbs.PeekASN1Tag(extensionsTag) {
		var tag cbasn1.Tag
		if !tbs.ReadAnyASN1Element(&before, &tag) {
			return nil, errors.New("malformed TBSCertificate")
		}
		head = append(head, before...)
	}
	if !tbs.ReadASN1(&explicit, extensionsTag) || !tbs.Empty() ||
		!explicit.ReadASN1(&list, cbasn1.SEQUENCE) || !explicit.Empty() {
		return nil, errors.New("no extensions at the end of TBSCertificate")
	}
	kept, err := withoutPoison(list)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(extensionsTag, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
		})
	})
	return b.Bytes()
}

// withoutPoison copies a list of extensions, less the one poison it must hold.
//
//	Extension ::= SEQUENCE { extnID, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
func withoutPoison(list cryptobyte.String) ([]byte, error) {
	var kept []byte
	poisons := 0
	for !list.Empty() {
		var element, extension cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1Element(&element, cbasn1.SEQUENCE) {
			return nil, errors.New("malformed extensions")
		}
		outer := element
		if !outer.ReadASN1(&extension, cbasn1.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&oid) {
			return nil, errors.New("malformed extension")
		}
		switch {
		case oid.Equal(oidSCTList):
			return nil, errors.New("an SCT list in a precertificate")
		case oid.Equal(oidPoison):
			poisons++
			// critical, ASN.1 NULL
			if !bytes.Equal(extension, []byte{0x01, 0x01, 0xff, 0x04, 0x02, 0x05, 0x00}) {
				return nil, errors.New("malformed poison extension")
			}
		default:
			kept = append(kept, element...)
		}
	}
	if poisons != 1 {
		return nil, fmt.Errorf("%d poison extensions, want 1", poisons)
	}
	if len(kept) == 0 {
		return nil, errors.New("no extension beside the poison")
	}
	return kept, nil
}
