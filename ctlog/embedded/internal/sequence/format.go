package sequence

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A segment is a block with its header and then groups, each at the beginning of
// a block: a group that is written shares no block with one that was
// acknowledged, so a torn write cannot reach back, and a reader that met a
// damaged group can look for later ones at block boundaries.
//
//	struct {                          struct {
//	    opaque magic[16];                 uint32 magic;
//	    uint32 version = 1;               uint32 count;
//	    opaque instance[16];              uint64 first;
//	    opaque salt[16];                  uint32 length;
//	    uint64 first;                     uint32 zero;
//	    opaque hash[32];                  uint64 time;
//	} Header;                             opaque payload_hash[32];
//	                                      opaque hash[32];
//	                                      opaque payload[length];
//	                                  } Group;
//
// The header's hash covers what is before it. A group's covers the segment's
// salt and what is before it, so that nothing that somebody put into a
// certificate, and nothing of another segment, is ever taken for a group.
const (
	block        = 4096
	headerMagic  = "mayfly-sequence\n"
	headerSize   = 16 + 4 + 16 + 16 + 8 + sha256.Size
	groupMagic   = 0x6d667371 // "mfsq"
	groupHead    = 4 + 4 + 8 + 4 + 4 + 8 + 2*sha256.Size
	version      = 1
	maxTimestamp = 253402300799999 // the end of the year 9999, in milliseconds
)

// Group is what one write made durable.
type Group struct {
	// First is the index of the first entry, Count how many there are.
	First uint64
	Count int
	// Time has a resolution of milliseconds.
	Time time.Time
	// Payload is the entries, in an encoding that is not this package's.
	Payload []byte
}

type header struct {
	instance, salt [16]byte
	first          uint64
}

func (h header) marshal() []byte {
	b := make([]byte, 0, block)
	b = append(b, headerMagic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = append(b, h.instance[:]...)
	b = append(b, h.salt[:]...)
	b = binary.BigEndian.AppendUint64(b, h.first)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)[:block]
}

func parseHeader(raw []byte) (header, error) {
	if len(raw) < block || string(raw[:16]) != headerMagic {
		return header{}, errors.New("not a sequence file")
	}
	body, sum := raw[:headerSize-sha256.Size], raw[headerSize-sha256.Size:headerSize]
	if sha256.Sum256(body) != [32]byte(sum) {
		return header{}, errors.New("the header is damaged")
	}
	if v := binary.BigEndian.Uint32(raw[16:]); v != version {
		return header{}, fmt.Errorf("version %d, want %d", v, version)
	}
	return header{
		instance: [16]byte(raw[20:36]),
		salt:     [16]byte(raw[36:52]),
		first:    binary.BigEndian.Uint64(raw[52:60]),
	}, nil
}

func groupHash(salt [16]byte, head []byte) [32]byte {
	var b [16 + groupHead - sha256.Size]byte
	copy(b[:], salt[:])
	copy(b[16:], head)
	return sha256.Sum256(b[:])
}

// appendGroup encodes a group to whole blocks.
func appendGroup(b []byte, salt [16]byte, g Group) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, groupMagic)
	b = binary.BigEndian.AppendUint32(b, uint32(g.Count))
	b = binary.BigEndian.AppendUint64(b, g.First)
	b = binary.BigEndian.AppendUint32(b, uint32(len(g.Payload)))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(g.Time.UnixMilli()))
	payload := sha256.Sum256(g.Payload)
	b = append(b, payload[:]...)
	sum := groupHash(salt, b[start:])
	b = append(b, sum[:]...)
	b = append(b, g.Payload...)
	return append(b, make([]byte, -(len(b)-start)&(block-1))...)
}

// groupSize is the space that a group with this payload takes.
func groupSize(payload int) int64 { return (groupHead + int64(payload) + block - 1) &^ (block - 1) }

// head is the fixed part of a group.
type head struct {
	Group
	length  int
	payload [32]byte
}

// parseHead reads the fixed part of a group; ok is false if there is none, or
// one that is damaged.
func parseHead(raw []byte, salt [16]byte) (h head, ok bool) {
	if len(raw) < groupHead || binary.BigEndian.Uint32(raw) != groupMagic {
		return head{}, false
	}
	sum := groupHash(salt, raw[:groupHead-sha256.Size])
	if subtle.ConstantTimeCompare(sum[:], raw[groupHead-sha256.Size:groupHead]) != 1 {
		return head{}, false
	}
	h.Count = int(binary.BigEndian.Uint32(raw[4:]))
	h.First = binary.BigEndian.Uint64(raw[8:])
	h.length = int(binary.BigEndian.Uint32(raw[16:]))
	h.Time = time.UnixMilli(int64(min(binary.BigEndian.Uint64(raw[24:]), maxTimestamp))).UTC()
	h.payload = [32]byte(raw[32:64])
	return h, true
}

// contents is what a segment holds.
type contents struct {
	header
	groups []Group
	next   uint64 // the index behind the last whole group
	torn   bool   // something unfinished lies behind it
}

// parse reads a segment. Its groups alias raw.
//
// A group is written only after the one before it was synced. So a group that is
// not whole was never acknowledged if it is the last; if any later one follows,
// it was, and the disk has lost it.
func parse(raw []byte) (contents, error) {
	h, err := parseHeader(raw)
	if err != nil {
		return contents{}, err
	}
	c := contents{header: h, next: h.first}
	rest := raw[block:]
	for {
		h, ok := parseHead(rest, c.salt)
		if !ok {
			break
		}
		end := groupHead + h.length
		if h.First != c.next || h.Count < 1 || h.Count > MaxGroup || h.length > MaxPayload {
			return contents{}, fmt.Errorf("a group of %d entries from %d in %d bytes where entry %d should be",
				h.Count, h.First, h.length, c.next)
		}
		if end > len(rest) || sha256.Sum256(rest[groupHead:end]) != h.payload {
			break
		}
		h.Payload = rest[groupHead:end]
		c.groups, c.next = append(c.groups, h.Group), c.next+uint64(h.Count)
		rest = rest[min(int(groupSize(h.length)), len(rest)):]
	}
	for later := rest[min(block, len(rest)):]; len(later) > 0; later = later[min(block, len(later)):] {
		if h, ok := parseHead(later, c.salt); ok && h.First > c.next {
			return contents{}, fmt.Errorf("entries from %d are damaged, but entries from %d behind them are not",
				c.next, h.First)
		}
	}
	c.torn = len(bytes.Trim(rest, "\x00")) > 0
	return c, nil
}
