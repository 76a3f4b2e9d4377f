package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha1" //nolint:gosec // a key identifier, RFC 5280, Section 4.2.1.2; nothing rests on its strength
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// KeyKind names the algorithm and size of a client key. Profiles list them, so
// the names never change meaning.
type KeyKind string

// The kinds of key that a certificate can be issued for.
const (
	KeyECDSAP256 KeyKind = "ecdsa-p256"
	KeyECDSAP384 KeyKind = "ecdsa-p384"
	KeyECDSAP521 KeyKind = "ecdsa-p521"
	KeyRSA2048   KeyKind = "rsa-2048"
	KeyRSA3072   KeyKind = "rsa-3072"
	KeyRSA4096   KeyKind = "rsa-4096"
	KeyEd25519   KeyKind = "ed25519"
)

// How possession of a key was proven, as [ProvenKey.Proof] returns it.
const (
	// ProofCSR is a PKCS #10 request signed by the key.
	ProofCSR = "csr"
	// ProofSignature is a signature by the key over the email or subject of the token.
	ProofSignature = "signature"
)

// ProvenKey is a public key that passed every check for weakness and whose
// possession was proven. Only [ProveCSR] and [ProveSignature] make one; the
// zero value is no key, and Issue refuses it.
type ProvenKey struct {
	clientKey
	proof string
}

// IsZero reports that k is the zero value, for which nothing was proven.
func (k ProvenKey) IsZero() bool { return k.proof == "" || k.public == nil }

// Public returns the key as *ecdsa.PublicKey, *rsa.PublicKey or
// ed25519.PublicKey. It must not be modified.
func (k ProvenKey) Public() crypto.PublicKey { return k.public }

// SPKI returns the key's SubjectPublicKeyInfo in DER, encoded by us and never
// the client's bytes. The caller may keep it.
func (k ProvenKey) SPKI() []byte { return bytes.Clone(k.spki) }

// SPKIHash returns SHA-256 of SPKI.
func (k ProvenKey) SPKIHash() [32]byte { return sha256.Sum256(k.spki) }

// Kind returns the key's algorithm and size.
func (k ProvenKey) Kind() KeyKind { return k.kind }

// Proof returns [ProofCSR] or [ProofSignature].
func (k ProvenKey) Proof() string { return k.proof }

// KeyID returns the subject key identifier:
//
// RFC 5280, Section 4.2.1.2: "(1) The keyIdentifier is composed of the 160-bit
// SHA-1 hash of the value of the BIT STRING subjectPublicKey (excluding the tag,
// length, and number of unused bits)."
func (k ProvenKey) KeyID() []byte {
	h := sha1.Sum(k.bits) //nolint:gosec // see the import
	return h[:]
}

// clientKey is a key that passed the checks for weakness, not yet proven.
type clientKey struct {
	public crypto.PublicKey
	kind   KeyKind
	// spki is the canonical SubjectPublicKeyInfo, bits the value of its BIT STRING.
	spki, bits []byte
}

// maxInput bounds every key, signature and CSR. The largest legitimate one, a
// CSR for RSA 4096 with some attributes, is about a tenth of it.
const maxInput = 16 << 10

// parsePublicKey reads a client's key, PEM or DER, and refuses weak ones.
//
// Stock clients send PEM "PUBLIC KEY" (sigstore-java with unwrapped base64 and
// no final newline) or, over the v1 API, the DER. None of them sends the
// PKCS #1 "RSA PUBLIC KEY" that Fulcio reads too; a second encoding of the same
// key is not worth having.
func parsePublicKey(in []byte) (clientKey, *Refusal) {
	switch {
	case len(bytes.TrimSpace(in)) == 0:
		return clientKey{}, Refuse(KindInvalid, ReasonKeyMissing, "no public key")
	case len(in) > maxInput:
		return clientKey{}, Refuse(KindInvalid, ReasonKeyMalformed, "public key of %d bytes, limit %d", len(in), maxInput)
	}
	// The DER of a SubjectPublicKeyInfo starts with the SEQUENCE tag 0x30, "0",
	// which PEM never starts with.
	if in[0] == byte(cryptobyte_asn1.SEQUENCE) {
		return parseSPKI(in)
	}
	der, typ, ok := decodePEM(in)
	if !ok {
		return clientKey{}, Refuse(KindInvalid, ReasonKeyMalformed, "public key is neither DER nor one block of PEM")
	}
	if typ != "PUBLIC KEY" {
		return clientKey{}, Refuse(KindInvalid, ReasonKeyUnsupported, "public key is PEM of type %.40q, not PUBLIC KEY", typ)
	}
	return parseSPKI(der)
}

