package e2e

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/tlog"
)

// entry is one entry of the log.
type entry struct {
	tbs  []byte // of a precertificate, without poison
	hash tlog.Hash
}

// entries reads all entries from the data tiles and checks each against the
// tree.
func (l *logReader) entries(tree tlog.Tree) ([]entry, error) {
	var all []entry
	for n := int64(0); n*256 < tree.N; n++ {
		tile := tlog.Tile{H: 8, L: -1, N: n, W: int(min(256, tree.N-n*256))}
		data, err := fetch(l.client, l.url+"/tile/"+strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		rest := cryptobyte.String(data)
		for range tile.W {
			e, err := readEntry(&rest)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", len(all), err)
			}
			all = append(all, e)
		}
		if !rest.Empty() {
			return nil, fmt.Errorf("data tile %d has %d bytes behind its last entry", n, len(rest))
		}
	}
	var at []int64
	for i := range all {
		at = append(at, tlog.StoredHashIndex(0, int64(i)))
	}
	hashes, err := l.hashes(tree).ReadHashes(at)
	if err != nil {
		return nil, err
	}
	for i, e := range all {
		if e.hash != hashes[i] {
			return nil, fmt.Errorf("entry %d has the hash %v, the tree has %v", i, e.hash, hashes[i])
		}
	}
	return all, nil
}

// readEntry takes one entry off a data tile. static-ct-api:
//
//	struct {
//	  TimestampedEntry timestamped_entry;
//	  select (entry_type) {
//	    case x509_entry: Empty;
//	    case precert_entry: ASN.1Cert pre_certificate;
//	  };
//	  Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
//
// The leaf hash is over MerkleTreeLeaf of RFC 6962, Section 3.4: version v1 and
// type timestamped_entry, both zero, before the TimestampedEntry.
func readEntry(s *cryptobyte.String) (entry, error) {
	start := *s
	var (
		timestamp                              uint64
		kind                                   uint16
		keyHash                                []byte
		tbs, extensions, precert, fingerprints cryptobyte.String
	)
	ok := s.ReadUint64(&timestamp) && s.ReadUint16(&kind) && kind == 1 && s.ReadBytes(&keyHash, 32) &&
		s.ReadUint24LengthPrefixed(&tbs) && s.ReadUint16LengthPrefixed(&extensions)
	timestamped := start[:len(start)-len(*s)]
	ok = ok && s.ReadUint24LengthPrefixed(&precert) && s.ReadUint16LengthPrefixed(&fingerprints)
	if !ok {
		return entry{}, fmt.Errorf("malformed, or not of a precertificate")
	}
	return entry{tbs: tbs, hash: tlog.RecordHash(append([]byte{0, 0}, timestamped...))}, nil
}
