package ceremony

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxRequest bounds a certificate request; one for RSA 4096 has 1.3 KiB.
const maxRequest = 16 << 10

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidCodeSigning      = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
)

// Request is a certificate request for an issuing certificate, parsed and
// checked.
type Request struct {
	subject string
	der     []byte
	csr     *x509.CertificateRequest
}

// NewRequest makes a PKCS#10 request that asks for what an issuing certificate
// of a keyless authority needs, signs it and reads it back.
//
// It asks for keyCertSign and for cRLSign too. The service signs no CRL, but the
// organization may want one for the certificates that carry crl_url, some PKIs
// give a CA both or nothing, and a new issuing certificate for one missing bit is
// a ceremony. It asks for no digitalSignature: this key signs no OCSP answers.
func NewRequest(subject Name, key crypto.Signer) (*Request, error) {
	if subject.IsZero() {
		return nil, errors.New("ceremony: a request needs a subject")
	}
	want, err := requestExtensions(key.Public())
	if err != nil {
		return nil, fmt.Errorf("ceremony: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: subject.der, ExtraExtensions: want}, key)
	if err != nil {
		return nil, fmt.Errorf("ceremony: signing the request: %w", err)
	}
	r, err := ParseRequest(der)
	if err != nil {
		return nil, fmt.Errorf("ceremony: reading back the request: %w", err)
	}
	if !bytes.Equal(r.csr.RawSubject, subject.der) || !samePublicKey(r.csr.PublicKey, key.Public()) {
		return nil, errors.New("ceremony: reading back the request: it has another subject or key")
	}
	return r, nil
}

// ParseRequest reads a request and checks that it is one that NewRequest would
// have made: exactly its extensions, a signature that verifies, and no other
// attribute.
func ParseRequest(der []byte) (*Request, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("request of %d bytes, more than %d", len(der), maxRequest)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parsing: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking its signature: %w", err)
	}
	if err := soleAttribute(csr.RawTBSCertificateRequest); err != nil {
		return nil, err
	}
	want, err := requestExtensions(csr.PublicKey)
	if err != nil {
		return nil, err
	}
	same := func(a, b pkix.Extension) bool {
		return a.Id.Equal(b.Id) && a.Critical == b.Critical && bytes.Equal(a.Value, b.Value)
	}
	if !slices.EqualFunc(csr.Extensions, want, same) {
		return nil, errors.New("it does not ask for the extensions of an issuing certificate")
	}
	var subject pkix.RDNSequence
	if rest, err := asn1.Unmarshal(csr.RawSubject, &subject); err != nil || len(rest) > 0 || len(subject) == 0 {
		return nil, errors.New("its subject is empty or malformed")
	}
	return &Request{subject: ShowName(csr.RawSubject), der: slices.Clone(der), csr: csr}, nil
}

// soleAttribute demands that the request holds the extension request and
// nothing else: a challenge password, say, would be a secret in a file that is
// sent around.
//
//	CertificationRequestInfo ::= SEQUENCE {         -- RFC 2986, Section 4.1
//	  version INTEGER, subject Name,
//	  subjectPKInfo SubjectPublicKeyInfo, attributes [0] Attributes }
func soleAttribute(info []byte) error {
	s := cryptobyte.String(info)
	var inner, attributes, attribute cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !s.ReadASN1(&inner, cryptobyte_asn1.SEQUENCE) || !s.Empty() ||
		!inner.SkipASN1(cryptobyte_asn1.INTEGER) || !inner.SkipASN1(cryptobyte_asn1.SEQUENCE) || !inner.SkipASN1(cryptobyte_asn1.SEQUENCE) ||
		!inner.ReadASN1(&attributes, cryptobyte_asn1.Tag(0).Constructed().ContextSpecific()) || !inner.Empty() ||
		!attributes.ReadASN1(&attribute, cryptobyte_asn1.SEQUENCE) || !attributes.Empty() ||
		!attribute.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidExtensionRequest) {
		return errors.New("it holds attributes beside the extension request, or none")
	}
	return nil
}

// requestExtensions are what an issuing certificate is asked to have. The path
// length is 0, so that whoever steals the key can make no further authorities.
func requestExtensions(public crypto.PublicKey) ([]pkix.Extension, error) {
	id, err := keyID(public)
	if err != nil {
		return nil, err
	}
	constraints, err := asn1.Marshal(struct {
		CA      bool
		PathLen int
	}{true, 0})
	if err != nil {
		return nil, fmt.Errorf("encoding basic constraints: %w", err)
	}
	usages, err := asn1.Marshal([]asn1.ObjectIdentifier{oidCodeSigning})
	if err != nil {
		return nil, fmt.Errorf("encoding extended key usage: %w", err)
	}
	return []pkix.Extension{
		{Id: oidBasicConstraints, Critical: true, Value: constraints},
		// KeyUsage ::= BIT STRING, keyCertSign (5) and cRLSign (6): 0000 0110, one
		// unused bit. RFC 5280, Section 4.2.1.3.
		{Id: oidKeyUsage, Critical: true, Value: []byte{3, 2, 1, 0x06}},
		{Id: oidExtendedKeyUsage, Value: usages},
		{Id: oidSubjectKeyID, Value: append([]byte{4, byte(len(id))}, id...)},
	}, nil
}

// keyID returns the subject key identifier:
//
// RFC 7093, Section 2: "1) The keyIdentifier is composed of the leftmost
// 160-bits of the SHA-256 hash of the value of the BIT STRING subjectPublicKey
// (excluding the tag, length, and number of unused bits)."
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	sum := sha256.Sum256(info.Key.RightAlign())
	return sum[:20], nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// PEM returns the request as files carry it.
func (r *Request) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.der})
}

// Subject returns the subject as RFC 4514 writes it.
func (r *Request) Subject() string { return r.subject }

// PublicKey returns the key that the request is for. It must not be modified.
func (r *Request) PublicKey() crypto.PublicKey { return r.csr.PublicKey }

// Fingerprint returns SHA-256 of the request's DER, in hexadecimal.
func (r *Request) Fingerprint() string { return hexSum(r.der) }

// KeyFingerprint returns SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
// It is what two people compare over the telephone.
func (r *Request) KeyFingerprint() string { return hexSum(r.csr.RawSubjectPublicKeyInfo) }

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
