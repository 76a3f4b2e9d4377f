package stack

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
)

const (
	// settle is how long the files must have been quiet: an editor writes in steps,
	// and Kubernetes swaps a Secret and a ConfigMap one after the other.
	settle = 250 * time.Millisecond
	// maxSettle is how long they are waited for at most.
	maxSettle = 2 * time.Second
	// pollInterval is for file systems that notify nobody, such as NFS.
	pollInterval = 30 * time.Second
)

// follow reloads the configuration when what it or a file that it names holds
// changes, until ctx ends. Content decides and not modification times, which a
// swapped symbolic link may not change.
func (s *Stack) follow(ctx context.Context) {
	if s.options.Load == nil {
		return
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.logger.Warn("changes of the configuration are noticed by looking every 30s only", "err", err)
		w = &fsnotify.Watcher{} // its channels are nil and never ready
	} else {
		defer w.Close() //nolint:errcheck // nothing was written
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	c := &changes{
		changed: func() bool {
			n := s.current.Load()
			// A file that was put back to what is in use is no other content, but
			// until it is read again the refusal of the one between would stand.
			return s.reloads.refused.Load() || !maps.Equal(contentOf(followed(n.file)), n.content)
		},
		reload: func() {
			ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
			defer cancel()
			_, _ = s.Reload(ctx, "files changed") // it has told why
		},
		watch: func() {
			if err == nil {
				watchOnly(w, directories(followed(s.current.Load().file)))
			}
		},
	}
	c.follow(ctx, w.Events, w.Errors, poll.C)
}

// followed lists the files whose content a configuration depends on. Not among
// them are those that are read whenever they are used, or looked at by themselves:
// server and client certificates and bearer tokens, which are renewed by others,
// what submission to the log needs, and libraries.
func followed(f *config.File) []string {
	files := []string{f.Path}
	for _, r := range config.References(f.Config) {
		own := strings.HasPrefix(r.KeyPath, "listen.tls.") || strings.HasSuffix(r.KeyPath, ".client_certificate") ||
			strings.HasSuffix(r.KeyPath, ".client_key") || strings.Contains(r.KeyPath, ".submission.") || strings.HasSuffix(r.KeyPath, "token_file")
		if !own && !r.Library && !slices.Contains(files, r.Path) {
			files = append(files, r.Path)
		}
	}
	return files
}

// changes reloads when files do not hold what was last loaded.
type changes struct {
	changed func() bool
	reload  func()
	watch   func() // the directories that are of interest now
}

// follow runs until ctx ends. A reload that was refused is tried again at every
// poll, for what was missing may not have been in a file.
func (c *changes) follow(ctx context.Context, events <-chan fsnotify.Event, failures <-chan error, poll <-chan time.Time) {
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	var first time.Time // of the events since the files were last looked at
	stir := func() {
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		// A directory in which something is always written never becomes quiet.
		if now.Sub(first) < maxSettle {
			quiet.Reset(settle)
		}
	}
	c.watch()
	stir() // for what has changed before it was watched
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil // the poll goes on
			}
			stir()
			continue
		case _, ok := <-failures: // events were lost
			if !ok {
				failures = nil
			}
			stir()
			continue
		case <-quiet.C:
		case <-poll:
		}
		first = time.Time{}
		if c.changed() {
			c.reload()
		}
		c.watch()
	}
}

// contentOf is a digest of what each file holds; zero for one that cannot be read.
func contentOf(names []string) map[string][sha256.Size]byte {
	content := make(map[string][sha256.Size]byte, len(names))
	for _, name := range names {
		content[name] = [sha256.Size]byte{}
		if data, err := files.Read(name); err == nil {
			content[name] = sha256.Sum256(data)
		}
	}
	return content
}

// directories lists where changes of files show: the directory of each, since
// editors and Kubernetes replace files and links and write into none.
func directories(files []string) []string {
	var dirs []string
	for _, name := range files {
		if dir := filepath.Dir(name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// watchOnly makes w watch these directories and no others. One that cannot be
// watched is left to the poll.
func watchOnly(w *fsnotify.Watcher, dirs []string) {
	watched := w.WatchList()
	for _, dir := range watched {
		if !slices.Contains(dirs, dir) {
			if err := w.Remove(dir); errors.Is(err, fsnotify.ErrClosed) {
				return
			}
		}
	}
	for _, dir := range dirs {
		if !slices.Contains(watched, dir) {
			_ = w.Add(dir)
		}
	}
}
