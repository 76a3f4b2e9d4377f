package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// pending is a submission on its way through the committer.
type pending struct {
	entry  Entry
	chain  [][32]byte      // the fingerprints of its issuers
	size   int             // that of its TileLeaf
	signed []byte          // of its TileLeaf; the committer's until it answers
	gone   <-chan struct{} // closed when the submitter no longer waits
	result chan outcome    // has room for one, so the committer never blocks
}

type outcome struct {
	index uint64
	time  time.Time
	// signed is the TimestampedEntry as it goes into the tree.
	signed []byte
	err    error
}

var errStalled = fmt.Errorf("%w: the disk did not finish writing in time", ctlog.ErrUnavailable)

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
		return unwell
	case l.stalled(time.Now()):
		return errStalled
	}
	if err := l.clock.check(); err != nil {
		return fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	if len(l.queue) == cap(l.queue) {
		return fmt.Errorf("%w: %d submissions are waiting", ctlog.ErrOverloaded, cap(l.queue))
	}
	if n := l.publisher.unpublished.Load(); n > maxUnpublished {
		return fmt.Errorf("%w: %d bytes wait to be published", ctlog.ErrOverloaded, n)
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
	if err := l.Ready(); err != nil {
		return ctlog.SCT{}, fmt.Errorf("log %q: %w", l.config.Name, err)
	}
	if err := s.Check(); err != nil {
		return ctlog.SCT{}, fmt.Errorf("log %q: %w", l.config.Name, err)
	}
	e := Entry{Certificate: s.TBS, Precertificate: s.Precertificate, IssuerKeyHash: s.IssuerKeyHash, Issuers: s.Issuers}
	// The check builds what was signed from the submission, with other code.
	sct, err := l.add(ctx, e, func(sct ctlog.SCT, _ [32]byte) error { return l.public.VerifySCT(s, sct, sct.Timestamp) })
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("log %q: %w", l.config.Name, err)
	}
	return sct, nil
}

// Entry is what an RFC 6962 submission comes to once it was checked.
type Entry struct {
	// Certificate is the DER of the certificate, or, with a Precertificate, of its
	// TBSCertificate without poison.
	Certificate []byte
	// Precertificate is the DER of a precertificate; nil for a certificate.
	Precertificate []byte
	// IssuerKeyHash belongs to a precertificate: SHA-256 of the
	// SubjectPublicKeyInfo of the key that will sign the certificate.
	IssuerKeyHash [32]byte
	// Issuers is the DER of the chain above it, the issuing certificate first.
	Issuers [][]byte
}

const (
	maxCertificate = 64 << 10
	maxIssuers     = 16
)

func (e Entry) check() error {
	if n := len(e.Certificate); n == 0 || n > maxCertificate {
		return fmt.Errorf("%w: certificate of %d bytes, want 1 to %d", ctlog.ErrRejected, n, maxCertificate)
	}
	for i, der := range e.Issuers {
		if len(der) == 0 || len(der) > maxCertificate {
			return fmt.Errorf("%w: issuing certificate %d of %d bytes, want 1 to %d", ctlog.ErrRejected, i, len(der), maxCertificate)
		}
	}
	if e.Precertificate != nil && len(e.Precertificate) == 0 {
		return fmt.Errorf("%w: an empty precertificate", ctlog.ErrRejected)
	}
	if len(e.Precertificate) > maxCertificate || len(e.Issuers) > maxIssuers {
		return fmt.Errorf("%w: a precertificate of %d bytes and %d issuing certificates, at most %d and %d",
			ctlog.ErrRejected, len(e.Precertificate), len(e.Issuers), maxCertificate, maxIssuers)
	}
	return nil
}

// Add logs an entry and returns the SCT once it is durable under the SCT's
// index. The caller vouches that the parts of the entry belong together, and that
// its chain is one that this log accepts: see ctlog.Submission.Check and Submit.
func (l *Log) Add(ctx context.Context, e Entry) (ctlog.SCT, error) {
	sct, err := l.add(ctx, e, l.checkSignature)
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("log %q: %w", l.config.Name, err)
	}
	return sct, nil
}

// checkSignature is for entries that are no submission: our own encoding is
// taken for granted, the key is not.
func (l *Log) checkSignature(sct ctlog.SCT, digest [32]byte) error {
	if !l.verifier.verifyDigest(digest, sct.Signature) {
		return errors.New("the log's key made a signature that does not verify")
	}
	return nil
}

func (l *Log) add(ctx context.Context, e Entry, check func(ctlog.SCT, [32]byte) error) (ctlog.SCT, error) {
	if err := e.check(); err != nil {
		return ctlog.SCT{}, err
	}
	// Nearly always the caller has less time than that.
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > l.config.StallAfter {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.config.StallAfter, errStalled)
		defer cancel()
	}
	out, err := l.enqueue(ctx, e)
	if err != nil {
		return ctlog.SCT{}, err
	}
	return l.sign(ctx, out, check)
}

// enqueue waits until the entry has an index for good.
func (l *Log) enqueue(ctx context.Context, e Entry) (outcome, error) {
	if err := l.Ready(); err != nil {
		return outcome{}, err
	}
	p := &pending{
		entry: e, chain: fingerprints(e.Issuers), size: e.leafSize(),
		gone: ctx.Done(), result: make(chan outcome, 1),
	}
	select {
	case l.queue <- p:
	default:
		return outcome{}, fmt.Errorf("%w: %d submissions are waiting", ctlog.ErrOverloaded, cap(l.queue))
	}
	return l.await(ctx, p)
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

// sign makes the SCT. The signature covers the leaf as it is hashed into the
// tree, for "MerkleTreeLeaf" and the input to the SCT signature differ only in the
// meaning of two zero bytes (RFC 6962, Sections 3.2 and 3.4).
func (l *Log) sign(ctx context.Context, out outcome, check func(ctlog.SCT, [32]byte) error) (ctlog.SCT, error) {
	digest := hashBehind("\x00\x00", out.signed)
	signature, err := digitallySign(ctx, l.key, digest)
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("%w: signing SCT: %w", ctlog.ErrUnavailable, err)
	}
	extension := leafIndexOf(out.index)
	sct := ctlog.SCT{
		Log:        l.config.Name,
		LogID:      l.public.ID(),
		Timestamp:  out.time,
		Index:      int64(out.index),
		Extensions: extension[:],
		Signature:  signature,
	}
	if err := check(sct, digest); err != nil {
		return ctlog.SCT{}, fmt.Errorf("%w: checking our own SCT: %w", ctlog.ErrUnavailable, err)
	}
	return sct, nil
}
