package ctlog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// A log may answer with the SCT it gave for the same submission a little
	// earlier, and its clock may differ from ours; more than this is not our
	// submission or not our time.
	maxSCTAge  = 10 * time.Minute
	maxSCTLead = time.Minute
)

// Key is a log's public key, which clients in the field will accept: ECDSA P-256,
// or RSA of at least 2048 bits.
type Key struct {
	der      []byte
	id       [32]byte
	kind     tls.SignatureAlgorithm
	verifier *ct.SignatureVerifier // of tree heads
	verify   func(digest, signature []byte) bool
}

// ParseKey reads a SubjectPublicKeyInfo, as one PEM block or as DER.
func ParseKey(pemOrDER []byte) (*Key, error) {
	der := pemOrDER
	if bytes.Contains(pemOrDER, []byte("-----BEGIN")) {
		block, rest := pem.Decode(pemOrDER)
		if block == nil {
			return nil, errors.New("parsing log key: malformed PEM")
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("parsing log key: PEM block %q, want PUBLIC KEY", block.Type)
		}
		if len(bytes.TrimSpace(rest)) != 0 {
			return nil, errors.New("parsing log key: data after the PEM block")
		}
		der = block.Bytes
	}
	if len(der) == 0 {
		return nil, errors.New("parsing log key: empty")
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing log key: %w", err)
	}
	// The log id is a hash of these bytes, so another encoding of the same key
	// would be another log to every client.
	canonical, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("parsing log key: %w", err)
	}
	if !bytes.Equal(canonical, der) {
		return nil, errors.New("parsing log key: not the canonical DER encoding")
	}
	k := &Key{der: canonical, id: sha256.Sum256(canonical)}
	switch public.(type) {
	case *ecdsa.PublicKey:
		k.kind = tls.ECDSA
	case *rsa.PublicKey:
		k.kind = tls.RSA
	}
	if k.verifier, err = ct.NewSignatureVerifier(public); err != nil {
		return nil, fmt.Errorf("parsing log key: %w", err)
	}
	k.verify = verifyWith(public)
	return k, nil
}

// ID is the log id: SHA-256 of the key's DER SubjectPublicKeyInfo.
func (k *Key) ID() [32]byte { return k.id }

// DER is a copy of the key's SubjectPublicKeyInfo.
func (k *Key) DER() []byte { return bytes.Clone(k.der) }

// VerifySCT checks that sct is this log's promise over s, given about now: log
// id, algorithm, timestamp, and the signature over the leaf as we build it
// ourselves, extensions included. Every error wraps [ErrBadSCT].
func (k *Key) VerifySCT(s Submission, sct SCT, now time.Time) error {
	if sct.LogID != k.id {
		return badSCT(reasonLogID, "log id %x, want %x", sct.LogID, k.id)
	}
	if age := now.Sub(sct.Timestamp); age > maxSCTAge || age < -maxSCTLead {
		return badSCT(reasonTimestamp, "timestamp %s at %s", sct.Timestamp.UTC(), now.UTC())
	}
	// RFC 6962, Section 3.2: "Currently, no extensions are specified." Since then
	// static-ct-api has specified one, and clients in the field read that one or
	// none: a certificate with another would be of no use to them.
	index, err := leafIndex(sct.Extensions)
	if err != nil {
		return badSCT(reasonExtensions, "%w", err)
	}
	if n := len(sct.Extensions); n != 0 && (index < 0 || n != leafIndexSize) {
		return badSCT(reasonExtensions, "extensions %x, want a leaf_index or none", sct.Extensions[:min(n, 64)])
	}
	if index != sct.Index {
		return badSCT(reasonExtensions, "index %d beside extensions that say %d", sct.Index, index)
	}
	signed, err := k.digitallySigned(sct.Signature)
	if err != nil {
		return badSCT(reasonSignature, "%w", err)
	}
	var buf [4 << 10]byte // enough for most, so that nothing has to be collected
	input, err := s.appendSCTInput(buf[:0], sct)
	if err != nil {
		return badSCT(reasonSignature, "%w", err)
	}
	// RFC 6962, Section 2.1.4, knows no other hash than SHA-256.
	digest := sha256.Sum256(input)
	if !k.verify(digest[:], signed.Signature) {
		return badSCT(reasonSignature, "the signature does not verify")
	}
	return nil
}

