package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"golang.org/x/crypto/cryptobyte"
)

// pending is a submission on its way through the committer.
type pending struct {
	entry   *ctonly.Entry
	issuers [][]byte
	gone    <-chan struct{} // closed when the submitter no longer waits
	result  chan outcome    // has room for one, so the committer never blocks
}

type outcome struct {
	index uint64
	time  time.Time
	err   error
}

var errStalled = errors.New("the disk did not finish a batch in time")

// Ready reports, without I/O, why a submission would be refused now.
func (l *Log) Ready() error {
	l.mu.Lock()
	closing, fatal, unwell := l.closing, l.fatal, l.unwell
	l.mu.Unlock()
	switch {
	case fatal != nil:
		return fmt.Errorf("%w: stopped until opened again: %w", ctlog.ErrUnavailable, fatal)
	case closing:
		return fmt.Errorf("%w: closed", ctlog.ErrUnavailable)
	case unwell != nil:
		return fmt.Errorf("%w: %w", ctlog.ErrUnavailable, unwell)
	case l.stalled(time.Now()):
		return fmt.Errorf("%w: %w", ctlog.ErrUnavailable, errStalled)
	}
	if err := l.clock.check(); err != nil {
		return fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	if len(l.queue) == cap(l.queue) {
		return fmt.Errorf("%w: %d submissions are waiting", ctlog.ErrOverloaded, cap(l.queue))
	}
	return nil
}

func (l *Log) stalled(now time.Time) bool {
	since := l.busySince.Load()
	return since != 0 && now.Sub(time.Unix(0, since)) > l.config.StallAfter
}

// Submit logs the precertificate and returns the SCT once the entry is durable
// under the SCT's index. It checks that the parts of the submission belong
// together. If ctx ends first, the entry may be in the log without an SCT.
func (l *Log) Submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error) {
	sct, err := l.submit(ctx, s)
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("log %q: %w", l.config.Name, err)
	}
	return sct, nil
}

func (l *Log) submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error) {
	if err := l.Ready(); err != nil {
		return ctlog.SCT{}, err
	}
	if err := s.Check(); err != nil {
		return ctlog.SCT{}, err
	}
	stalled := fmt.Errorf("%w: %w", ctlog.ErrUnavailable, errStalled)
	ctx, cancel := context.WithTimeoutCause(ctx, l.config.StallAfter, stalled)
	defer cancel()
	p := &pending{
		entry: &ctonly.Entry{
			IsPrecert:         true,
			Certificate:       s.TBS,
			Precertificate:    s.Precertificate,
			IssuerKeyHash:     s.IssuerKeyHash[:],
			FingerprintsChain: fingerprints(s.Issuers),
		},
		issuers: s.Issuers,
		gone:    ctx.Done(),
		result:  make(chan outcome, 1),
	}
	select {
	case l.queue <- p:
	default:
		return ctlog.SCT{}, fmt.Errorf("%w: %d submissions are waiting", ctlog.ErrOverloaded, cap(l.queue))
	}
	out, err := l.await(ctx, p)
	if err != nil {
		return ctlog.SCT{}, err
	}
	return l.sign(s, p.entry, out)
}

func (l *Log) await(ctx context.Context, p *pending) (outcome, error) {
	select {
	case out := <-p.result:
		return out, out.err
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("waiting for the log: %w", context.Cause(ctx))
	case <-l.released:
	}
	// The answer may have come together with the release.
	select {
	case out := <-p.result:
		return out, out.err
	default:
	}
	if err := l.Ready(); err != nil {
		return outcome{}, err
	}
	return outcome{}, fmt.Errorf("%w: closed", ctlog.ErrUnavailable)
}