// decodePEM returns the content of the only PEM block in the input. Unlike
// pem.Decode it takes no text around the block, no headers inside it and no
// second block, since whatever is skipped is something another reader of the
// same bytes may take for the key.
func decodePEM(in []byte) (der []byte, typ string, ok bool) {
	in = bytes.TrimSpace(in)
	if !bytes.HasPrefix(in, []byte("-----BEGIN ")) || bytes.Count(in, []byte("-----BEGIN")) != 1 {
		return nil, "", false
	}
	block, rest := pem.Decode(in)
	if block == nil || len(block.Headers) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return nil, "", false
	}
	return block.Bytes, block.Type, true
}

var (
	// RFC 8017, Appendix A.1, RFC 5480, Section 2.1.1, RFC 8410, Section 3.
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}

	// RFC 5480, Section 2.1.1.1.
	oidP224 = asn1.ObjectIdentifier{1, 3, 132, 0, 33}
	oidP192 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 1}
)

// curves are the curves of client keys.
var curves = []struct {
	oid   asn1.ObjectIdentifier
	kind  KeyKind
	curve elliptic.Curve
}{
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, KeyECDSAP256, elliptic.P256()},
	{asn1.ObjectIdentifier{1, 3, 132, 0, 34}, KeyECDSAP384, elliptic.P384()},
	{asn1.ObjectIdentifier{1, 3, 132, 0, 35}, KeyECDSAP521, elliptic.P521()},
}

// parseSPKI reads a SubjectPublicKeyInfo and refuses weak keys:
//
//	SubjectPublicKeyInfo ::= SEQUENCE {
//	    algorithm         AlgorithmIdentifier,
//	    subjectPublicKey  BIT STRING }
//
//	AlgorithmIdentifier ::= SEQUENCE {
//	    algorithm   OBJECT IDENTIFIER,
//	    parameters  ANY DEFINED BY algorithm OPTIONAL }
//
// It looks at lengths before anything computes with the numbers, so that a
// huge modulus costs no more than reading it.
func parseSPKI(der []byte) (clientKey, *Refusal) {
	in := cryptobyte.String(der)
	var spki, alg cryptobyte.String
	var oid asn1.ObjectIdentifier
	var bits []byte
	if !in.ReadASN1(&spki, cryptobyte_asn1.SEQUENCE) || !in.Empty() ||
		!spki.ReadASN1(&alg, cryptobyte_asn1.SEQUENCE) ||
		!alg.ReadASN1ObjectIdentifier(&oid) ||
		!spki.ReadASN1BitStringAsBytes(&bits) || !spki.Empty() {
		return clientKey{}, Refuse(KindInvalid, ReasonKeyMalformed, "public key is not a SubjectPublicKeyInfo")
	}
	k := clientKey{bits: bytes.Clone(bits)}
	var why *Refusal
	switch {
	case oid.Equal(oidEC):
		k.public, k.kind, why = parseEC(alg, k.bits)
	case oid.Equal(oidRSA):
		k.public, k.kind, why = parseRSA(alg, k.bits)
	case oid.Equal(oidEd25519):
		k.public, k.kind, why = parseEd25519(alg, k.bits)
	default:
		why = Refuse(KindInvalid, ReasonKeyUnsupported, "public key algorithm %v", oid)
	}
	if why != nil {
		return clientKey{}, why
	}
	spkiDER := k.encode()
	// One key, one encoding: what is not the canonical one was made to look
	// different to someone.
	if !bytes.Equal(spkiDER, der) {
		return clientKey{}, Refuse(KindInvalid, ReasonKeyMalformed, "public key is not in canonical DER")
	}
	k.spki = spkiDER
	return k, nil
}

