package auditor

import (
	"crypto"
	"crypto/ecdsa"
	_ "crypto/md5" //nolint:gosec // see schemes
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // see schemes
	"crypto/sha256"
	_ "crypto/sha3"   // see schemes
	_ "crypto/sha512" // see schemes
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Entry is an entry of a log as its leaf says it.
type Entry struct {
	Time time.Time
	// Leaf is the hash of the Merkle leaf.
	Leaf [32]byte
	// IssuerKeyHash and TBSHash are those of a precertificate.
	IssuerKeyHash, TBSHash [32]byte
	// Certificate is the DER of a final certificate; nil for a precertificate.
	Certificate []byte
	// Promised is the leaf index in the extensions; -1 when there is none.
	Promised int64
}

// readLeaf takes a TimestampedEntry from in.
//
//	// RFC 6962, Section 3.4
//	struct {
//	    uint64 timestamp;
//	    LogEntryType entry_type;
//	    select (entry_type) {
//	        case x509_entry: opaque ASN.1Cert<1..2^24-1>;
//	        case precert_entry: PreCert {
//	            opaque issuer_key_hash[32];
//	            opaque TBSCertificate<1..2^24-1>;
//	        };
//	    };
//	    CtExtensions extensions;
//	} TimestampedEntry;
func readLeaf(in *cryptobyte.String) (Entry, error) {
	start := *in
	e := Entry{Promised: -1}
	var ms uint64
	var kind uint16
	var signed, extensions cryptobyte.String
	if !in.ReadUint64(&ms) || !in.ReadUint16(&kind) {
		return e, errors.New("truncated")
	}
	if kind > 1 {
		return e, fmt.Errorf("entry type %d, want 0 (x509_entry) or 1 (precert_entry)", kind)
	}
	if kind == 1 && !in.CopyBytes(e.IssuerKeyHash[:]) || !in.ReadUint24LengthPrefixed(&signed) || len(signed) == 0 ||
		!in.ReadUint16LengthPrefixed(&extensions) {
		return e, errors.New("truncated")
	}
	if ms > 1<<53 {
		return e, errors.New("timestamp out of range")
	}
	e.Time = time.UnixMilli(int64(ms)).UTC()
	if kind == 1 {
		e.TBSHash = sha256.Sum256(signed)
	} else {
		e.Certificate = signed
	}
	// MerkleTreeLeaf: version v1, leaf type timestamped_entry, the entry.
	e.Leaf = [32]byte(rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, start[:len(start)-len(*in)]...)))
	return e, readExtensions(extensions, &e)
}

// readExtensions looks for static-ct-api's leaf_index (type 0, uint40).
func readExtensions(in cryptobyte.String, e *Entry) error {
	for !in.Empty() {
		var kind uint8
		var data cryptobyte.String
		if !in.ReadUint8(&kind) || !in.ReadUint16LengthPrefixed(&data) {
			return errors.New("malformed extensions")
		}
		if kind != 0 {
			continue
		}
		if e.Promised >= 0 || len(data) != 5 {
			return errors.New("malformed leaf_index")
		}
		e.Promised = 0
		for _, b := range data {
			e.Promised = e.Promised<<8 | int64(b)
		}
	}
	return nil
}

// readMerkleLeaf reads the leaf_input of get-entries: version, leaf type, entry.
func readMerkleLeaf(raw []byte) (Entry, error) {
	in := cryptobyte.String(raw)
	var version, kind uint8
	if !in.ReadUint8(&version) || !in.ReadUint8(&kind) || version != 0 || kind != 0 {
		return Entry{}, errors.New("not a timestamped entry of version 1")
	}
	e, err := readLeaf(&in)
	if err == nil && !in.Empty() {
		err = fmt.Errorf("%d bytes after the leaf", len(in))
	}
	return e, err
}

