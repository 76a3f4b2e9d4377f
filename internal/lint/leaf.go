package lint

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 5280 key identifiers
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// The lints, as findings name them.
const (
	LintParse      = "parse"
	LintSize       = "size"
	LintSerial     = "serial"
	LintSubject    = "subject"
	LintIssuer     = "issuer"
	LintValidity   = "validity"
	LintUsage      = "usage"
	LintIdentifier = "key-identifiers"
	LintExtensions = "extensions"
	LintName       = "name"
	LintFulcio     = "fulcio"
	LintLogging    = "logging"
)

const (
	maxLifetime = 10 * time.Minute
	maxSize     = 8 << 10 // what OpenShift and registries take in an annotation
)

var (
	oidKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSAN           = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidCRLPoints     = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidFreshestCRL   = asn1.ObjectIdentifier{2, 5, 29, 46}
	oidNoRevAvail    = asn1.ObjectIdentifier{2, 5, 29, 56}
	oidPoison        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidFulcio        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}
	oidFulcioOther   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7}
	alwaysThere      = []asn1.ObjectIdentifier{oidKeyUsage, {2, 5, 29, 37}, {2, 5, 29, 14}, {2, 5, 29, 35}, oidSAN}
	sometimesThere   = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 1, 1}, {2, 5, 29, 32}, oidCRLPoints, oidNoRevAvail, oidPoison, oidSCTList}
	criticalOnes     = []asn1.ObjectIdentifier{oidKeyUsage, oidSAN, oidPoison}
	lastFulcio       = 24
	fulcioIssuerRaw  = 1
	fulcioLastRaw    = 6
	fulcioIssuer     = 8
	fulcioTokenOwner = 24
)

// leaf collects findings on one certificate.
type leaf struct {
	cert     *x509.Certificate
	issuer   *x509.Certificate
	findings []ca.Finding
}

// Leaf returns what is wrong with a certificate or precertificate issued under
// issuer; nothing is what it should return. It does not ask for an SCT, which
// rehearsals and logs that are switched off do not give.
func Leaf(der []byte, issuer *x509.Certificate) []ca.Finding {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return []ca.Finding{{Check: LintParse, Level: ca.Problem, Text: err.Error()}}
	}
	l := &leaf{cert: cert, issuer: issuer}
	if len(der) > maxSize {
		l.bad(LintSize, "%d bytes, more than %d", len(der), maxSize)
	}
	l.fields()
	l.usage()
	l.extensions()
	l.name()
	l.fulcio()
	l.logging()
	return l.findings
}

func (l *leaf) bad(lint, format string, args ...any) {
	l.findings = append(l.findings, ca.Finding{Check: lint, Level: ca.Problem, Text: fmt.Sprintf(format, args...)})
}

func (l *leaf) fields() {
	c := l.cert
	// CA/Browser Forum Baseline Requirements, Section 7.1: at least 64 bits from
	// a CSPRNG; RFC 5280, Section 4.1.2.2: positive, at most 20 octets.
	if n := len(c.SerialNumber.Bytes()); c.SerialNumber.Sign() <= 0 || n < 9 || n > 20 {
		l.bad(LintSerial, "serial number of %d octets, sign %d; want a positive one of 9 to 20", n, c.SerialNumber.Sign())
	}
	if c.Version != 3 {
		l.bad(LintSubject, "version %d, not 3", c.Version)
	}
	if !bytes.Equal(c.RawSubject, []byte{0x30, 0}) {
		l.bad(LintSubject, "subject %q is not empty", c.Subject)
	}
	if !bytes.Equal(c.RawIssuer, l.issuer.RawSubject) {
		l.bad(LintIssuer, "issuer %q is not the issuing certificate's subject %q", c.Issuer, l.issuer.Subject)
	}
	if err := l.issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		l.bad(LintIssuer, "signature: %v", err)
	}
	life := c.NotAfter.Sub(c.NotBefore)
	if life <= 0 || life > maxLifetime {
		l.bad(LintValidity, "valid for %v, not up to %v", life, maxLifetime)
	}
	if c.NotBefore.Before(l.issuer.NotBefore) || c.NotAfter.After(l.issuer.NotAfter) {
		l.bad(LintValidity, "valid from %v to %v, not inside the issuing certificate's validity", c.NotBefore, c.NotAfter)
	}
}

