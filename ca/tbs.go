package ca

import (
	"crypto/rand"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Object identifiers of the certificate profile.
var (
	oidKeyUsage    = encodingasn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = encodingasn1.ObjectIdentifier{2, 5, 29, 37}
	oidSKI         = encodingasn1.ObjectIdentifier{2, 5, 29, 14}
	oidAKI         = encodingasn1.ObjectIdentifier{2, 5, 29, 35}
	oidSAN         = encodingasn1.ObjectIdentifier{2, 5, 29, 17}
	oidAIA         = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}
	oidCAIssuers   = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 2}
	oidPolicies    = encodingasn1.ObjectIdentifier{2, 5, 29, 32}
	oidCRLPoints   = encodingasn1.ObjectIdentifier{2, 5, 29, 31}
	oidNoRevAvail  = encodingasn1.ObjectIdentifier{2, 5, 29, 56} // RFC 9608, Section 2
	oidCodeSigning = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	// RFC 6962, Sections 3.1 and 3.3.
	oidPoison  = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList = encodingasn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Numbers of the Fulcio extensions 1.3.6.1.4.1.57264.1.n that come from the
// identity. Numbers 1 to 6 hold raw bytes, 8 and above a DER UTF8String.
const (
	extIssuerRaw    = 1
	extLastRaw      = 6
	extOtherName    = 7 // names a SAN type; never an extension
	extIssuer       = 8
	extTokenSubject = 24
)

func oidFulcio(n int) encodingasn1.ObjectIdentifier {
	return encodingasn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}
}

// fulcioOIDs are the identifiers of the Fulcio extensions by number.
var fulcioOIDs = func() (table [extTokenSubject + 1]encodingasn1.ObjectIdentifier) {
	for n := range table {
		table[n] = oidFulcio(n)
	}
	return table
}()

// The same in DER, and what else is constant.
var (
	derSKI        = derOID(oidSKI)
	derAKI        = derOID(oidAKI)
	derSAN        = derOID(oidSAN)
	derAIA        = derOID(oidAIA)
	derCAIssuers  = derOID(oidCAIssuers)
	derPolicies   = derOID(oidPolicies)
	derCRLPoints  = derOID(oidCRLPoints)
	derNoRevAvail = derOID(oidNoRevAvail)
	derSCTList    = derOID(oidSCTList)
	derNULL       = []byte{5, 0}
	derFulcio     = func() (table [len(fulcioOIDs)][]byte) {
		for n, oid := range fulcioOIDs {
			table[n] = derOID(oid)
		}
		return table
	}()
)

// Tags of GeneralName (RFC 5280, Section 4.2.1.6).
var (
	tagOtherName  = asn1.Tag(0).ContextSpecific().Constructed()
	tagRFC822Name = asn1.Tag(1).ContextSpecific()
	tagURI        = asn1.Tag(6).ContextSpecific()
)

// draft is everything that goes into one certificate.
type draft struct {
	serial              [20]byte
	chain               *Chain
	notBefore, notAfter time.Time
	key                 ProvenKey
	san                 SAN
	extensions          []Extension // all of 57264.1, ascending
	// policies and noRevAvail come from the profile.
	policies   []x509.OID
	noRevAvail bool
	// logged says that a precertificate, with poison, comes first.
	logged bool
	// judged are the to-be-signed bytes that judge has passed. They are signed
	// as they are.
	judged []byte
}

// newSerial returns 20 octets, positive, non-zero and with the first octet never
// zero, so that DER neither pads nor shortens them: 158 random bits. RFC 5280,
// Section 4.1.2.2: "CAs MUST force the serialNumber to be a non-negative
// integer" of "up to 20 octets".
func newSerial() [20]byte {
	var s [20]byte
	_, _ = rand.Read(s[:]) // never fails: crypto/rand crashes the program instead
	s[0] = s[0]&0x3f | 0x40
	return s
}

// tbs holds the two parts of a to-be-signed certificate that precertificate and
// final certificate share, encoded once:
//
//	TBSCertificate ::= SEQUENCE { fields, [3] EXPLICIT SEQUENCE { extensions, last } }
//
// where last is the poison, the SCT list, or nothing (what a log signs).
type tbs struct {
	fields, extensions []byte
}

// usualSize holds the fields and extensions of nearly every certificate.
const usualSize = 2 << 10

func (d *draft) encode() (tbs, error) {
	b := d.appendFields(make([]byte, 0, usualSize))
	n := len(b)
	b, err := d.appendExtensions(b)
	if err != nil {
		return tbs{}, fmt.Errorf("encoding certificate extensions: %w", err)
	}
	return tbs{b[:n:n], b[n:]}, nil
}

