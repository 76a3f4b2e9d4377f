package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/crypto/cryptobyte"
)

// leaf is what a bundle says about one entry.
type leaf struct {
	time time.Time
	hash [32]byte
}

// parseBundle reads a data tile of a static-ct-api log.
//
//	struct {
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
//
// This log holds precertificates only, so an x509_entry is an error.
func parseBundle(raw []byte) ([]leaf, error) {
	var leaves []leaf
	in := cryptobyte.String(raw)
	for !in.Empty() {
		if len(leaves) == layout.EntryBundleWidth {
			return nil, fmt.Errorf("bundle of more than %d entries", layout.EntryBundleWidth)
		}
		l, err := parseLeaf(&in)
		if err != nil {
			return nil, fmt.Errorf("entry %d of the bundle: %w", len(leaves), err)
		}
		leaves = append(leaves, l)
	}
	return leaves, nil
}

// parseLeaf reads one TileLeaf.
//
//	// RFC 6962, Section 3.4
//	struct {
//	    uint64 timestamp;
//	    LogEntryType entry_type;
//	    PreCert { opaque issuer_key_hash[32]; opaque TBSCertificate<1..2^24-1>; }
//	    CtExtensions extensions;
//	} TimestampedEntry;
func parseLeaf(in *cryptobyte.String) (leaf, error) {
	start := *in
	var ms uint64
	var kind uint16
	var tbs, extensions, precertificate, chain cryptobyte.String
	if !in.ReadUint64(&ms) || !in.ReadUint16(&kind) {
		return leaf{}, errors.New("truncated")
	}
	if kind != 1 {
		return leaf{}, fmt.Errorf("entry type %d, want 1 (precert_entry)", kind)
	}
	if !in.Skip(32) || !in.ReadUint24LengthPrefixed(&tbs) || !in.ReadUint16LengthPrefixed(&extensions) {
		return leaf{}, errors.New("truncated")
	}
	signed := start[:len(start)-len(*in)]
	if !in.ReadUint24LengthPrefixed(&precertificate) || !in.ReadUint16LengthPrefixed(&chain) {
		return leaf{}, errors.New("truncated")
	}
	if len(chain)%32 != 0 {
		return leaf{}, fmt.Errorf("certificate chain of %d bytes", len(chain))
	}
	if ms > 1<<62 {
		return leaf{}, errors.New("timestamp out of range")
	}
	// MerkleTreeLeaf: version v1, leaf type timestamped_entry, the entry.
	hash := rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, signed...))
	return leaf{time: time.UnixMilli(int64(ms)).UTC(), hash: [32]byte(hash)}, nil
}
