package ceremony

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Limits of what a PKI gives back.
const (
	maxFile         = 256 << 10
	maxCertificates = 32
)

// ReadCertificates reads certificates in any form that a PKI hands them out:
// PEM with or without text around it, DER, and PKCS#7 certs-only in PEM or DER,
// which is what AD CS calls a .p7b. It returns them in the order of the file and
// names the form. A private key in the file is refused, loudly.
func ReadCertificates(data []byte) (certs []*x509.Certificate, form string, err error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // Windows editors
	switch {
	case len(data) > maxFile:
		return nil, "", fmt.Errorf("file of %d bytes, more than %d", len(data), maxFile)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, "", errors.New("the file is empty")
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return nil, "", errors.New("the file is UTF-16, as PowerShell's > writes it; save it again as ASCII")
	case data[0] == byte(cryptobyte_asn1.SEQUENCE):
		return readDER(data)
	}
	form = "PEM"
	for rest := data; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = after
		some, container, err := readBlock(block)
		if err != nil {
			return nil, "", err
		}
		if container {
			form = "PKCS#7 in PEM"
		}
		if certs = append(certs, some...); len(certs) > maxCertificates {
			return nil, "", fmt.Errorf("more than %d certificates", maxCertificates)
		}
	}
	if len(certs) == 0 {
		return nil, "", errors.New("no certificate found; PEM, DER and PKCS#7 (.p7b) are read")
	}
	return certs, form, nil
}

func readBlock(block *pem.Block) (certs []*x509.Certificate, container bool, err error) {
	switch {
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return nil, false, fmt.Errorf("the file holds a %s: take it out before the file goes anywhere, "+
			"and if it came by mail, make a new key", block.Type)
	case block.Type == "CERTIFICATE", block.Type == "X509 CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			// Windows' certutil labels a PKCS#7 as a certificate.
			if certs, err := parsePKCS7(block.Bytes); err == nil {
				return certs, true, nil
			}
			return nil, false, fmt.Errorf("parsing a certificate: %w", err)
		}
		return []*x509.Certificate{c}, false, nil
	case block.Type == "PKCS7", block.Type == "CMS":
		certs, err := parsePKCS7(block.Bytes)
		return certs, true, err
	case strings.Contains(block.Type, "CERTIFICATE REQUEST"):
		return nil, false, errors.New("the file holds a certificate request; wanted is what the PKI made of it")
	default:
		return nil, false, fmt.Errorf("the file holds a PEM block %q, which is no certificate", block.Type)
	}
}

func readDER(data []byte) ([]*x509.Certificate, string, error) {
	c, certErr := x509.ParseCertificate(data)
	if certErr == nil {
		return []*x509.Certificate{c}, "DER", nil
	}
	certs, err := parsePKCS7(data)
	if err != nil {
		return nil, "", fmt.Errorf("neither a certificate in DER (%w) nor a PKCS#7 (%w)", certErr, err)
	}
	return certs, "PKCS#7 in DER", nil
}

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// parsePKCS7 returns the certificates of a certs-only message.
//
//	ContentInfo ::= SEQUENCE {                      -- RFC 5652, Section 3
//	  contentType OBJECT IDENTIFIER, content [0] EXPLICIT ANY }
//	SignedData ::= SEQUENCE {                       -- RFC 5652, Section 5.1
//	  version INTEGER, digestAlgorithms SET, encapContentInfo SEQUENCE,
//	  certificates [0] IMPLICIT CertificateSet OPTIONAL,
//	  crls [1] IMPLICIT RevocationInfoChoices OPTIONAL, signerInfos SET }
//
// RFC 8551, Section 3.2.2, of certs-only: "there are no signers and no content".
// A message with either is something else, and nobody has checked its signature.
func parsePKCS7(der []byte) ([]*x509.Certificate, error) {
	in := cryptobyte.String(der)
	var info, content, signed, digests, encap, set, signers cryptobyte.String
	var kind, inner asn1.ObjectIdentifier
	var has bool
	explicit := cryptobyte_asn1.Tag(0).Constructed().ContextSpecific()
	crls := cryptobyte_asn1.Tag(1).Constructed().ContextSpecific()
	if !in.ReadASN1(&info, cryptobyte_asn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidSignedData) {
		return nil, errors.New("not a PKCS#7 SignedData in DER; convert it with openssl pkcs7 -print_certs -in FILE")
	}
	var version int
	if !info.ReadASN1(&content, explicit) || !info.Empty() ||
		!content.ReadASN1(&signed, cryptobyte_asn1.SEQUENCE) || !content.Empty() ||
		!signed.ReadASN1Integer(&version) || !signed.ReadASN1(&digests, cryptobyte_asn1.SET) ||
		!signed.ReadASN1(&encap, cryptobyte_asn1.SEQUENCE) || !encap.ReadASN1ObjectIdentifier(&inner) ||
		!signed.ReadOptionalASN1(&set, &has, explicit) || !signed.SkipOptionalASN1(crls) ||
		!signed.ReadASN1(&signers, cryptobyte_asn1.SET) || !signed.Empty() {
		return nil, errors.New("malformed PKCS#7")
	}
	if !inner.Equal(oidData) || !encap.Empty() || !signers.Empty() {
		return nil, errors.New("the PKCS#7 holds a message or a signature; wanted is one with certificates only")
	}
	var certs []*x509.Certificate
	for has && !set.Empty() {
		var raw cryptobyte.String
		if !set.ReadASN1Element(&raw, cryptobyte_asn1.SEQUENCE) {
			return nil, errors.New("the PKCS#7 holds something that is no certificate")
		}
		if len(certs) == maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d of the PKCS#7: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("the PKCS#7 holds no certificate")
	}
	return certs, nil
}
