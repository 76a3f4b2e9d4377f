package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512" // makes crypto.SHA384 and crypto.SHA512 available, too
)

// algorithm is a signature algorithm that can be configured.
type algorithm struct {
	// kind is the one kind of key it takes.
	kind string
	hash crypto.Hash // zero for EdDSA, which has its own
	pss  bool
}

// algorithms: RFC 7518, Section 3.1; RFC 8037, Section 3.1. "none" and symmetric
// ones are not here and so cannot be configured.
var algorithms = map[string]algorithm{
	"RS256": {kind: "RSA", hash: crypto.SHA256}, "PS256": {kind: "RSA", hash: crypto.SHA256, pss: true},
	"RS384": {kind: "RSA", hash: crypto.SHA384}, "PS384": {kind: "RSA", hash: crypto.SHA384, pss: true},
	"RS512": {kind: "RSA", hash: crypto.SHA512}, "PS512": {kind: "RSA", hash: crypto.SHA512, pss: true},
	"ES256": {kind: "P-256", hash: crypto.SHA256}, "ES384": {kind: "P-384", hash: crypto.SHA384},
	"ES512": {kind: "P-521", hash: crypto.SHA512},
	"EdDSA": {kind: "Ed25519"},
}

// verifies reports that signature is one of the key over signed, by alg. The
// key must be of the algorithm's kind; another one verifies nothing.
//
// It is written over the standard library because a JWS library would take the
// token apart a second time, which costs a fifth of what the check itself does:
// see docs/adr/0001-go-oidc-reads-claims.md.
func (k *key) verifies(alg, signed string, signature []byte) bool {
	a, known := algorithms[alg]
	if !known || a.kind != k.kind {
		return false
	}
	if a.hash == 0 {
		pub, ok := k.public.(ed25519.PublicKey)
		return ok && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, []byte(signed), signature)
	}
	var room [sha512.Size]byte
	digest := a.digest(room[:0], signed)
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		// Both refuse a signature that is not as long as the modulus.
		if !a.pss {
			return rsa.VerifyPKCS1v15(pub, a.hash, digest, signature) == nil
		}
		// RFC 7518, Section 3.5: "The size of the salt value is the same size as
		// the hash function output." Left to itself Go takes any size.
		opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		return rsa.VerifyPSS(pub, a.hash, digest, signature, opts) == nil
	case *ecdsa.PublicKey:
		return verifiesECDSA(pub, digest, signature)
	}
	return false
}

// digest appends the digest of a text to room.
func (a algorithm) digest(room []byte, text string) []byte {
	if a.hash == crypto.SHA256 {
		// By pieces, because a copy of the whole on the heap would be garbage the
		// next moment.
		h := sha256.New()
		var piece [1 << 10]byte
		for len(text) > 0 {
			n := copy(piece[:], text)
			h.Write(piece[:n])
			text = text[n:]
		}
		return h.Sum(room)
	}
	h := a.hash.New()
	h.Write([]byte(text))
	return h.Sum(room)
}

// verifiesECDSA checks a signature in the form that JWS has.
//
// RFC 7518, Section 3.4: "Turn R and S into octet sequences in big-endian order,
// with each array being be 32 octets long. The octet sequence representations
// MUST NOT be shortened to omit any leading zero octets". So neither ASN.1 nor a
// shorter pair is another text of the signature.
func verifiesECDSA(pub *ecdsa.PublicKey, digest, signature []byte) bool {
	size := (pub.Params().BitSize + 7) / 8
	if len(signature) != 2*size {
		return false
	}
	// ecdsa.Verify takes two big numbers and makes of them what VerifyASN1 takes.
	var room [maxASN1]byte
	return ecdsa.VerifyASN1(pub, digest, appendASN1(room[:0], signature[:size], signature[size:]))
}

// maxASN1 is the length of the longest signature, which P-521 makes.
const maxASN1 = 3 + 2*(2+1+66)

// appendASN1 appends the signature as [ecdsa.VerifyASN1] takes it; r and s are at
// most 66 octets long.
//
//	Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }    (RFC 3279, Section 2.2.3)
func appendASN1(der, r, s []byte) []byte {
	r, padR := minimal(r)
	s, padS := minimal(s)
	length := 2 + padR + len(r) + 2 + padS + len(s)
	der = append(der, 0x30)
	if length >= 0x80 {
		der = append(der, 0x81)
	}
	der = append(der, byte(length))
	der = appendInteger(der, r, padR)
	return appendInteger(der, s, padS)
}

// minimal cuts leading zeros off a number, and says how many, none or one, DER
// puts there so that it is not read as a negative one.
func minimal(n []byte) ([]byte, int) {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	return n, int(n[0] >> 7)
}

func appendInteger(der, n []byte, pad int) []byte {
	der = append(der, 0x02, byte(pad+len(n)))
	if pad > 0 {
		der = append(der, 0)
	}
	return append(der, n...)
}