// readBundle reads the entries of a data tile.
//
//	// static-ct-api
//	struct {
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
func readBundle(raw []byte) ([]Entry, error) {
	in := cryptobyte.String(raw)
	var entries []Entry
	for !in.Empty() {
		if len(entries) == tileWidth {
			return nil, fmt.Errorf("more than %d entries", tileWidth)
		}
		e, err := readLeaf(&in)
		if err != nil {
			return nil, fmt.Errorf("entry %d of the tile: %w", len(entries), err)
		}
		var precertificate, chain cryptobyte.String
		if e.Certificate == nil && !in.ReadUint24LengthPrefixed(&precertificate) || !in.ReadUint16LengthPrefixed(&chain) {
			return nil, fmt.Errorf("entry %d of the tile: truncated", len(entries))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// certificate is one that was taken apart and not understood: crypto/x509 refuses
// what others accept, and a refusal must not hide a signature of our key.
type certificate struct {
	tbs, signature []byte
	algorithm      string // of the signature, as an OID
}

// readCertificate takes a certificate apart.
//
//	Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
func readCertificate(der []byte) (certificate, error) {
	in := cryptobyte.String(der)
	var outer, tbs, algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	var c certificate
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1Element(&tbs, cbasn1.SEQUENCE) ||
		!outer.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!outer.ReadASN1BitStringAsBytes(&c.signature) {
		return c, errors.New("not a certificate")
	}
	c.tbs, c.algorithm = tbs, oid.String()
	return c, nil
}

// scheme is a way to sign.
type scheme struct {
	ecdsa, pss bool
	hash       crypto.Hash
}

// schemes are the ways in which a key could have signed. SHA-1 is among them, and
// what else nobody should take: the question is not whether a signature is good,
// but whether our key made it. RSA-PSS has its hash in the parameters, so that each
// is tried.
var schemes = map[string][]scheme{
	"1.2.840.10045.4.1":       {{ecdsa: true, hash: crypto.SHA1}},
	"1.2.840.10045.4.3.1":     {{ecdsa: true, hash: crypto.SHA224}},
	"1.2.840.10045.4.3.2":     {{ecdsa: true, hash: crypto.SHA256}},
	"1.2.840.10045.4.3.3":     {{ecdsa: true, hash: crypto.SHA384}},
	"1.2.840.10045.4.3.4":     {{ecdsa: true, hash: crypto.SHA512}},
	"2.16.840.1.101.3.4.3.10": {{ecdsa: true, hash: crypto.SHA3_256}},
	"2.16.840.1.101.3.4.3.11": {{ecdsa: true, hash: crypto.SHA3_384}},
	"2.16.840.1.101.3.4.3.12": {{ecdsa: true, hash: crypto.SHA3_512}},
	"1.2.840.113549.1.1.4":    {{hash: crypto.MD5}},
	"1.2.840.113549.1.1.5":    {{hash: crypto.SHA1}},
	"1.3.14.3.2.29":           {{hash: crypto.SHA1}}, // of before PKCS #1
	"1.2.840.113549.1.1.14":   {{hash: crypto.SHA224}},
	"1.2.840.113549.1.1.11":   {{hash: crypto.SHA256}},
	"1.2.840.113549.1.1.12":   {{hash: crypto.SHA384}},
	"1.2.840.113549.1.1.13":   {{hash: crypto.SHA512}},
	"2.16.840.1.101.3.4.3.14": {{hash: crypto.SHA3_256}},
	"2.16.840.1.101.3.4.3.15": {{hash: crypto.SHA3_384}},
	"2.16.840.1.101.3.4.3.16": {{hash: crypto.SHA3_512}},
	"1.2.840.113549.1.1.10": {
		{pss: true, hash: crypto.SHA1}, {pss: true, hash: crypto.SHA224}, {pss: true, hash: crypto.SHA256},
		{pss: true, hash: crypto.SHA384}, {pss: true, hash: crypto.SHA512},
	},
}

func (c certificate) signedBy(issuer *x509.Certificate) bool {
	return slices.ContainsFunc(schemes[c.algorithm], func(s scheme) bool {
		h := s.hash.New()
		h.Write(c.tbs)
		digest := h.Sum(nil)
		switch key := issuer.PublicKey.(type) {
		case *ecdsa.PublicKey:
			return s.ecdsa && ecdsa.VerifyASN1(key, digest, c.signature)
		case *rsa.PublicKey:
			if s.pss {
				return rsa.VerifyPSS(key, s.hash, digest, c.signature, nil) == nil
			}
			return !s.ecdsa && rsa.VerifyPKCS1v15(key, s.hash, digest, c.signature) == nil
		}
		return false
	})
}

var oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

// withoutSCTs is the hash of a certificate's TBSCertificate without its SCT list:
// that of the precertificate it was made of.
//
// RFC 6962, Section 3.2: the final certificate has the same TBSCertificate, with
// the SCT list in the place of the poison.
func withoutSCTs(tbs []byte) (hash, error) {
	in := cryptobyte.String(tbs)
	var fields cryptobyte.String
	if !in.ReadASN1(&fields, cbasn1.SEQUENCE) || !in.Empty() {
		return hash{}, errors.New("not a TBSCertificate")
	}
	extensionsTag := cbasn1.Tag(3).ContextSpecific().Constructed()
	var head []byte
	for !fields.Empty() && !fields.PeekASN1Tag(extensionsTag) {
		var element cryptobyte.String
		var tag cbasn1.Tag
		if !fields.ReadAnyASN1Element(&element, &tag) {
			return hash{}, errors.New("malformed TBSCertificate")
		}
		head = append(head, element...)
	}
	if fields.Empty() {
		return sha256.Sum256(tbs), nil
	}
	var explicit, list cryptobyte.String
	if !fields.ReadASN1(&explicit, extensionsTag) || !fields.Empty() || !explicit.ReadASN1(&list, cbasn1.SEQUENCE) || !explicit.Empty() {
		return hash{}, errors.New("malformed extensions")
	}
	var kept []byte
	for !list.Empty() {
		var element, extension cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1Element(&element, cbasn1.SEQUENCE) {
			return hash{}, errors.New("malformed extensions")
		}
		outer := element
		if !outer.ReadASN1(&extension, cbasn1.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&oid) {
			return hash{}, errors.New("malformed extension")
		}
		if !oid.Equal(oidSCTList) {
			kept = append(kept, element...)
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(extensionsTag, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
		})
	})
	der, err := b.Bytes()
	return sha256.Sum256(der), err
}