func (l *leaf) usage() {
	c := l.cert
	if c.KeyUsage != x509.KeyUsageDigitalSignature {
		l.bad(LintUsage, "key usage %#b is not digitalSignature alone", c.KeyUsage)
	}
	if len(c.UnknownExtKeyUsage) > 0 || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) {
		l.bad(LintUsage, "extended key usage %v %v is not codeSigning alone", c.ExtKeyUsage, c.UnknownExtKeyUsage)
	}
	if c.IsCA || c.BasicConstraintsValid {
		l.bad(LintUsage, "has basic constraints")
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil || len(rest) > 0 {
		l.bad(LintIdentifier, "public key is malformed")
		return
	}
	// Fulcio's certificate specification demands method (1) of RFC 5280, Section
	// 4.2.1.2: SHA-1 of the key.
	if want := sha1.Sum(spki.Key.Bytes); !bytes.Equal(c.SubjectKeyId, want[:]) { //nolint:gosec // see the import
		l.bad(LintIdentifier, "subject key identifier %x is not SHA-1 of the key, %x", c.SubjectKeyId, want)
	}
	if len(c.AuthorityKeyId) == 0 || !bytes.Equal(c.AuthorityKeyId, l.issuer.SubjectKeyId) {
		l.bad(LintIdentifier, "authority key identifier %x is not the issuing certificate's %x", c.AuthorityKeyId, l.issuer.SubjectKeyId)
	}
}

// extensions demands known ones, each once, critical as they should be.
func (l *leaf) extensions() {
	var seen []asn1.ObjectIdentifier
	for _, e := range l.cert.Extensions {
		if slices.ContainsFunc(seen, e.Id.Equal) {
			l.bad(LintExtensions, "%v is there twice", e.Id)
		}
		seen = append(seen, e.Id)
		n := fulcioNumber(e.Id)
		known := slices.ContainsFunc(alwaysThere, e.Id.Equal) || slices.ContainsFunc(sometimesThere, e.Id.Equal) ||
			n >= fulcioIssuerRaw && n <= lastFulcio && !e.Id.Equal(oidFulcioOther)
		if !known {
			l.bad(LintExtensions, "%v has no place in such a certificate", e.Id)
		}
		if want := slices.ContainsFunc(criticalOnes, e.Id.Equal); e.Critical != want {
			l.bad(LintExtensions, "%v is critical: %v, want %v", e.Id, e.Critical, want)
		}
	}
	for _, oid := range alwaysThere {
		if !slices.ContainsFunc(seen, oid.Equal) {
			l.bad(LintExtensions, "%v is missing", oid)
		}
	}
	if len(l.cert.OCSPServer) > 0 {
		l.bad(LintExtensions, "names an OCSP responder, which there is not")
	}
	// RFC 9608, Sections 2 and 3.
	if value, ok := l.value(oidNoRevAvail); ok {
		if !bytes.Equal(value, asn1.NullBytes) {
			l.bad(LintExtensions, "noRevAvail is %x, not NULL", value)
		}
		if slices.ContainsFunc(seen, oidCRLPoints.Equal) || slices.ContainsFunc(seen, oidFreshestCRL.Equal) {
			l.bad(LintExtensions, "says that no revocation information exists, and where it is")
		}
	}
}

func (l *leaf) value(oid asn1.ObjectIdentifier) ([]byte, bool) {
	for _, e := range l.cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, true
		}
	}
	return nil, false
}

// fulcioNumber returns n of 1.3.6.1.4.1.57264.1.n, or 0.
func fulcioNumber(oid asn1.ObjectIdentifier) int {
	if len(oid) != len(oidFulcio)+1 || !oid[:len(oidFulcio)].Equal(oidFulcio) {
		return 0
	}
	return oid[len(oidFulcio)]
}
