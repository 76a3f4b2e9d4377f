package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// maxCertificate bounds a certificate: OpenShift and registries carry chains in
// annotations and headers of 8 KiB.
const maxCertificate = 8 << 10

// judge parses to-be-signed bytes with crypto/x509, which shares no code with
// our encoder, and compares them with what was decided. It is the last look
// before a CA key is used: whatever bug the encoder may have, a certificate that
// says something else is never signed.
func judge(tbsDER []byte, d *draft, id Identity) error {
	// crypto/x509 parses only whole certificates; the signature is not looked at
	// but counts for the size, so it is as long as the longest (RSA 4096).
	der, err := certificate(tbsDER, d.chain.signatureAlgorithm, make([]byte, 512))
	if err != nil {
		return fmt.Errorf("wrapping to-be-signed bytes: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing to-be-signed bytes: %w", err)
	}
	if len(der) > maxCertificate {
		return fmt.Errorf("certificate would have %d bytes, more than %d", len(der), maxCertificate)
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
	var general []asn1.RawValue
	if rest, err := asn1.Unmarshal(cert.Extensions[i].Value, &general); err != nil || len(rest) > 0 {
		return nil, errors.New("subject alternative name is malformed")
	}
	if len(general) != 1 {
		return nil, fmt.Errorf("%d names, not one", len(general))
	}
	if general[0].Tag != 0 {
		return nil, nil
	}
	var other struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"tag:0,explicit,utf8"`
	}
	if rest, err := asn1.UnmarshalWithParams(general[0].FullBytes, &other, "tag:0"); err != nil || len(rest) > 0 {
		return nil, errors.New("other name is malformed")
	}
	if !other.Type.Equal(oidFulcio(extOtherName)) {
		return nil, fmt.Errorf("other name of type %v", other.Type)
	}
	return []SAN{{SANUsername, other.Value}}, nil
}

// judgeExtensions demands exactly the extensions of the profile, in order, and
// reads the values of 57264.1 back with a decoder that the encoder does not use.
func judgeExtensions(cert *x509.Certificate, d *draft, id Identity) error {
	type slot struct {
		oid      asn1.ObjectIdentifier
		critical bool
		value    string // of a 57264.1 extension
	}
	want := []slot{{oidKeyUsage, true, ""}, {oidExtKeyUsage, false, ""}, {oidSKI, false, ""}, {oidAKI, false, ""}, {oidSAN, true, ""}}
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
		want = append(want, slot{oidFulcio(e.Number), false, e.Value})
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
		var got string
		rest, err := asn1.UnmarshalWithParams(e.Value, &got, "utf8")
		if err != nil || len(rest) > 0 || got != want {
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
	base := oidFulcio(0)
	if len(oid) != len(base) || !oid[:len(oid)-1].Equal(base[:len(base)-1]) {
		return 0
	}
	return oid[len(oid)-1]
}

// correspond checks that the final certificate is what the log saw: the same
// to-be-signed bytes, apart from the last extension, which is poison there and
// the SCT list here. It parses both, so that it holds whatever built them.
func correspond(precertTBS, finalTBS, algorithm []byte) error {
	pre, err := parseTBS(precertTBS, algorithm)
	if err != nil {
		return fmt.Errorf("parsing precertificate: %w", err)
	}
	final, err := parseTBS(finalTBS, algorithm)
	if err != nil {
		return fmt.Errorf("parsing final certificate: %w", err)
	}
	preLast, finalLast := len(pre.Extensions)-1, len(final.Extensions)-1
	if preLast != finalLast || preLast < 0 {
		return errors.New("precertificate and final certificate differ in the number of extensions")
	}
	if !pre.Extensions[preLast].Id.Equal(oidPoison) || !final.Extensions[finalLast].Id.Equal(oidSCTList) {
		return errors.New("the last extensions are not poison and SCT list")
	}
	for i, a := range pre.Extensions[:preLast] {
		b := final.Extensions[i]
		if !a.Id.Equal(b.Id) || a.Critical != b.Critical || !bytes.Equal(a.Value, b.Value) {
			return fmt.Errorf("precertificate and final certificate differ in extension %v", a.Id)
		}
	}
	if !bytes.Equal(pre.RawIssuer, final.RawIssuer) || !bytes.Equal(pre.RawSubject, final.RawSubject) ||
		!bytes.Equal(pre.RawSubjectPublicKeyInfo, final.RawSubjectPublicKeyInfo) ||
		pre.SerialNumber.Cmp(final.SerialNumber) != 0 || pre.SignatureAlgorithm != final.SignatureAlgorithm ||
		!pre.NotBefore.Equal(final.NotBefore) || !pre.NotAfter.Equal(final.NotAfter) {
		return errors.New("precertificate and final certificate differ in their fields")
	}
	return nil
}

func parseTBS(tbsDER, algorithm []byte) (*x509.Certificate, error) {
	der, err := certificate(tbsDER, algorithm, make([]byte, 64))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