// sign makes the SCT. Tessera hashed the leaf with the index inside; the
// signature covers the same bytes, for "MerkleTreeLeaf" and the input to the SCT
// signature differ only in the meaning of two zero bytes (RFC 6962, Sections 3.2
// and 3.4). The check afterwards builds the input with other code.
func (l *Log) sign(s ctlog.Submission, entry *ctonly.Entry, out outcome) (ctlog.SCT, error) {
	digest := sha256.Sum256(entry.MerkleTreeLeaf(out.index))
	signature, err := digitallySign(l.key, digest)
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("%w: signing SCT: %w", ctlog.ErrUnavailable, err)
	}
	sct := ctlog.SCT{
		Log:        l.config.Name,
		LogID:      l.public.ID(),
		Timestamp:  out.time,
		Index:      int64(out.index),
		Extensions: leafIndexExtension(out.index),
		Signature:  signature,
	}
	if err := l.public.VerifySCT(s, sct, out.time); err != nil {
		return ctlog.SCT{}, fmt.Errorf("checking our own SCT: %w", err)
	}
	return sct, nil
}

// maxEntries is what 40 bits of leaf_index can count.
const maxEntries = 1 << 40

// leafIndexExtension encodes the only extension of a static-ct-api SCT.
//
//	extension_type leaf_index(0), opaque extension_data<0..2^16-1> with a uint40
func leafIndexExtension(index uint64) []byte {
	var b cryptobyte.Builder
	b.AddUint8(0)
	b.AddUint16(5)
	b.AddUint8(uint8(index >> 32))
	b.AddUint32(uint32(index))
	return b.BytesOrPanic()
}

// commitLoop is the committer: it turns what waits in the queue into one batch
// after another, never two at a time. Left to itself, Tessera's queue starts a
// batch every millisecond even while the disk is busy, and nothing coalesces.
//
// Everything that can block on the disk happens here, so that a submitter can
// always leave.
func (l *Log) commitLoop(ctx context.Context) {
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
			if !l.commit(ctx, l.collect(first)) {
				return
			}
		}
	}
}

// collect takes what waits, up to a full batch, less those who left.
func (l *Log) collect(first *pending) []*pending {
	var group []*pending
	for p := first; ; {
		select {
		case <-p.gone:
		default:
			group = append(group, p)
		}
		if len(group) == maxGroup {
			return group
		}
		select {
		case p = <-l.queue:
		default:
			return group
		}
	}
}

// commit makes one batch durable and answers its submitters. It returns false
// if the log has stopped.
func (l *Log) commit(ctx context.Context, group []*pending) bool {
	if len(group) == 0 {
		return true
	}
	start := time.Now()
	l.busySince.Store(start.UnixNano())
	defer l.busySince.Store(0)
	at, err := l.prepare(group)
	if err != nil {
		for _, p := range group {
			p.result <- outcome{err: err}
		}
		return true
	}
	if err := l.append(ctx, group, at); err != nil {
		l.stop(fmt.Errorf("adding a batch of %d to the tree: %w", len(group), err))
		return false
	}
	l.metrics.batch(len(group), time.Since(start))
	return true
}

// prepare does what must be done before Tessera is asked; a failure here leaves
// the tree untouched and refuses only this batch.
func (l *Log) prepare(group []*pending) (time.Time, error) {
	if l.next+uint64(len(group)) > maxEntries {
		return time.Time{}, fmt.Errorf("%w: the log is full", ctlog.ErrUnavailable)
	}
	if err := l.checkSpace(); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	if err := descriptorHeadroom(l.lock); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ctlog.ErrOverloaded, err)
	}
	for _, p := range group {
		for i, der := range p.issuers {
			if err := l.issuers.store(der, p.entry.FingerprintsChain[i]); err != nil {
				return time.Time{}, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
			}
		}
	}
	at, err := l.clock.now()
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	return at, nil
}

// append hands the batch to Tessera and waits for all of it, even after an error:
// when append returns, no write of ours is outstanding.
func (l *Log) append(ctx context.Context, group []*pending, at time.Time) error {
	futures := make([]tessera.IndexFuture, len(group))
	for i, p := range group {
		p.entry.Timestamp = uint64(at.UnixMilli())
		futures[i] = l.engine.add(ctx, p.entry)
	}
	var failed error
	for i, p := range group {
		index, err := futures[i]()
		if err == nil && failed == nil && index.Index != l.next {
			err = fmt.Errorf("entry was put at index %d, want %d", index.Index, l.next)
		}
		if failed = errors.Join(failed, err); failed != nil {
			// The submitter learns it from the log's stopping.
			continue
		}
		l.next++
		l.integrated.Store(l.next)
		p.result <- outcome{index: index.Index, time: at}
	}
	return failed
}
