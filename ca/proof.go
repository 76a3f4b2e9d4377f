package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ProveSignature returns the client's key when the signature is by that key
// over the identity's verified email or over its subject.
//
// The key is PEM or DER, as parsePublicKey says. The hash follows from the key:
// SHA-256, SHA-384 and SHA-512 for P-256, P-384 and P-521 (ECDSA in ASN.1 DER),
// SHA-256 for RSA (PKCS #1 v1.5), none for Ed25519.
//
// Stock clients sign the email claim if the token has one and else sub, without
// knowing which of the two the server will put into the certificate; so a proof
// over either is taken. An email that the issuer does not vouch for is not:
// whoever may choose it would choose what the signature says.
//
// Errors are refusals.
func ProveSignature(publicKey, signature []byte, id Identity) (ProvenKey, error) {
	key, why := parsePublicKey(publicKey)
	if why != nil {
		return ProvenKey{}, why
	}
	switch {
	case len(signature) == 0:
		return ProvenKey{}, Refuse(KindInvalid, ReasonProofInvalid, "no proof of possession")
	case len(signature) > maxInput:
		return ProvenKey{}, Refuse(KindInvalid, ReasonProofInvalid, "proof of possession of %d bytes, limit %d", len(signature), maxInput)
	}
	var messages []string
	if id.EmailVerified && id.Email != "" {
		messages = append(messages, id.Email)
	}
	if id.Subject != "" && !slices.Contains(messages, id.Subject) {
		messages = append(messages, id.Subject)
	}
	for _, message := range messages {
		if key.verify([]byte(message), signature) {
			return ProvenKey{clientKey: key, proof: ProofSignature}, nil
		}
	}
	return ProvenKey{}, Refuse(KindInvalid, ReasonProofInvalid, "proof of possession by %s key fits neither email nor subject", key.kind)
}

// ProveCSR returns the public key of a PKCS #10 request, PEM of type
// "CERTIFICATE REQUEST" or "NEW CERTIFICATE REQUEST", that is signed by it.
//
// Nothing but the key is used: subject and attributes are not even decoded. The
// key is checked before the signature, so that no weak key is computed with.
//
// Errors are refusals.
func ProveCSR(csr []byte) (ProvenKey, error) {
	switch {
	case len(bytes.TrimSpace(csr)) == 0:
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRMalformed, "no certificate signing request")
	case len(csr) > maxInput:
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRMalformed, "certificate signing request of %d bytes, limit %d", len(csr), maxInput)
	}
	der, typ, ok := decodePEM(csr)
	if !ok || typ != "CERTIFICATE REQUEST" && typ != "NEW CERTIFICATE REQUEST" {
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRMalformed, "not one PEM block of type CERTIFICATE REQUEST")
	}
	req, ok := parseCSR(der)
	if !ok {
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRMalformed, "not a PKCS #10 certification request")
	}
	key, why := parseSPKI(req.spki)
	if why != nil {
		if why.Reason == ReasonKeyMalformed {
			why.Reason = ReasonCSRMalformed
		}
		return ProvenKey{}, why
	}
	if !req.signedWithHashOf(key.kind) {
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRAlgorithm, "request by %s key signed with algorithm %v", key.kind, req.algorithm)
	}
	if !key.verify(req.signed, req.signature) {
		return ProvenKey{}, Refuse(KindInvalid, ReasonCSRSignature, "signature of request by %s key is not its own", key.kind)
	}
	return ProvenKey{clientKey: key, proof: ProofCSR}, nil
}

// verify reports whether the signature over the message is by k, with the one
// hash and padding that go with its kind.
func (k clientKey) verify(message, signature []byte) bool {
	hash := keyHash[k.kind]
	switch pub := k.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest(hash, message), signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, hash, digest(hash, message), signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, message, signature)
	default:
		return false
	}
}

// keyHash is the hash that a kind of key signs with; Ed25519 needs none.
var keyHash = map[KeyKind]crypto.Hash{
	KeyECDSAP256: crypto.SHA256,
	KeyECDSAP384: crypto.SHA384,
	KeyECDSAP521: crypto.SHA512,
	KeyRSA2048:   crypto.SHA256,
	KeyRSA3072:   crypto.SHA256,
	KeyRSA4096:   crypto.SHA256,
}

