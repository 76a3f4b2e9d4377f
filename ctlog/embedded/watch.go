package embedded

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	watchInterval = time.Second
	// A checkpoint makes a handful of files; short of a few thousand inodes something
	// else is eating the filesystem.
	minFreeFiles = 4096
)

// watchLoop looks once a second at what makes the log refuse for a while. It has
// a goroutine of its own, because the others may hang with the disk.
func (l *Log) watchLoop() {
	defer close(l.watched)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-l.quit:
			return
		case now := <-ticker.C:
			l.observe(now)
		}
	}
}

// observe updates why the log should refuse for now, if it should.
func (l *Log) observe(now time.Time) {
	var err error
	for _, check := range []func(time.Time) error{l.checkSpace, l.checkDescriptors, l.checkPublication} {
		// All of them, for their metrics.
		err = cmp.Or(err, check(now))
	}
	l.mu.Lock()
	before := l.unwell
	l.unwell = err
	l.mu.Unlock()
	switch {
	case before == nil && err != nil:
		l.config.Logger.Warn("transparency log refuses submissions for now", "log", l.config.Name, "err", err)
	case before != nil && err == nil:
		l.config.Logger.Info("transparency log accepts submissions again", "log", l.config.Name)
	}
}

// checkSpace keeps well clear of a full disk. What is accepted then has room in
// the sequence file, which is written beforehand, and in the tree.
func (l *Log) checkSpace(time.Time) error {
	free, files, err := freeSpace(l.tree)
	if err != nil {
		return fmt.Errorf("%w: %w", ctlog.ErrUnavailable, err)
	}
	l.metrics.freeBytes.Set(float64(free))
	if free < l.config.MinFreeBytes {
		return fmt.Errorf("%w: %d bytes free at %s, want %d: make room", ctlog.ErrUnavailable, free, l.tree, l.config.MinFreeBytes)
	}
	if files >= 0 && files < minFreeFiles {
		return fmt.Errorf("%w: %d files may still be created at %s, want %d: make room", ctlog.ErrUnavailable, files, l.tree, minFreeFiles)
	}
	return nil
}

func (l *Log) checkDescriptors(time.Time) error {
	if err := descriptorHeadroom(l.lock.file); err != nil {
		return fmt.Errorf("%w: %w", ctlog.ErrOverloaded, err)
	}
	return nil
}

// checkPublication notices that checkpoints do not get out. Every SCT is a
// promise to publish, so without publication there must be no more SCTs.
func (l *Log) checkPublication(now time.Time) error {
	want, head := l.sequenced.Load(), l.publisher.head.Load()
	l.metrics.published.Set(float64(head.size))
	l.metrics.checkpointTime.Set(float64(head.time.UnixMilli()) / 1000)
	l.mu.Lock()
	defer l.mu.Unlock()
	// Of a busy log there is always something unpublished. What counts is how long
	// ago there first were as many entries as are published now.
	if head.size >= l.lagging {
		l.lagging, l.laggingSince = want, now
	}
	delay := now.Sub(l.laggingSince)
	if head.size >= l.lagging || delay <= l.config.MaxPublicationDelay {
		return nil
	}
	if l.unpublished != nil {
		return fmt.Errorf("%w: no checkpoint has covered entry %d for %s: %w", ctlog.ErrUnavailable, l.lagging-1, delay.Round(time.Second), l.unpublished)
	}
	return fmt.Errorf("%w: no checkpoint has covered entry %d for %s", ctlog.ErrUnavailable, l.lagging-1, delay.Round(time.Second))
}

// publishLoop brings what was sequenced under checkpoints, for as long as the
// log is open and while it is stopped too: what was promised must be published.
func (l *Log) publishLoop(ctx context.Context) {
	defer close(l.published)
	ticker := time.NewTicker(l.config.PublishInterval)
	defer ticker.Stop()
	for {
		l.publish(ctx)
		select {
		case <-ticker.C:
		case <-l.last:
			l.publish(ctx)
			return
		}
	}
}

// publish reports only changes: a full disk fails every interval.
func (l *Log) publish(ctx context.Context) {
	err := l.publisher.publish(ctx)
	l.mu.Lock()
	before := l.unpublished
	l.unpublished = err
	l.mu.Unlock()
	switch {
	case l.publisher.broken != nil:
		l.stop(fmt.Errorf("publishing: %w", err))
	case before == nil && err != nil:
		l.config.Logger.Warn("transparency log cannot publish for now", "log", l.config.Name, "err", err)
	case before != nil && err == nil:
		l.config.Logger.Info("transparency log publishes again", "log", l.config.Name)
	}
}
