package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The results that an outcome may have.
const (
	resultIssued    = "issued"
	resultNotIssued = "not_issued"
	// resultUnknown is for intents that a crash left open: a certificate may be
	// out there. Treat it as issued.
	resultUnknown = "unknown"
)

// effect is what a record means for the intents.
type effect struct {
	// opens and closes say that the record is an intent or an outcome.
	opens, closes bool
	intent        uint64 // the intent that an outcome closes
	serial        [20]byte
	result        string
}

// chain is the state that a record has to fit: reading and writing go through
// the same rules, so the journal cannot write what it would refuse to read.
type chain struct {
	next uint64   // sequence of the record to come
	prev [32]byte // hash of the record before it
	// first is the hash of record 0, the journal's identity.
	first [32]byte
	// latest is the latest time of any record. The clock may go back, and the
	// journal says so rather than to lie.
	latest  time.Time
	lastTyp string
	open    map[uint64][20]byte

	began                              time.Time
	intents, issued, notIssued, unsure uint64
	clockSteps                         uint64
	lastTime                           time.Time
}

func newChain() *chain {
	return &chain{prev: genesis, open: make(map[uint64][20]byte)}
}

// accept checks one line against the chain and appends it. After an error the
// chain stands where it stood.
func (c *chain) accept(line []byte) error {
	_, _, err := c.read(line)
	return err
}

// read is accept for who wants to see the record too.
func (c *chain) read(line []byte) (header, []byte, error) {
	h, body, err := parseLine(line)
	if err != nil {
		return h, nil, err
	}
	switch {
	case h.seq != c.next:
		return h, nil, fmt.Errorf("sequence is %d, want %d", h.seq, c.next)
	case h.prev != c.prev:
		return h, nil, fmt.Errorf("hash of the record before is %x, want %x", h.prev, c.prev)
	}
	e, err := effectOf(h.typ, body)
	if err != nil {
		return h, nil, err
	}
	if err := c.check(h.typ, e); err != nil {
		return h, nil, err
	}
	c.advance(h, e, line)
	return h, body, nil
}

// seal appends a new record to the chain, and its line to dst. After an error
// both stand where they stood.
func (c *chain) seal(dst []byte, h header, body []byte, e effect) ([]byte, error) {
	if err := c.check(h.typ, e); err != nil {
		return dst, err
	}
	h.seq, h.prev, h.time = c.next, c.prev, h.time.UTC()
	start := len(dst)
	out := appendLine(dst, h, body)
	if n := len(out) - start; n > maxRecord {
		return dst, fmt.Errorf("record of %d bytes is longer than %d", n, maxRecord)
	}
	c.advance(h, e, out[start:])
	return append(out, '\n'), nil
}

func (c *chain) check(typ string, e effect) error {
	if (c.next == 0) != (typ == typeGenesis) {
		return fmt.Errorf("record %d is of type %s: the first record, and only it, is the genesis", c.next, typ)
	}
	if !e.closes {
		return nil
	}
	serial, ok := c.open[e.intent]
	if !ok {
		return fmt.Errorf("outcome of record %d, which is not an open intent", e.intent)
	}
	if serial != e.serial {
		return fmt.Errorf("outcome of intent %d for serial %x, want %x", e.intent, e.serial, serial)
	}
	return nil
}

func (c *chain) advance(h header, e effect, line []byte) {
	hash := sha256.Sum256(line)
	if c.next == 0 {
		c.first, c.began = hash, h.time
	} else if h.time.Before(c.lastTime) {
		c.clockSteps++
	}
	c.prev, c.lastTime, c.lastTyp = hash, h.time, h.typ
	if h.time.After(c.latest) {
		c.latest = h.time
	}
	switch {
	case e.opens:
		c.open[c.next] = e.serial
		c.intents++
	case e.closes:
		delete(c.open, e.intent)
		switch e.result {
		case resultIssued:
			c.issued++
		case resultNotIssued:
			c.notIssued++
		default:
			c.unsure++
		}
	}
	c.next++
}

// effectOf reads what accept must know of a body.
func effectOf(typ string, body []byte) (effect, error) {
	switch typ {
	case typeIntent:
		var b struct {
			Certificate struct {
				Serial string `json:"serial"`
			} `json:"certificate"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			return effect{}, fmt.Errorf("reading the intent: %w", err)
		}
		serial, err := parseSerial(b.Certificate.Serial)
		return effect{opens: true, serial: serial}, err
	case typeOutcome:
		var b struct {
			Intent *uint64 `json:"intent"`
			Serial string  `json:"serial"`
			Result string  `json:"result"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			return effect{}, fmt.Errorf("reading the outcome: %w", err)
		}
		if b.Intent == nil {
			return effect{}, errors.New("outcome names no intent")
		}
		switch b.Result {
		case resultIssued, resultNotIssued, resultUnknown:
		default:
			return effect{}, fmt.Errorf("outcome has the result %q, which is not known here", b.Result)
		}
		serial, err := parseSerial(b.Serial)
		return effect{closes: true, intent: *b.Intent, serial: serial, result: b.Result}, err
	}
	return effect{}, nil
}

func parseSerial(s string) (serial [20]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(serial) {
		return serial, fmt.Errorf("serial %q is not 20 octets of hex", s)
	}
	return [20]byte(b), nil
}