// digest returns the hash of a message.
func digest(hash crypto.Hash, message []byte) []byte {
	switch hash {
	case crypto.SHA256:
		sum := sha256.Sum256(message)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(message)
		return sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(message)
		return sum[:]
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil)
}

// certificationRequest is what we read of a PKCS #10 request.
type certificationRequest struct {
	// signed is the certificationRequestInfo with tag and length.
	signed []byte
	// spki is the SubjectPublicKeyInfo with tag and length.
	spki []byte
	// algorithm and parameters are those of the signature; parameters are raw
	// DER, empty when absent.
	algorithm  asn1.ObjectIdentifier
	parameters []byte
	signature  []byte
}

// parseCSR reads a request's frame:
//
//	CertificationRequest ::= SEQUENCE {
//	    certificationRequestInfo  CertificationRequestInfo,
//	    signatureAlgorithm        AlgorithmIdentifier,
//	    signature                 BIT STRING }
//
//	CertificationRequestInfo ::= SEQUENCE {
//	    version        INTEGER { v1(0) },
//	    subject        Name,
//	    subjectPKInfo  SubjectPublicKeyInfo,
//	    attributes     [0] IMPLICIT SET OF Attribute }
//
// RFC 2986, Section 4.1: version "shall be 0 for this version of the standard".
func parseCSR(der []byte) (certificationRequest, bool) {
	in := cryptobyte.String(der)
	var req, signed, info, subject, spki, attributes, alg cryptobyte.String
	var version int64
	var out certificationRequest
	if !in.ReadASN1(&req, cryptobyte_asn1.SEQUENCE) || !in.Empty() ||
		!req.ReadASN1Element(&signed, cryptobyte_asn1.SEQUENCE) ||
		!req.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) ||
		!req.ReadASN1BitStringAsBytes(&out.signature) || !req.Empty() ||
		!alg.ReadASN1ObjectIdentifier(&out.algorithm) {
		return certificationRequest{}, false
	}
	out.signed, out.parameters = signed, alg
	if !signed.ReadASN1(&info, cryptobyte_asn1.SEQUENCE) ||
		!info.ReadASN1Integer(&version) || version != 0 ||
		!info.ReadASN1(&subject, cryptobyte_asn1.SEQUENCE) ||
		!info.ReadASN1Element(&spki, cryptobyte_asn1.SEQUENCE) ||
		!info.ReadASN1(&attributes, cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()) || !info.Empty() {
		return certificationRequest{}, false
	}
	out.spki = spki
	return out, true
}

// csrAlgorithms is the one signature algorithm that a kind of key may sign a
// request with. SHA-1, PSS and hashes that do not match the curve are absent.
var csrAlgorithms = map[KeyKind]asn1.ObjectIdentifier{
	KeyECDSAP256: {1, 2, 840, 10045, 4, 3, 2},   // ecdsa-with-SHA256
	KeyECDSAP384: {1, 2, 840, 10045, 4, 3, 3},   // ecdsa-with-SHA384
	KeyECDSAP521: {1, 2, 840, 10045, 4, 3, 4},   // ecdsa-with-SHA512
	KeyRSA2048:   {1, 2, 840, 113549, 1, 1, 11}, // sha256WithRSAEncryption
	KeyRSA3072:   {1, 2, 840, 113549, 1, 1, 11}, // sha256WithRSAEncryption
	KeyRSA4096:   {1, 2, 840, 113549, 1, 1, 11}, // sha256WithRSAEncryption
	KeyEd25519:   {1, 3, 101, 112},              // id-Ed25519
}

// signedWithHashOf reports whether the request's signature algorithm is the one
// for the kind of key.
//
// RFC 5758, Section 3.2, of ECDSA: "the encoding MUST omit the parameters
// field"; RFC 8410, Section 3, says so for Ed25519. RFC 4055, Section 5, of RSA:
// "the parameters MUST be NULL. Implementations MUST accept the parameters being
// absent as well as present."
func (r certificationRequest) signedWithHashOf(kind KeyKind) bool {
	if !r.algorithm.Equal(csrAlgorithms[kind]) {
		return false
	}
	if len(r.parameters) == 0 {
		return true
	}
	null := []byte{byte(cryptobyte_asn1.NULL), 0}
	return csrAlgorithms[kind].Equal(csrAlgorithms[KeyRSA2048]) && bytes.Equal(r.parameters, null)
}
