package embedded

import (
	"crypto/sha256"
	"encoding/binary"
)

// leafSize is the size of the entry's TileLeaf.
func (e Entry) leafSize() int {
	size := 8 + 2 + 3 + len(e.Certificate) + 2 + len(leafIndex{}) + 2 + len(e.Issuers)*sha256.Size
	if e.Precertificate != nil {
		size += sha256.Size + 3 + len(e.Precertificate)
	}
	return size
}

// appendLeaf appends the entry's TileLeaf, whose structure stands at parseLeaves,
// and returns where its TimestampedEntry ends. It is written by hand, because it is
// made for each certificate; tessera's encoder, which it is held to in tests, takes
// many times as long. Lengths and index are those that Entry.check and the
// committer let through.
func (e Entry) appendLeaf(b []byte, chain [][32]byte, ms, index uint64) (leaf []byte, signed int) {
	precert := e.Precertificate != nil
	b = binary.BigEndian.AppendUint64(b, ms)
	if precert {
		b = append(b, 0, 1)
		b = append(b, e.IssuerKeyHash[:]...)
	} else {
		b = append(b, 0, 0)
	}
	b = append24(b, e.Certificate)
	extension := leafIndexOf(index)
	b = binary.BigEndian.AppendUint16(b, uint16(len(extension)))
	b = append(b, extension[:]...)
	signed = len(b)
	if precert {
		b = append24(b, e.Precertificate)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(chain)*sha256.Size))
	for i := range chain {
		b = append(b, chain[i][:]...)
	}
	return b, signed
}

// append24 appends opaque<0..2^24-1>.
func append24(b, data []byte) []byte {
	n := len(data)
	b = append(b, byte(n>>16), byte(n>>8), byte(n))
	return append(b, data...)
}

// leafIndex is the only extension of a static-ct-api SCT.
//
//	extension_type leaf_index(0), opaque extension_data<0..2^16-1> with a uint40
type leafIndex [8]byte

func leafIndexOf(index uint64) leafIndex {
	return leafIndex{0, 0, 5, byte(index >> 32), byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
}

// hashBehind is SHA-256 of a prefix and what follows it. Entries are a kilobyte or
// two, so that they are put together where nothing has to be collected.
func hashBehind(prefix string, data []byte) [32]byte {
	var buf [4 << 10]byte
	return sha256.Sum256(append(append(buf[:0], prefix...), data...))
}
