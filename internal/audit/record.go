package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The types of record.
const (
	typeGenesis   = "genesis"   // the first record, and only it
	typeIntent    = "intent"    // what is about to be signed
	typeOutcome   = "outcome"   // what became of an intent
	typeRefused   = "refused"   // a verified identity that was turned away
	typeRefusals  = "refusals"  // counts of refusals without a record of their own
	typeEvent     = "event"     // start, stop, configuration, keys
	typeRecovered = "recovered" // the process before this one did not close the journal
	typeClosed    = "closed"    // the journal was closed in order
)

func knownType(s string) bool {
	switch s {
	case typeGenesis, typeIntent, typeOutcome, typeRefused, typeRefusals, typeEvent, typeRecovered, typeClosed:
		return true
	}
	return false
}

const (
	// maxRecord bounds one line. A token has at most 16 KiB, and nothing that
	// is kept of one grows by more than JSON's sixfold escapes.
	maxRecord = 256 << 10
	// timeLayout has nanoseconds in a fixed width, so that text sorts as time.
	timeLayout = "2006-01-02T15:04:05.000000000Z"
	sumMember  = `,"sum":"`
	sumLength  = len(sumMember) + 2*sha256.Size + len(`"}`)
)

// genesis stands in for the hash of the record before the first.
var genesis = sha256.Sum256([]byte("mayfly audit journal, version 1"))

// header is what all records have. On disk, where body is an object:
//
//	{"v":1,"seq":N,"time":T,"node":NODE,"prev":HEX,"type":TYPE,"body":BODY,"sum":HEX}
//
// prev is SHA-256 over the line before, without its newline; sum is SHA-256 over
// this line up to the comma before "sum". prev chains the records; sum tells
// which of two neighbours was altered, and guards the last one.
type header struct {
	seq  uint64
	time time.Time
	node string
	prev [32]byte
	typ  string
}

func (h header) append(dst []byte) []byte {
	dst = append(dst, `{"v":1,"seq":`...)
	dst = strconv.AppendUint(dst, h.seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = h.time.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, `","node":"`...)
	dst = append(dst, h.node...)
	dst = append(dst, `","prev":"`...)
	dst = hex.AppendEncode(dst, h.prev[:])
	dst = append(dst, `","type":"`...)
	dst = append(dst, h.typ...)
	return append(dst, `","body":`...)
}

// appendLine appends the record without a newline.
func appendLine(dst []byte, h header, body []byte) []byte {
	start := len(dst)
	dst = h.append(dst)
	dst = append(dst, body...)
	sum := sha256.Sum256(dst[start:])
	dst = append(dst, sumMember...)
	dst = hex.AppendEncode(dst, sum[:])
	return append(dst, `"}`...)
}

// parseLine takes a line apart. It accepts exactly what appendLine writes: a
// second spelling of the same facts would be a change that looks harmless.
func parseLine(line []byte) (header, []byte, error) {
	if len(line) > maxRecord {
		return header{}, nil, fmt.Errorf("record is longer than %d bytes", maxRecord)
	}
	if len(line) < sumLength || !utf8.Valid(line) {
		return header{}, nil, errors.New("not a record")
	}
	content, tail := line[:len(line)-sumLength], line[len(line)-sumLength:]
	sum := sha256.Sum256(content)
	want := append(hex.AppendEncode([]byte(sumMember), sum[:]), `"}`...)
	if !bytes.Equal(tail, want) {
		return header{}, nil, errors.New("content does not match its checksum")
	}
	h, body, err := parseHeader(content)
	if err != nil {
		return header{}, nil, err
	}
	if !bytes.HasPrefix(content, h.append(nil)) {
		return header{}, nil, errors.New("header is not in canonical form")
	}
	if len(body) == 0 || body[0] != '{' || !json.Valid(body) {
		return header{}, nil, errors.New("body is not a JSON object")
	}
	return h, body, nil
}

// parseHeader finds the values; that they stand in canonical form is for the
// caller to check.
func parseHeader(b []byte) (h header, body []byte, err error) {
	field := func(before, until string) string {
		rest, ok := bytes.CutPrefix(b, []byte(before))
		value, after, found := bytes.Cut(rest, []byte(until))
		if err == nil && (!ok || !found) {
			err = fmt.Errorf("no member %s where it belongs", before)
		}
		b = after
		return string(value)
	}
	version := field(`{"v":`, `,`)
	seq := field(`"seq":`, `,`)
	at := field(`"time":"`, `",`)
	h.node = field(`"node":"`, `",`)
	prev := field(`"prev":"`, `",`)
	h.typ = field(`"type":"`, `",`)
	_ = field(`"body":`, ``)
	if err != nil {
		return header{}, nil, err
	}
	if version != "1" {
		return header{}, nil, fmt.Errorf("schema version %q is not known here", version)
	}
	if h.seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
		return header{}, nil, fmt.Errorf("sequence %q is not a number", seq)
	}
	if h.time, err = time.Parse(timeLayout, at); err != nil {
		return header{}, nil, fmt.Errorf("time %q is malformed", at)
	}
	if hash, err := hex.DecodeString(prev); err != nil || copy(h.prev[:], hash) != len(h.prev) {
		return header{}, nil, fmt.Errorf("hash of the record before %q is malformed", prev)
	}
	if !knownType(h.typ) {
		return header{}, nil, fmt.Errorf("type %q is not known here", h.typ)
	}
	return h, b, checkNode(h.node)
}

// checkNode keeps node names free of everything that JSON would escape.
func checkNode(node string) error {
	return checkName("node", node)
}

// checkName demands 1 to 64 of letters, digits, dot, dash and underscore.
func checkName(what, s string) error {
	if len(s) == 0 || len(s) > 64 {
		return fmt.Errorf("%s %q has %d bytes, want 1 to 64", what, s, len(s))
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return fmt.Errorf("%s %q has %q in it, want letters, digits, dot, dash, underscore", what, s, c)
		}
	}
	return nil
}
