package auditor

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// hash is what is kept of a certificate or of an entry.
type hash = [32]byte

// nameOf names what an intent announces and an entry shows.
func nameOf(issuerKey, tbs hash) hash {
	h := sha256.New()
	h.Write([]byte("entry\n"))
	h.Write(issuerKey[:])
	h.Write(tbs[:])
	return hash(h.Sum(nil))
}

// placeOf names an entry in its place: what an SCT promises. An index of -1 is
// that of a log that does not promise one.
func placeOf(name hash, at time.Time, index int64) hash {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(at.UnixMilli()))
	binary.BigEndian.PutUint64(b[8:], uint64(index))
	h := sha256.New()
	h.Write([]byte("place\n"))
	h.Write(name[:])
	h.Write(b[:])
	return hash(h.Sum(nil))
}
