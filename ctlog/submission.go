package ctlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxCertificateSize = 64 << 10
	maxIssuers         = 10
)

// The extensions of RFC 6962, as the content of an OBJECT IDENTIFIER.
const (
	oidPoison  = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03" // 1.3.6.1.4.1.11129.2.4.3
	oidSCTList = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02" // 1.3.6.1.4.1.11129.2.4.2
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
	return knownIssuers.check(s.Issuers[0], s.IssuerKeyHash)
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
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !in.Empty() ||
		!cert.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!cert.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!cert.ReadASN1Element(&signature, asn1.BIT_STRING) || !cert.Empty() {
		return nil, errors.New("not a certificate")
	}
	var before, explicit, list cryptobyte.String
	whole := tbs
	for !tbs.Empty() && !tbs.PeekASN1Tag(extensionsTag) {
		var tag asn1.Tag
		if !tbs.ReadAnyASN1Element(&before, &tag) {
			return nil, errors.New("malformed TBSCertificate")
		}
	}
	head := whole[:len(whole)-len(tbs)]
	if !tbs.ReadASN1(&explicit, extensionsTag) || !tbs.Empty() ||
		!explicit.ReadASN1(&list, asn1.SEQUENCE) || !explicit.Empty() {
		return nil, errors.New("no extensions at the end of TBSCertificate")
	}
	left, right, err := aroundPoison(list)
	if err != nil {
		return nil, err
	}
	extensions := len(left) + len(right)
	inner := elementSize(extensions)
	outer := len(head) + elementSize(inner)
	b := make([]byte, 0, elementSize(outer))
	b = appendHeader(b, asn1.SEQUENCE, outer)
	b = append(b, head...)
	b = appendHeader(b, extensionsTag, inner)
	b = appendHeader(b, asn1.SEQUENCE, extensions)
	b = append(b, left...)
	return append(b, right...), nil
}

// extensionsTag is that of "extensions [3] EXPLICIT".
const extensionsTag = asn1.Tag(3 | 0x80 | 0x20)

// elementSize is the size of a DER element with so many octets of content.
func elementSize(content int) int { return len(appendHeader(make([]byte, 0, 8), 0, content)) + content }

// appendHeader appends tag and length of a DER element. X.690, Section 10.1: "The
// definite form of length encoding shall be used, encoded in the minimum number
// of octets."
func appendHeader(b []byte, tag asn1.Tag, content int) []byte {
	b = append(b, byte(tag))
	if content < 0x80 {
		return append(b, byte(content))
	}
	octets := (bits.Len(uint(content)) + 7) / 8
	b = append(b, 0x80|byte(octets))
	for i := octets - 1; i >= 0; i-- {
		b = append(b, byte(content>>(8*i)))
	}
	return b
}

// aroundPoison returns what stands before and after the one poison that a list
// of extensions must hold.
//
//	Extension ::= SEQUENCE { extnID, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
func aroundPoison(list cryptobyte.String) (left, right []byte, err error) {
	whole, poisons := list, 0
	for !list.Empty() {
		start := len(whole) - len(list)
		var extension, oid cryptobyte.String
		if !list.ReadASN1(&extension, asn1.SEQUENCE) {
			return nil, nil, errors.New("malformed extensions")
		}
		if !extension.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !wellFormed(oid) {
			return nil, nil, errors.New("malformed extension")
		}
		switch string(oid) {
		case oidSCTList:
			return nil, nil, errors.New("an SCT list in a precertificate")
		case oidPoison:
			poisons++
			// critical, ASN.1 NULL
			if !bytes.Equal(extension, []byte{0x01, 0x01, 0xff, 0x04, 0x02, 0x05, 0x00}) {
				return nil, nil, errors.New("malformed poison extension")
			}
			left, right = whole[:start], list
		}
	}
	if poisons != 1 {
		return nil, nil, fmt.Errorf("%d poison extensions, want 1", poisons)
	}
	if len(left)+len(right) == 0 {
		return nil, nil, errors.New("no extension beside the poison")
	}
	return left, right, nil
}

// wellFormed says whether the content of an OBJECT IDENTIFIER is one that
// cryptobyte reads, without making numbers of it.
//
// X.690, Section 8.19.2: "Bit 8 of each octet indicates whether it is the last in
// the series", and "the subidentifier shall be encoded in the fewest possible
// octets". A number of more than 31 bits is refused.
func wellFormed(oid cryptobyte.String) bool {
	if len(oid) == 0 {
		return false
	}
	number, begins := uint64(0), true
	for _, b := range oid {
		if begins && b == 0x80 {
			return false
		}
		number = number<<7 | uint64(b&0x7f)
		if number >= 1<<31 {
			return false
		}
		if begins = b&0x80 == 0; begins {
			number = 0
		}
	}
	return begins
}
