package embedded

import (
	"context"
	"errors"
	"fmt"
)

// Close refuses further submissions, finishes the group in hand, answers those
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
			return fmt.Errorf("waiting for the group in hand: %w", context.Cause(ctx))
		}
	}
	l.finishOnce.Do(func() {
		close(l.last)
		go l.finish()
	})
	select {
	case <-l.finished:
		return l.closeErr
	case <-ctx.Done():
		return fmt.Errorf("waiting for the last checkpoint: %w", context.Cause(ctx))
	}
}

// finish runs once, in a goroutine of its own because a disk that hangs knows no
// context. A checkpoint that cannot be published now will be at the next start.
func (l *Log) finish() {
	defer close(l.finished)
	<-l.published
	l.halt()
	l.metrics.unregister()
	l.mu.Lock()
	unpublished := l.unpublished
	l.mu.Unlock()
	l.closeErr = errors.Join(unpublished, l.closeFiles())
}

// closeFiles gives the directory free.
func (l *Log) closeFiles() error {
	var errs []error
	if l.publisher != nil {
		if l.publisher.sequence != nil {
			errs = append(errs, l.publisher.sequence.Close())
		}
		errs = append(errs, l.publisher.record.close())
	}
	if l.files != nil {
		errs = append(errs, l.files.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}