// VerifiedBy returns the same key, whose SCTs are verified by a function that
// knows it: it reports whether signature is one of the SHA-256 digest by this key,
// in ASN.1 DER if the key is an ECDSA key. Everything else that [Key.VerifySCT]
// demands stays.
func (k *Key) VerifiedBy(verify func(digest, signature []byte) bool) *Key {
	other := *k
	other.verify = verify
	return &other
}

// verifyWith is how the signatures of a key are verified with the standard
// library, which refuses ECDSA signatures that are not DER to the last byte.
func verifyWith(public crypto.PublicKey) func(digest, signature []byte) bool {
	return func(digest, signature []byte) bool {
		switch public := public.(type) {
		case *ecdsa.PublicKey:
			return ecdsa.VerifyASN1(public, digest, signature)
		case *rsa.PublicKey:
			return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature) == nil
		}
		return false
	}
}

// digitallySigned decodes the signature and holds it to the one algorithm this
// key has. certificate-transparency-go, which verifies tree heads, would verify
// MD5, would pass over garbage behind an ECDSA signature, and prints about it to
// standard error.
//
// RFC 6962, Section 2.1.4: "A log MUST use either elliptic curve signatures
// using the NIST P-256 curve [...] or RSA signatures [...] with a key of at least
// 2048 bits" with SHA-256.
//
//	// RFC 5246, Section 4.7
//	struct {
//	    HashAlgorithm hash;
//	    SignatureAlgorithm signature;
//	    opaque signature<0..2^16-1>;
//	} DigitallySigned;
func (k *Key) digitallySigned(b []byte) (tls.DigitallySigned, error) {
	in := cryptobyte.String(b)
	var hash, kind uint8
	var signature, inner cryptobyte.String
	if !in.ReadUint8(&hash) || !in.ReadUint8(&kind) || !in.ReadUint16LengthPrefixed(&signature) {
		return tls.DigitallySigned{}, errors.New("decoding signature: truncated")
	}
	if !in.Empty() {
		return tls.DigitallySigned{}, fmt.Errorf("decoding signature: %d bytes after it", len(in))
	}
	d := tls.DigitallySigned{Signature: signature}
	d.Algorithm.Hash, d.Algorithm.Signature = tls.HashAlgorithm(hash), tls.SignatureAlgorithm(kind)
	if d.Algorithm.Hash != tls.SHA256 || d.Algorithm.Signature != k.kind {
		return d, fmt.Errorf("signature algorithm %d/%d, want %d/%d", hash, kind, tls.SHA256, k.kind)
	}
	if k.kind != tls.ECDSA {
		return d, nil
	}
	var r, s []byte
	if !signature.ReadASN1(&inner, asn1.SEQUENCE) || !signature.Empty() ||
		!inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&s) || !inner.Empty() {
		return d, errors.New("ECDSA signature is not DER")
	}
	return d, nil
}

// LeafHash is the RFC 6962 Merkle leaf hash of the entry that sct promises for s.
// It covers the SCT's extensions, without which the entries of a static-ct-api
// log cannot be found.
func LeafHash(s Submission, sct SCT) ([32]byte, error) {
	leaf, err := merkleLeaf(s, sct)
	if err != nil {
		return [32]byte{}, err
	}
	hash, err := ct.LeafHashForLeaf(leaf)
	if err != nil {
		return [32]byte{}, fmt.Errorf("hashing Merkle leaf: %w", err)
	}
	return hash, nil
}

func merkleLeaf(s Submission, sct SCT) (*ct.MerkleTreeLeaf, error) {
	ms, err := milliseconds(sct.Timestamp)
	if err != nil {
		return nil, fmt.Errorf("building Merkle leaf: %w", err)
	}
	return &ct.MerkleTreeLeaf{
		Version:  ct.V1,
		LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: ms,
			EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{
				IssuerKeyHash:  s.IssuerKeyHash,
				TBSCertificate: s.TBS,
			},
			Extensions: ct.CTExtensions(sct.Extensions),
		},
	}, nil
}
