package ca

import (
	"crypto/rand"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"fmt"
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

func (d *draft) encode() (tbs, error) {
	fields, err := d.encodeFields()
	if err != nil {
		return tbs{}, fmt.Errorf("encoding certificate fields: %w", err)
	}
	extensions, err := d.encodeExtensions()
	if err != nil {
		return tbs{}, fmt.Errorf("encoding certificate extensions: %w", err)
	}
	return tbs{fields, extensions}, nil
}

// with returns the DER of the to-be-signed certificate whose last extension is
// last, which may be empty.
func (t tbs) with(last []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(t.fields)+len(t.extensions)+len(last)+16))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(t.fields)
		b.AddASN1(asn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(t.extensions)
				b.AddBytes(last)
			})
		})
	})
	return b.Bytes()
}

// encodeFields writes version to subjectPublicKeyInfo (RFC 5280, Section 4.1).
func (d *draft) encodeFields() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1Int64(2) // v3
	})
	b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(d.serial[:]) })
	b.AddBytes(d.chain.signatureAlgorithm)
	b.AddBytes(d.chain.issuing().RawSubject)
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addTime(b, d.notBefore)
		addTime(b, d.notAfter)
	})
	b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {}) // the subject is empty
	b.AddBytes(d.key.SPKI())
	return b.Bytes()
}

// addTime follows RFC 5280, Section 4.1.2.5: "CAs conforming to this profile
// MUST always encode certificate validity dates through the year 2049 as
// UTCTime".
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t.UTC().Year() < 2050 {
		b.AddASN1UTCTime(t.UTC())
		return
	}
	b.AddASN1GeneralizedTime(t.UTC())
}

// encodeExtensions writes the extensions in Fulcio's order: key usage, extended
// key usage, the two key identifiers, the name, then 57264.1 ascending. What
// Fulcio does not have stands between name and 57264.1, and is not there unless
// the configuration asks for it.
func (d *draft) encodeExtensions() ([]byte, error) {
	var b cryptobyte.Builder
	addExtension(&b, oidKeyUsage, true, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) {
			b.AddBytes([]byte{7, 0x80}) // digitalSignature, seven unused bits
		})
	})
	addExtension(&b, oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidCodeSigning) })
	})
	addExtension(&b, oidSKI, false, func(b *cryptobyte.Builder) { b.AddASN1OctetString(d.key.KeyID()) })
	addExtension(&b, oidAKI, false, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) {
				b.AddBytes(d.chain.issuing().SubjectKeyId)
			})
		})
	})
	// Critical because the subject is empty: RFC 5280, Section 4.2.1.6: "If the
	// subject field contains an empty sequence, then [...] the subjectAltName
	// extension MUST be marked as critical."
	addExtension(&b, oidSAN, true, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, d.san.addTo)
	})
	d.addOptional(&b)
	for _, e := range d.extensions {
		addExtension(&b, oidFulcio(e.Number), false, func(b *cryptobyte.Builder) {
			if e.Number <= extLastRaw {
				b.AddBytes([]byte(e.Value))
				return
			}
			b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(e.Value)) })
		})
	}
	return b.Bytes()
}

// addOptional writes what chain and profile ask for:
//
//	AuthorityInfoAccessSyntax ::= SEQUENCE OF SEQUENCE { accessMethod OBJECT IDENTIFIER, accessLocation GeneralName }
//	certificatePolicies ::= SEQUENCE OF SEQUENCE { policyIdentifier OBJECT IDENTIFIER, ... }
//	CRLDistributionPoints ::= SEQUENCE OF SEQUENCE { distributionPoint [0] { fullName [0] GeneralNames }, ... }
//	noRevAvail ::= NULL
//
// RFC 5280, Sections 4.2.2.1, 4.2.1.4 and 4.2.1.13, RFC 9608, Section 2. None of
// them is critical: a verifier that does not know one loses nothing.
func (d *draft) addOptional(b *cryptobyte.Builder) {
	if url := d.chain.caIssuersURL; url != "" {
		addExtension(b, oidAIA, false, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidCAIssuers)
					b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
				})
			})
		})
	}
	if len(d.policies) > 0 {
		addExtension(b, oidPolicies, false, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, policy := range d.policies {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, policy) })
				}
			})
		})
	}
	if url := d.chain.crlURL; url != "" {
		addExtension(b, oidCRLPoints, false, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					name := asn1.Tag(0).ContextSpecific().Constructed()
					b.AddASN1(name, func(b *cryptobyte.Builder) {
						b.AddASN1(name, func(b *cryptobyte.Builder) {
							b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
						})
					})
				})
			})
		})
	}
	if d.noRevAvail {
		addExtension(b, oidNoRevAvail, false, func(b *cryptobyte.Builder) { b.AddASN1NULL() })
	}
}

// addOID writes an object identifier whose arcs may be larger than an int.
func addOID(b *cryptobyte.Builder, oid x509.OID) {
	der, err := oid.MarshalBinary()
	if err != nil {
		b.SetError(fmt.Errorf("encoding object identifier: %w", err))
		return
	}
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(der) })
}

// addTo writes the name as a GeneralName:
//
//	GeneralName ::= CHOICE {
//	     otherName                  [0] OtherName,
//	     rfc822Name                 [1] IA5String,
//	     uniformResourceIdentifier  [6] IA5String, ... }
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY DEFINED BY type-id }
func (s SAN) addTo(b *cryptobyte.Builder) {
	switch s.kind {
	case SANEmail:
		b.AddASN1(tagRFC822Name, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.value)) })
	case SANURI:
		b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.value)) })
	case SANUsername:
		b.AddASN1(tagOtherName, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidFulcio(extOtherName))
			b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s.value)) })
			})
		})
	default:
		b.SetError(fmt.Errorf("no encoding for a name of kind %q", s.kind))
	}
}

func addExtension(b *cryptobyte.Builder, oid encodingasn1.ObjectIdentifier, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}

// poison returns the extension that makes a precertificate useless as a
// certificate. RFC 6962, Section 3.1: "a special critical poison extension (OID
// 1.3.6.1.4.1.11129.2.4.3, whose extnValue OCTET STRING contains ASN.1 NULL data
// (0x05 0x00))".
func poison() ([]byte, error) {
	var b cryptobyte.Builder
	addExtension(&b, oidPoison, true, func(b *cryptobyte.Builder) { b.AddASN1NULL() })
	return b.Bytes()
}

// sctList returns the extension that embeds one SCT. RFC 6962, Section 3.3:
//
//	opaque SerializedSCT<1..2^16-1>;
//	struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;
//
// as an OCTET STRING inside extnValue. Exactly one, because sigstore-python and
// sigstore-rs refuse any other number.
func sctList(sct []byte) ([]byte, error) {
	var b cryptobyte.Builder
	addExtension(&b, oidSCTList, false, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sct) })
			})
		})
	})
	return b.Bytes()
}

// certificate puts to-be-signed bytes and their signature together:
//
//	Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue BIT STRING }
func certificate(tbs, algorithm, signature []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(algorithm)+len(signature)+16))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
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
