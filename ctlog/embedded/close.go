package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Close refuses further submissions, finishes the batch in hand, answers those
// still waiting that the log is closed, waits for a checkpoint over everything
// acknowledged, and gives the directory free. It is bounded by ctx, and may be
// called again to wait longer.
//
// As long as a write may still be outstanding (a disk that hangs), the directory
// stays locked, for the rest of the process if need be: a second writer is worse
// than none.
func (l *Log) Close(ctx context.Context) error {
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
	l.finishOnce.Do(func() { go l.finish() })
	select {
	case <-l.finished:
		return l.closeErr
	case <-ctx.Done():
		return fmt.Errorf("waiting for the last checkpoint: %w", context.Cause(ctx))
	}
}

// finish runs once, in a goroutine of its own because a disk that hangs knows no
// context.
func (l *Log) finish() {
	defer close(l.finished)
	// A checkpoint that cannot be published now will be at the next start.
	unpublished := l.engine.shutdown(context.Background())
	settled := l.settle()
	l.halt()
	l.metrics.unregister()
	if l.closeErr = errors.Join(unpublished, settled); settled != nil {
		return
	}
	l.closeErr = errors.Join(l.closeErr, l.files.Close(), l.lock.Close())
}

// settle waits until the last checkpoint signed is the one on the disk. Tessera's
// publisher cannot be waited for; but once it gets no more signatures, it can
// write nothing else than the last one it got.
func (l *Log) settle() error {
	last, ok := l.publisher.close()
	if !ok {
		return nil
	}
	timeout := time.NewTimer(shutdownTimeout)
	defer timeout.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		published, err := l.readPublished()
		if err == nil && published.time.Equal(last.time) && published.size == last.size {
			return nil
		}
		select {
		case <-ticker.C:
		case <-timeout.C:
			return errors.Join(errors.New("a checkpoint may still be on its way to the disk; "+
				"the directory stays locked until the process ends"), err)
		}
	}
}
