package embedded

import (
	"fmt"
	"path/filepath"
	"time"
)

const (
	watchInterval = time.Second
	// A batch makes a handful of files; short of a few thousand inodes something
	// else is eating the filesystem.
	minFreeFiles = 4096
)

// watchLoop looks once a second at what Tessera would only log about.
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
	err := l.checkSpace()
	if lag := l.checkPublication(now); err == nil {
		err = lag
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

// checkSpace keeps well clear of a full disk: Tessera survives one, but leaves an
// empty file behind with every failed batch, and its error would stop the log.
func (l *Log) checkSpace() error {
	free, files, err := freeSpace(l.tree)
	if err != nil {
		return err
	}
	l.metrics.freeBytes.Set(float64(free))
	if free < l.config.MinFreeBytes {
		return fmt.Errorf("%d bytes free at %s, want %d", free, l.tree, l.config.MinFreeBytes)
	}
	if files >= 0 && files < minFreeFiles {
		return fmt.Errorf("%d files may still be created at %s, want %d", files, l.tree, minFreeFiles)
	}
	return nil
}

// checkPublication notices that checkpoints do not get out. Every SCT is a
// promise to publish, so without publication there must be no more SCTs.
func (l *Log) checkPublication(now time.Time) error {
	want := l.integrated.Load()
	published, err := l.readPublished()
	if err == nil {
		l.metrics.published.Set(float64(published.size))
		l.metrics.checkpointTime.Set(float64(published.time.UnixMilli()) / 1000)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && published.size >= want {
		l.laggingSince = time.Time{}
		return nil
	}
	if l.laggingSince.IsZero() {
		l.laggingSince = now
	}
	delay := now.Sub(l.laggingSince)
	if delay <= l.config.MaxPublicationDelay {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the published checkpoint cannot be read: %w", err)
	}
	return fmt.Errorf("no checkpoint has covered entry %d for %s", want-1, delay.Round(time.Second))
}

func (l *Log) readPublished() (checkpoint, error) {
	raw, err := readSmall(filepath.Join(l.tree, "checkpoint"))
	if err != nil {
		return checkpoint{}, err
	}
	return l.verifier.open(raw)
}
