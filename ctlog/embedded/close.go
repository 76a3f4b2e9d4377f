package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Close refuses further submissions, finishes the batch in hand, answers those
// still waiting that the log is closed, waits for a checkpoint over everything
// acknowledged, and gives the directory free. It is bounded by ctx.
//
// If it returns an error other than that last checkpoint's, a write may still be
// outstanding, and the directory stays locked for the rest of the process: a
// second writer is worse than none. Close may be called again.
func (l *Log) Close(ctx context.Context) error {
	select {
	case l.closeTurn <- struct{}{}:
		defer func() { <-l.closeTurn }()
	case <-ctx.Done():
		return fmt.Errorf("ctlog/embedded: closing log %q: %w", l.config.Name, context.Cause(ctx))
	}
	if l.closed {
		return nil
	}
	if err := l.close(ctx); err != nil {
		return fmt.Errorf("ctlog/embedded: closing log %q: %w", l.config.Name, err)
	}
	return nil
}

func (l *Log) close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closing {
		l.closing = true
		close(l.quit)
	}
	l.mu.Unlock()
	for _, done := range []chan struct{}{l.committed, l.watched} {
		select {
		case <-done:
		case <-ctx.Done():
			l.release()
			return fmt.Errorf("waiting for the batch in hand: %w", context.Cause(ctx))
		}
	}
	// A checkpoint that cannot be published now will be at the next start.
	unpublished := l.engine.shutdown(ctx)
	if err := l.settle(ctx); err != nil {
		return errors.Join(unpublished, err)
	}
	l.halt()
	l.closed = true
	l.metrics.unregister()
	return errors.Join(unpublished, l.files.Close(), l.lock.Close())
}

// settle waits until the last checkpoint signed is the one on the disk. Tessera's
// publisher cannot be waited for; but once it gets no more signatures, it can
// write nothing else than the last one it got.
func (l *Log) settle(ctx context.Context) error {
	last, ok := l.publisher.close()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		published, err := l.readPublished()
		if err == nil && published.time.Equal(last.time) && published.size == last.size {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(errors.New("a checkpoint may still be on its way to the disk"), context.Cause(ctx), err)
		}
	}
}
