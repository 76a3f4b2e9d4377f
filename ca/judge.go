package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxCertificate bounds a certificate: OpenShift and registries carry chains in
// annotations and headers of 8 KiB.
const maxCertificate = 8 << 10

// maxSignature is the longest signature, of an RSA key with 4096 bits, with what
// encloses it and the certificate.
const maxSignature = 512 + 1 + 2*4

// judge parses to-be-signed bytes with crypto/x509, which shares no code with
// our encoder, and compares them with what was decided. It is the last look
// before a CA key is used: whatever bug the encoder may have, a certificate that
// says something else is never signed.
func judge(tbsDER []byte, d *draft, id Identity) error {
	cert, err := parseTBS(tbsDER, d.chain.signatureAlgorithm)
	if err != nil {
		return fmt.Errorf("parsing to-be-signed bytes: %w", err)
	}
	if size := len(tbsDER) + len(d.chain.signatureAlgorithm) + maxSignature; size > maxCertificate {
		return fmt.Errorf("certificate would have %d bytes, more than %d", size, maxCertificate)
	}
	return errors.Join(judgeFields(cert, tbsDER, d), judgeMeaning(cert, d), judgeExtensions(cert, d, id))
}

func judgeFields(cert *x509.Certificate, tbsDER []byte, d *draft) error {
	switch {
	case !bytes.Equal(cert.RawTBSCertificate, tbsDER):
		return errors.New("parsed to-be-signed bytes differ from ours")
	case cert.Version != 3:
		return fmt.Errorf("version %d", cert.Version)
	case cert.SerialNumber.Sign() <= 0 || !bytes.Equal(cert.SerialNumber.FillBytes(make([]byte, 20)), d.serial[:]):
		return errors.New("serial number differs")
	case len(cert.SerialNumber.Bytes()) != len(d.serial):
		return errors.New("serial number is not 20 octets long")
	case cert.SignatureAlgorithm != d.chain.algorithm:
		return fmt.Errorf("signature algorithm %v", cert.SignatureAlgorithm)
	case !bytes.Equal(cert.RawIssuer, d.chain.issuing().RawSubject):
		return errors.New("issuer name differs from the issuing certificate's subject")
	case !bytes.Equal(cert.RawSubject, []byte{0x30, 0}):
		return errors.New("subject is not empty")
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, d.key.SPKI()):
		return errors.New("public key differs from the proven one")
	case !cert.NotBefore.Equal(d.notBefore) || !cert.NotAfter.Equal(d.notAfter):
		return errors.New("validity differs")
	case cert.NotAfter.Sub(cert.NotBefore) > MaxLifetime || !cert.NotAfter.After(cert.NotBefore):
		return fmt.Errorf("valid for %v", cert.NotAfter.Sub(cert.NotBefore))
	case cert.NotBefore.Before(d.chain.notBefore) || cert.NotAfter.After(d.chain.notAfter):
		return errors.New("validity is not inside the chain's")
	}
	return nil
}

func judgeMeaning(cert *x509.Certificate, d *draft) error {
	switch {
	case cert.IsCA || cert.BasicConstraintsValid:
		return errors.New("basic constraints are present")
	case cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("key usage %b", cert.KeyUsage)
	case len(cert.UnknownExtKeyUsage) > 0 || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}):
		return errors.New("extended key usage is not codeSigning alone")
	case !bytes.Equal(cert.SubjectKeyId, d.key.KeyID()) || len(cert.SubjectKeyId) != 20:
		return errors.New("subject key identifier differs")
	case !bytes.Equal(cert.AuthorityKeyId, d.chain.issuing().SubjectKeyId):
		return errors.New("authority key identifier differs from the issuing certificate's key identifier")
	}
	names, err := otherNames(cert)
	if err != nil {
		return err
	}
	for _, e := range cert.EmailAddresses {
		names = append(names, SAN{SANEmail, e})
	}
	for _, u := range cert.URIs {
		names = append(names, SAN{SANURI, u.String()})
	}
	if len(cert.DNSNames)+len(cert.IPAddresses) > 0 || !slices.Equal(names, []SAN{d.san}) {
		return fmt.Errorf("names %v differ from the decided %v", names, d.san)
	}
	return nil
}

// otherNames reads the names that crypto/x509 leaves alone.
func otherNames(cert *x509.Certificate) ([]SAN, error) {
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSAN) })
	if i < 0 {
		return nil, errors.New("no subject alternative name")
	}
	in := cryptobyte.String(cert.Extensions[i].Value)
	var general, name cryptobyte.String
	var tag cryptobyte_asn1.Tag
	if !in.ReadASN1(&general, cryptobyte_asn1.SEQUENCE) || !in.Empty() || !general.ReadAnyASN1(&name, &tag) {
		return nil, errors.New("subject alternative name is malformed")
	}
	if !general.Empty() {
		return nil, errors.New("several names, not one")
	}
	if tag != cryptobyte_asn1.Tag(0).ContextSpecific().Constructed() {
		return nil, nil
	}
	var id asn1.ObjectIdentifier
	var explicit cryptobyte.String
	if !name.ReadASN1ObjectIdentifier(&id) ||
		!name.ReadASN1(&explicit, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) || !name.Empty() {
		return nil, errors.New("other name is malformed")
	}
	value, ok := readUTF8String(explicit)
	if !ok || !id.Equal(fulcioOIDs[extOtherName]) {
		return nil, fmt.Errorf("other name of type %v, or not a UTF8String", id)
	}
	return []SAN{{SANUsername, string(value)}}, nil
}

