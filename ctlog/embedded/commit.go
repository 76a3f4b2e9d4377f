package embedded

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

// maxLeaf is more than the longest TileLeaf: a certificate or precertificate
// and its TBS, and the fingerprints of its chain.
const maxLeaf = 2*maxCertificate + 4<<10

// commitLoop is the committer: it turns what waits in the queue into one group
// after another, never two at a time. While the disk is busy with one, the next
// gathers.
//
// Everything of a submission that can block on the disk happens here, so that a
// submitter can always leave.
func (l *Log) commitLoop() {
	defer close(l.committed)
	defer l.release()
	for {
		select {
		case <-l.quit:
			return
		default:
		}
		select {
		case <-l.quit:
			return
		case first := <-l.queue:
			if !l.commit(l.collect(first)) {
				return
			}
		}
	}
}

// collect takes what waits, up to a full group, less those who left.
//
// Whoever can run has his turn first: requests come in waves, because their
// intents became durable together, and the first of a wave would otherwise have a
// sync to himself. A submitter who is alone waits for nobody; where others keep all
// cores busy, the group waits for their turns, which are milliseconds.
func (l *Log) collect(first *pending) []*pending {
	runtime.Gosched()
	var group []*pending
	size := 0
	for p := first; ; {
		select {
		case <-p.gone:
		default:
			group = append(group, p)
			size += p.size
		}
		if len(group) == sequence.MaxGroup || size > sequence.MaxPayload-maxLeaf {
			return group
		}
		select {
		case p = <-l.queue:
		default:
			return group
		}
	}
}

// commit makes one group durable and answers its submitters. It returns false
// if the log has stopped.
func (l *Log) commit(group []*pending) bool {
	if len(group) == 0 {
		return true
	}
	start := time.Now()
	l.busySince.Store(start.UnixNano())
	defer l.busySince.Store(0)
	g, err := l.prepare(group)
	if err == nil {
		if err = l.publisher.sequence.Append(g); err != nil {
			err = fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
		}
	}
	broken := l.publisher.sequence.Broken()
	if errors.Is(err, disk.ErrUnsynced) {
		broken = err // an issuing certificate, perhaps
	}
	if broken != nil {
		l.stop(fmt.Errorf("making %d entries durable: %w", len(group), broken))
		return false
	}
	if err != nil {
		for _, p := range group {
			p.result <- outcome{err: err}
		}
		return true
	}
	l.publisher.hand(g)
	l.next += uint64(g.Count)
	l.sequenced.Store(l.next)
	for i, p := range group {
		p.result <- outcome{index: g.First + uint64(i), time: g.Time, signed: p.signed}
	}
	l.metrics.batch(g.Count, time.Since(start))
	return true
}

// prepare encodes a group. A failure refuses only this group.
func (l *Log) prepare(group []*pending) (sequence.Group, error) {
	if l.next+uint64(len(group)) > maxEntries {
		return sequence.Group{}, fmt.Errorf("%w: the log is full", ctlog.ErrUnavailable)
	}
	size := 0
	for _, p := range group {
		size += p.size
		for i, der := range p.entry.Issuers {
			if err := l.issuers.store(der, p.chain[i]); err != nil {
				return sequence.Group{}, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
			}
		}
	}
	at, err := l.clock.now()
	if err != nil {
		return sequence.Group{}, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	g := sequence.Group{First: l.next, Count: len(group), Time: at, Payload: make([]byte, 0, size)}
	ms := uint64(at.UnixMilli())
	for i, p := range group {
		var end int
		start := len(g.Payload)
		g.Payload, end = p.entry.appendLeaf(g.Payload, p.chain, ms, l.next+uint64(i))
		p.signed = g.Payload[start:end:end] // nobody writes to a payload any more
	}
	return g, nil
}