// with returns the DER of the to-be-signed certificate whose last extension is
// last, which may be empty.
func (t tbs) with(last []byte) []byte {
	b := make([]byte, 0, len(t.fields)+len(t.extensions)+len(last)+3*maxHeader)
	b = append(b, t.fields...)
	start := len(b)
	b = append(append(b, t.extensions...), last...)
	b = enclose(b, start, asn1.SEQUENCE)
	b = enclose(b, start, asn1.Tag(3).ContextSpecific().Constructed())
	return enclose(b, 0, asn1.SEQUENCE)
}

// appendFields writes version to subjectPublicKeyInfo (RFC 5280, Section 4.1).
func (d *draft) appendFields(b []byte) []byte {
	b = append(b, 0xa0, 3, byte(asn1.INTEGER), 1, 2) // [0] EXPLICIT v3
	b = appendElement(b, asn1.INTEGER, d.serial[:])
	b = append(b, d.chain.signatureAlgorithm...)
	b = append(b, d.chain.issuing().RawSubject...)
	start := len(b)
	b = appendTime(b, d.notBefore)
	b = appendTime(b, d.notAfter)
	b = enclose(b, start, asn1.SEQUENCE)
	b = append(b, byte(asn1.SEQUENCE), 0) // the subject is empty
	return append(b, d.key.spki...)
}

// appendTime follows RFC 5280, Section 4.1.2.5: "CAs conforming to this profile
// MUST always encode certificate validity dates through the year 2049 as
// UTCTime".
func appendTime(b []byte, t time.Time) []byte {
	start, t := len(b), t.UTC()
	if t.Year() < 2050 {
		return enclose(t.AppendFormat(b, "060102150405Z"), start, asn1.UTCTime)
	}
	return enclose(t.AppendFormat(b, "20060102150405Z"), start, asn1.GeneralizedTime)
}

// appendExtensions writes the extensions in Fulcio's order: key usage, extended
// key usage, the two key identifiers, the name, then 57264.1 ascending. What
// Fulcio does not have stands between name and 57264.1, and is not there unless
// the configuration asks for it.
func (d *draft) appendExtensions(b []byte) ([]byte, error) {
	b = append(b, usages...)
	b, at := openExtension(b, derSKI, false)
	b = closeExtension(appendElement(b, asn1.OCTET_STRING, d.key.KeyID()), at)
	b = d.appendAKI(b)
	// Critical because the subject is empty: RFC 5280, Section 4.2.1.6: "If the
	// subject field contains an empty sequence, then [...] the subjectAltName
	// extension MUST be marked as critical."
	b, at = openExtension(b, derSAN, true)
	b, err := d.san.appendTo(b)
	if err != nil {
		return nil, err
	}
	b = enclose(b, at.value, asn1.SEQUENCE)
	b = closeExtension(b, at)
	if b, err = d.appendOptional(b); err != nil {
		return nil, err
	}
	for _, e := range d.extensions {
		if e.Number < 0 || e.Number >= len(derFulcio) {
			return nil, fmt.Errorf("no encoding for extension 57264.1.%d", e.Number)
		}
		b, at = openExtension(b, derFulcio[e.Number], false)
		b = append(b, e.Value...)
		if e.Number > extLastRaw {
			b = enclose(b, at.value, asn1.UTF8String)
		}
		b = closeExtension(b, at)
	}
	return b, nil
}

// usages are the extensions that are the same in every certificate.
var usages = func() []byte {
	// digitalSignature, seven unused bits
	b := appendExtension(nil, derOID(oidKeyUsage), true, []byte{byte(asn1.BIT_STRING), 2, 7, 0x80})
	return appendExtension(b, derOID(oidExtKeyUsage), false, appendElement(nil, asn1.SEQUENCE, derOID(oidCodeSigning)))
}()

func (d *draft) appendAKI(b []byte) []byte {
	b, at := openExtension(b, derAKI, false)
	b = appendElement(b, asn1.Tag(0).ContextSpecific(), d.chain.issuing().SubjectKeyId)
	b = enclose(b, at.value, asn1.SEQUENCE)
	return closeExtension(b, at)
}

