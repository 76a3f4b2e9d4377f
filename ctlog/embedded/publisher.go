package embedded

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	f_log "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera/client"
)

// publisher signs checkpoints for Tessera as a note.Signer. It is the last
// place before a tree head becomes a promise, so the rules that keep us from
// telling two stories are held here.
type publisher struct {
	origin string
	hash   uint32
	key    *ecdsa.PrivateKey
	clock  *monotone
	tiles  client.TileFetcherFunc
	record *record // nil if none is configured
	// contradiction is called when the tree denies what was signed before.
	contradiction func(error)

	mu     sync.Mutex // guards last, closed and dirty
	last   checkpoint
	closed bool
	dirty  bool // something was signed since the log was opened

	// signed is the size of the last checkpoint signed: what the read path may
	// hand out as immutable.
	signed atomic.Uint64
}

// consistencyTimeout bounds the proof, which reads some tens of local tiles.
const consistencyTimeout = 10 * time.Second

func (p *publisher) Name() string    { return p.origin }
func (p *publisher) KeyHash() uint32 { return p.hash }

// Sign implements note.Signer over the text of a checkpoint.
//
// The record is written first: if the machine dies in between, a record of a
// checkpoint that nobody saw does no harm, but a published checkpoint without a
// record would let an old copy of the directory pass.
func (p *publisher) Sign(msg []byte) ([]byte, error) {
	var text f_log.Checkpoint
	if rest, err := text.Unmarshal(msg); err != nil || len(rest) != 0 || len(text.Hash) != 32 {
		return nil, fmt.Errorf("signing checkpoint: malformed text %q", msg)
	}
	if text.Origin != p.origin {
		return nil, fmt.Errorf("signing checkpoint: origin %q, want %q", text.Origin, p.origin)
	}
	next := checkpoint{size: text.Size, root: [32]byte(text.Hash)}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("signing checkpoint: the log is closed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), consistencyTimeout)
	defer cancel()
	if err := proveConsistency(ctx, p.tiles, p.last, next); err != nil {
		err = fmt.Errorf("signing checkpoint: %w", err)
		p.contradiction(err)
		return nil, err
	}
	var err error
	if next.time, err = p.clock.now(); err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	// RFC 6962, Section 3.5: "Each subsequent timestamp MUST be more recent than
	// the timestamp of the previous update."
	if !next.time.After(p.last.time) {
		next.time = p.last.time.Add(time.Millisecond)
		p.clock.raise(next.time)
	}
	signature, err := signTreeHead(p.key, next)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	next.raw = p.note(msg, signature)
	if p.record != nil {
		if err := p.record.write(next); err != nil {
			return nil, fmt.Errorf("recording checkpoint before publication: %w", err)
		}
	}
	p.last, p.dirty = next, true
	p.signed.Store(next.size)
	return signature, nil
}

// note assembles the signed note as note.Sign will.
func (p *publisher) note(msg, signature []byte) []byte {
	blob := binary.BigEndian.AppendUint32(nil, p.hash)
	line := base64.StdEncoding.EncodeToString(append(blob, signature...))
	return fmt.Appendf(nil, "%s\n\u2014 %s %s\n", msg, p.origin, line)
}

// close ends signing. It returns the last checkpoint signed, which may still be
// on its way to the disk, or ok false if none was signed since the start.
func (p *publisher) close() (last checkpoint, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return p.last, p.dirty
}
