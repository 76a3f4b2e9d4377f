package embedded

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/crypto/cryptobyte"
)

// leaf is what a bundle says about one entry.
type leaf struct {
	index uint64
	time  time.Time
	hash  [32]byte
	data  []byte // the TileLeaf, within what was parsed
}

// parseBundle reads a data tile of a static-ct-api log.
func parseBundle(raw []byte) ([]leaf, error) {
	return parseLeaves(raw, layout.EntryBundleWidth, layout.EntryBundleWidth)
}

// parseLeaves reads at most limit of what a data tile holds, and has room for as
// many as are expected.
//
//	struct {
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
func parseLeaves(raw []byte, limit, expected int) ([]leaf, error) {
	leaves := make([]leaf, 0, expected)
	in := cryptobyte.String(raw)
	for !in.Empty() {
		if len(leaves) == limit {
			return nil, fmt.Errorf("more than %d entries", limit)
		}
		l, err := parseLeaf(&in)
		if err != nil {
			return nil, fmt.Errorf("entry %d of %d bytes: %w", len(leaves), len(raw), err)
		}
		leaves = append(leaves, l)
	}
	return leaves, nil
}

// parseLeaf reads one TileLeaf. Of extensions there must be what this log writes
// and nothing else.
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
func parseLeaf(in *cryptobyte.String) (leaf, error) {
	start := *in
	var ms uint64
	var kind uint16
	var signedCertificate, extensions, precertificate, chain cryptobyte.String
	if !in.ReadUint64(&ms) || !in.ReadUint16(&kind) {
		return leaf{}, errors.New("truncated")
	}
	if kind > 1 {
		return leaf{}, fmt.Errorf("entry type %d, want 0 (x509_entry) or 1 (precert_entry)", kind)
	}
	precert := kind == 1
	if precert && !in.Skip(32) || !in.ReadUint24LengthPrefixed(&signedCertificate) || len(signedCertificate) == 0 ||
		!in.ReadUint16LengthPrefixed(&extensions) {
		return leaf{}, errors.New("truncated")
	}
	signed := start[:len(start)-len(*in)]
	if precert && (!in.ReadUint24LengthPrefixed(&precertificate) || len(precertificate) == 0) ||
		!in.ReadUint16LengthPrefixed(&chain) {
		return leaf{}, errors.New("truncated")
	}
	if len(chain)%32 != 0 {
		return leaf{}, fmt.Errorf("certificate chain of %d bytes", len(chain))
	}
	if ms > math.MaxInt64 {
		return leaf{}, errors.New("timestamp out of range")
	}
	index, err := parseLeafIndex(extensions)
	if err != nil {
		return leaf{}, err
	}
	// MerkleTreeLeaf: version v1, leaf type timestamped_entry, the entry.
	// RFC 6962, Section 2.1: the hash of a leaf is "SHA-256(0x00 || d(0))".
	hash := hashBehind("\x00\x00\x00", signed)
	return leaf{
		index: index, time: time.UnixMilli(int64(ms)).UTC(), hash: hash,
		data: start[:len(start)-len(*in)],
	}, nil
}

// maxEntries is what 40 bits of leaf_index can count.
const maxEntries = 1 << 40

func parseLeafIndex(extensions cryptobyte.String) (uint64, error) {
	var kind, high uint8
	var low uint32
	var data cryptobyte.String
	if !extensions.ReadUint8(&kind) || kind != 0 || !extensions.ReadUint16LengthPrefixed(&data) || !extensions.Empty() ||
		!data.ReadUint8(&high) || !data.ReadUint32(&low) || !data.Empty() {
		return 0, errors.New("extensions are not one leaf_index")
	}
	return uint64(high)<<32 | uint64(low), nil
}
