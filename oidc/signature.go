package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // makes crypto.SHA256 available
	_ "crypto/sha512" // makes crypto.SHA384 and crypto.SHA512 available
	"math/big"
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
func (k *key) verifies(alg string, signed, signature []byte) bool {
	a, known := algorithms[alg]
	if !known || a.kind != k.kind {
		return false
	}
	if a.hash == 0 {
		pub, ok := k.public.(ed25519.PublicKey)
		return ok && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, signed, signature)
	}
	h := a.hash.New()
	h.Write(signed)
	digest := h.Sum(nil)
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
		// RFC 7518, Section 3.4: "Turn R and S into octet sequences in big-endian
		// order, with each array being be 32 octets long. The octet sequence
		// representations MUST NOT be shortened to omit any leading zero octets".
		// So neither ASN.1 nor a shorter pair is another text of the signature.
		size := (pub.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(pub, digest, r, s)
	}
	return false
}