// appendOptional writes what chain and profile ask for:
//
//	AuthorityInfoAccessSyntax ::= SEQUENCE OF SEQUENCE { accessMethod OBJECT IDENTIFIER, accessLocation GeneralName }
//	certificatePolicies ::= SEQUENCE OF SEQUENCE { policyIdentifier OBJECT IDENTIFIER, ... }
//	CRLDistributionPoints ::= SEQUENCE OF SEQUENCE { distributionPoint [0] { fullName [0] GeneralNames }, ... }
//	noRevAvail ::= NULL
//
// RFC 5280, Sections 4.2.2.1, 4.2.1.4 and 4.2.1.13, RFC 9608, Section 2. None of
// them is critical: a verifier that does not know one loses nothing.
func (d *draft) appendOptional(b []byte) ([]byte, error) {
	var at extensionStart
	if url := d.chain.caIssuersURL; url != "" {
		b, at = openExtension(b, derAIA, false)
		b = append(b, derCAIssuers...)
		b = appendString(b, tagURI, url)
		b = enclose(b, at.value, asn1.SEQUENCE)
		b = enclose(b, at.value, asn1.SEQUENCE)
		b = closeExtension(b, at)
	}
	if len(d.policies) > 0 {
		b, at = openExtension(b, derPolicies, false)
		for _, policy := range d.policies {
			// Its arcs may be larger than an int.
			content, err := policy.MarshalBinary()
			if err != nil {
				return nil, fmt.Errorf("encoding certificate policy: %w", err)
			}
			start := len(b)
			b = appendElement(b, asn1.OBJECT_IDENTIFIER, content)
			b = enclose(b, start, asn1.SEQUENCE)
		}
		b = enclose(b, at.value, asn1.SEQUENCE)
		b = closeExtension(b, at)
	}
	if url := d.chain.crlURL; url != "" {
		b, at = openExtension(b, derCRLPoints, false)
		name := asn1.Tag(0).ContextSpecific().Constructed()
		b = appendString(b, tagURI, url)
		b = enclose(b, at.value, name)
		b = enclose(b, at.value, name)
		b = enclose(b, at.value, asn1.SEQUENCE)
		b = enclose(b, at.value, asn1.SEQUENCE)
		b = closeExtension(b, at)
	}
	if d.noRevAvail {
		b = appendExtension(b, derNoRevAvail, false, derNULL)
	}
	return b, nil
}

// appendTo writes the name as a GeneralName:
//
//	GeneralName ::= CHOICE {
//	     otherName                  [0] OtherName,
//	     rfc822Name                 [1] IA5String,
//	     uniformResourceIdentifier  [6] IA5String, ... }
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY DEFINED BY type-id }
func (s SAN) appendTo(b []byte) ([]byte, error) {
	switch s.kind {
	case SANEmail:
		return appendString(b, tagRFC822Name, s.value), nil
	case SANURI:
		return appendString(b, tagURI, s.value), nil
	case SANUsername:
		start := len(b)
		b = append(b, derFulcio[extOtherName]...)
		value := len(b)
		b = appendString(b, asn1.UTF8String, s.value)
		b = enclose(b, value, asn1.Tag(0).ContextSpecific().Constructed())
		return enclose(b, start, tagOtherName), nil
	}
	return nil, fmt.Errorf("no encoding for a name of kind %q", s.kind)
}

// poison is the extension that makes a precertificate useless as a certificate.
// RFC 6962, Section 3.1: "a special critical poison extension (OID
// 1.3.6.1.4.1.11129.2.4.3, whose extnValue OCTET STRING contains ASN.1 NULL data
// (0x05 0x00))".
var poison = appendExtension(nil, derOID(oidPoison), true, derNULL)

// precertificate returns the bytes that are signed for a log.
func precertificate(t tbs) []byte { return t.with(poison) }

// sctList returns the extension that embeds one SCT. RFC 6962, Section 3.3:
//
//	opaque SerializedSCT<1..2^16-1>;
//	struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;
//
// as an OCTET STRING inside extnValue. Exactly one, because sigstore-python and
// sigstore-rs refuse any other number.
func sctList(sct []byte) ([]byte, error) {
	n := len(sct)
	if n == 0 || n+2 > math.MaxUint16 {
		return nil, fmt.Errorf("an SCT of %d bytes fits in no list", n)
	}
	b, at := openExtension(make([]byte, 0, len(derSCTList)+n+2*2+3*maxHeader), derSCTList, false)
	b = binary.BigEndian.AppendUint16(b, uint16(n+2))
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, sct...)
	b = enclose(b, at.value, asn1.OCTET_STRING)
	return closeExtension(b, at), nil
}

// certificate puts to-be-signed bytes and their signature together:
//
//	Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue BIT STRING }
func certificate(tbs, algorithm, signature []byte) []byte {
	b := make([]byte, 0, len(tbs)+len(algorithm)+len(signature)+1+2*maxHeader)
	b = append(append(b, tbs...), algorithm...)
	start := len(b)
	b = append(b, 0) // no unused bits
	b = append(b, signature...)
	b = enclose(b, start, asn1.BIT_STRING)
	return enclose(b, 0, asn1.SEQUENCE)
}

// algorithmIdentifier returns the DER of a signature algorithm. RFC 5758,
// Section 3.2: ECDSA has no parameters; RFC 4055, Section 5: for RSA "the
// parameters MUST be NULL".
func algorithmIdentifier(alg x509.SignatureAlgorithm) ([]byte, error) {
	var oid encodingasn1.ObjectIdentifier
	null := false
	switch alg {
	case x509.ECDSAWithSHA256:
		oid = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	case x509.ECDSAWithSHA384:
		oid = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	case x509.SHA256WithRSA:
		oid, null = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, true
	default:
		return nil, fmt.Errorf("no encoding for signature algorithm %v", alg)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if null {
			b.AddASN1NULL()
		}
	})
	return b.Bytes()
}