// readUTF8String returns the content of the one UTF8String that in holds.
func readUTF8String(in cryptobyte.String) ([]byte, bool) {
	var value cryptobyte.String
	ok := in.ReadASN1(&value, cryptobyte_asn1.UTF8String) && in.Empty() && utf8.Valid(value)
	return value, ok
}

// judgeExtensions demands exactly the extensions of the profile, in order, and
// reads the values of 57264.1 back with a decoder that the encoder does not use.
func judgeExtensions(cert *x509.Certificate, d *draft, id Identity) error {
	type slot struct {
		oid      asn1.ObjectIdentifier
		critical bool
		value    string // of a 57264.1 extension
	}
	want := append(make([]slot, 0, 32),
		slot{oidKeyUsage, true, ""}, slot{oidExtKeyUsage, false, ""}, slot{oidSKI, false, ""}, slot{oidAKI, false, ""}, slot{oidSAN, true, ""})
	for _, optional := range []struct {
		wanted bool
		oid    asn1.ObjectIdentifier
	}{
		{d.chain.caIssuersURL != "", oidAIA}, {len(d.policies) > 0, oidPolicies},
		{d.chain.crlURL != "", oidCRLPoints}, {d.noRevAvail, oidNoRevAvail},
	} {
		if optional.wanted {
			want = append(want, slot{optional.oid, false, ""})
		}
	}
	for _, e := range d.extensions {
		if e.Number < 0 || e.Number >= len(fulcioOIDs) {
			return fmt.Errorf("extension 57264.1.%d is unknown", e.Number)
		}
		want = append(want, slot{fulcioOIDs[e.Number], false, e.Value})
	}
	if d.logged {
		want = append(want, slot{oidPoison, true, ""})
	}
	if len(cert.Extensions) != len(want) {
		return fmt.Errorf("%d extensions, not %d", len(cert.Extensions), len(want))
	}
	for i, w := range want {
		got := cert.Extensions[i]
		if !got.Id.Equal(w.oid) || got.Critical != w.critical {
			return fmt.Errorf("extension %d is %v (critical %v), not %v (critical %v)", i, got.Id, got.Critical, w.oid, w.critical)
		}
		if err := judgeValue(got, w.value); err != nil {
			return fmt.Errorf("extension %v: %w", got.Id, err)
		}
	}
	return errors.Join(judgeIdentity(d.extensions, id), judgeOptional(cert, d))
}

// judgeOptional compares what chain and profile asked for with what crypto/x509
// reads.
func judgeOptional(cert *x509.Certificate, d *draft) error {
	one := func(url string) []string {
		if url == "" {
			return nil
		}
		return []string{url}
	}
	switch {
	case !slices.Equal(cert.IssuingCertificateURL, one(d.chain.caIssuersURL)) || len(cert.OCSPServer) > 0:
		return errors.New("authority information access differs")
	case !slices.Equal(cert.CRLDistributionPoints, one(d.chain.crlURL)):
		return errors.New("CRL distribution points differ")
	case !slices.EqualFunc(cert.Policies, d.policies, x509.OID.Equal):
		return errors.New("certificate policies differ")
	}
	return nil
}

func judgeValue(e pkix.Extension, want string) error {
	switch n := fulcioNumber(e.Id); {
	case e.Id.Equal(oidPoison) || e.Id.Equal(oidNoRevAvail):
		if !bytes.Equal(e.Value, asn1.NullBytes) {
			return errors.New("value is not NULL")
		}
	case n == 0:
	case n <= extLastRaw:
		if string(e.Value) != want {
			return errors.New("raw value differs")
		}
	default:
		if got, ok := readUTF8String(e.Value); !ok || string(got) != want {
			return errors.New("value differs")
		}
	}
	return nil
}

// judgeIdentity demands both issuer extensions and the token subject, equal to
// the verified identity.
func judgeIdentity(extensions []Extension, id Identity) error {
	for _, w := range []Extension{{extIssuerRaw, id.Issuer}, {extIssuer, id.Issuer}, {extTokenSubject, id.Subject}} {
		if w.Value == "" || !slices.Contains(extensions, w) {
			return fmt.Errorf("extension 57264.1.%d does not hold the verified identity", w.Number)
		}
	}
	return nil
}

// fulcioNumber returns n of 1.3.6.1.4.1.57264.1.n, or 0.
func fulcioNumber(oid asn1.ObjectIdentifier) int {
	last := len(oid) - 1
	if last != len(fulcioOIDs[0])-1 || !oid[:last].Equal(fulcioOIDs[0][:last]) {
		return 0
	}
	return oid[last]
}

// parseTBS has crypto/x509 parse to-be-signed bytes. It parses only whole
// certificates, but does not look at the signature.
func parseTBS(tbsDER, algorithm []byte) (*x509.Certificate, error) {
	return x509.ParseCertificate(certificate(tbsDER, algorithm, make([]byte, 64)))
}
