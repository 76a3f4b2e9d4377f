package ca

import (
	"bytes"
	"errors"
	"fmt"

	encodingasn1 "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// correspond checks that the final certificate is what the log saw and what
// judge has passed: byte for byte the to-be-signed bytes of the precertificate,
// apart from the last extension, which is the poison there and here the list
// that holds exactly the given SCT, and from the three lengths around it.
//
// It reads both from the outside, and holds whatever built them.
func correspond(precertTBS, finalTBS, sct []byte) error {
	pre, err := splitTBS(precertTBS)
	if err != nil {
		return fmt.Errorf("reading precertificate: %w", err)
	}
	final, err := splitTBS(finalTBS)
	if err != nil {
		return fmt.Errorf("reading final certificate: %w", err)
	}
	switch {
	case !bytes.Equal(pre.fields, final.fields):
		return errors.New("precertificate and final certificate differ in their fields")
	case !bytes.Equal(pre.extensions, final.extensions):
		return errors.New("precertificate and final certificate differ in an extension")
	case !isPoison(pre.last):
		return errors.New("the last extension of the precertificate is not the poison")
	case !isListOf(final.last, sct):
		return errors.New("the last extension of the final certificate is not the list of the SCT")
	}
	return nil
}

// parts are what a to-be-signed certificate is made of: the fields before its
// extensions, the extensions before the last one, and that one.
type parts struct{ fields, extensions, last cryptobyte.String }

// splitTBS reads
//
//	TBSCertificate ::= SEQUENCE {
//	    version               [0]  EXPLICIT Version,
//	    serialNumber               INTEGER,
//	    signature                  SEQUENCE,
//	    issuer                     SEQUENCE,
//	    validity                   SEQUENCE,
//	    subject                    SEQUENCE,
//	    subjectPublicKeyInfo       SEQUENCE,
//	    extensions            [3]  EXPLICIT SEQUENCE OF Extension }
//
// of RFC 5280, Section 4.1, without the unique identifiers, which "CAs conforming
// to this profile MUST NOT generate". cryptobyte takes no length but the shortest.
func splitTBS(der []byte) (parts, error) {
	in := cryptobyte.String(der)
	var tbs cryptobyte.String
	if !in.ReadASN1(&tbs, asn1.SEQUENCE) || !in.Empty() {
		return parts{}, errors.New("not one SEQUENCE")
	}
	var p parts
	p.fields = tbs
	for _, tag := range fieldTags {
		if !tbs.SkipASN1(tag) {
			return parts{}, errors.New("a field is missing or has another type")
		}
	}
	p.fields = p.fields[:len(p.fields)-len(tbs)]
	var explicit, list cryptobyte.String
	if !tbs.ReadASN1(&explicit, asn1.Tag(3).ContextSpecific().Constructed()) || !tbs.Empty() ||
		!explicit.ReadASN1(&list, asn1.SEQUENCE) || !explicit.Empty() || list.Empty() {
		return parts{}, errors.New("the extensions are missing or not at the end")
	}
	p.extensions = list
	for !list.Empty() {
		if !list.ReadASN1Element(&p.last, asn1.SEQUENCE) {
			return parts{}, errors.New("an extension is no SEQUENCE")
		}
	}
	p.extensions = p.extensions[:len(p.extensions)-len(p.last)]
	return p, nil
}

var fieldTags = [...]asn1.Tag{
	asn1.Tag(0).ContextSpecific().Constructed(), asn1.INTEGER,
	asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE, asn1.SEQUENCE,
}

// readExtension reads the one extension that in holds:
//
//	Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
//
// X.690, Section 11.5: a default value is not encoded, so that what is there
// must be TRUE.
func readExtension(in cryptobyte.String, id encodingasn1.ObjectIdentifier) (value cryptobyte.String, critical, ok bool) {
	var extension cryptobyte.String
	var oid encodingasn1.ObjectIdentifier
	if !in.ReadASN1(&extension, asn1.SEQUENCE) || !in.Empty() ||
		!extension.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(id) {
		return nil, false, false
	}
	if extension.PeekASN1Tag(asn1.BOOLEAN) && (!extension.ReadASN1Boolean(&critical) || !critical) {
		return nil, false, false
	}
	if !extension.ReadASN1(&value, asn1.OCTET_STRING) || !extension.Empty() {
		return nil, false, false
	}
	return value, critical, true
}

func isPoison(in cryptobyte.String) bool {
	value, critical, ok := readExtension(in, oidPoison)
	var null cryptobyte.String
	return ok && critical && value.ReadASN1(&null, asn1.NULL) && null.Empty() && value.Empty()
}

// isListOf reports that the extension holds that SCT and no other; sctList has
// its structure.
func isListOf(in cryptobyte.String, sct []byte) bool {
	value, critical, ok := readExtension(in, oidSCTList)
	var tls, list, one cryptobyte.String
	return ok && !critical && value.ReadASN1(&tls, asn1.OCTET_STRING) && value.Empty() &&
		tls.ReadUint16LengthPrefixed(&list) && tls.Empty() &&
		list.ReadUint16LengthPrefixed(&one) && list.Empty() &&
		len(one) > 0 && bytes.Equal(one, sct)
}