// encode returns the SubjectPublicKeyInfo of a key whose kind and bits are known.
func (k clientKey) encode() []byte {
	b := make([]byte, 0, len(k.bits)+64)
	b = append(b, keyAlgorithms[k.kind]...)
	start := len(b)
	b = append(b, 0) // no unused bits
	b = append(b, k.bits...)
	b = enclose(b, start, cryptobyte_asn1.BIT_STRING)
	return enclose(b, 0, cryptobyte_asn1.SEQUENCE)
}

// keyAlgorithms are the AlgorithmIdentifiers of the kinds of key, in DER.
var keyAlgorithms = func() map[KeyKind][]byte {
	sequence := func(content ...[]byte) []byte {
		return appendElement(nil, cryptobyte_asn1.SEQUENCE, slices.Concat(content...))
	}
	all := map[KeyKind][]byte{KeyEd25519: sequence(derOID(oidEd25519))}
	for _, c := range curves {
		all[c.kind] = sequence(derOID(oidEC), derOID(c.oid))
	}
	for _, kind := range rsaKinds {
		all[kind] = sequence(derOID(oidRSA), derNULL)
	}
	return all
}()

// parseEC reads an elliptic curve point.
//
// RFC 5480, Section 2.1.1: "implicitCurve and specifiedCurve MUST NOT be used in
// PKIX". Explicit parameters that resemble a named curve are how CVE-2020-0601
// worked. Section 2.2 allows the compressed form, which nobody sends.
func parseEC(params cryptobyte.String, bits []byte) (crypto.PublicKey, KeyKind, *Refusal) {
	var oid asn1.ObjectIdentifier
	if !params.ReadASN1ObjectIdentifier(&oid) || !params.Empty() {
		return nil, "", Refuse(KindInvalid, ReasonKeyUnsupported, "EC key without a named curve")
	}
	if oid.Equal(oidP224) || oid.Equal(oidP192) {
		return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "EC key on a curve of less than 256 bits")
	}
	for _, c := range curves {
		if !c.oid.Equal(oid) {
			continue
		}
		if len(bits) == 1 && bits[0] == 0 {
			return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "EC key is the point at infinity")
		}
		coordinate := (c.curve.Params().BitSize + 7) / 8
		if len(bits) != 1+2*coordinate || bits[0] != 4 {
			return nil, "", Refuse(KindInvalid, ReasonKeyMalformed, "EC key is not an uncompressed point of its curve")
		}
		// Refuses coordinates of p and above and points that are off the
		// curve. The curves have prime order, so no subgroup is left to check.
		pub, err := ecdsa.ParseUncompressedPublicKey(c.curve, bits)
		if err != nil {
			return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "EC key is not on its curve: %w", err)
		}
		return pub, c.kind, nil
	}
	return nil, "", Refuse(KindInvalid, ReasonKeyUnsupported, "EC key on curve %v", oid)
}

// parseEd25519 reads an Edwards curve point.
//
// RFC 8410, Section 3: "For all of the OIDs, the parameters MUST be absent."
func parseEd25519(params cryptobyte.String, bits []byte) (crypto.PublicKey, KeyKind, *Refusal) {
	if !params.Empty() || len(bits) != ed25519.PublicKeySize {
		return nil, "", Refuse(KindInvalid, ReasonKeyMalformed, "Ed25519 key of %d bytes, or with parameters", len(bits))
	}
	if err := checkEd25519([ed25519.PublicKeySize]byte(bits)); err != nil {
		return nil, "", Refuse(KindInvalid, ReasonKeyWeak, "Ed25519 key: %w", err)
	}
	return ed25519.PublicKey(slices.Clone(bits)), KeyEd25519, nil
}
