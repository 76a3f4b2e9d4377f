package embedded

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

var issuerPattern = regexp.MustCompile(`^issuer/[0-9a-f]{64}$`)

// ReadHandler serves the log's monitoring prefix: /checkpoint, /tile/... and
// /issuer/..., by GET and HEAD. Mount it below http.StripPrefix. It hands out
// nothing that is not under a signed checkpoint: everything but the checkpoint
// is marked as immutable, and an entry that a crash may still take back must
// never end up in a cache. It needs no authentication.
func (l *Log) ReadHandler() http.Handler {
	return readHandler{files: l.files, head: l.publisher.head.Load}
}

// readHandler serves the files of a tree.
type readHandler struct {
	files *os.Root
	// head is the published checkpoint.
	head func() *checkpoint
}

// ServeHTTP implements http.Handler.
func (h readHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	switch {
	case path == "checkpoint":
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("Cache-Control", "no-cache")
		// From memory, where it is replaced only when it is on the disk, and where
		// the check of tiles below looks too.
		head := h.head()
		// Not by its time: of HTTP's seconds each has several checkpoints.
		header.Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(head.raw)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(head.raw))
		return
	case issuerPattern.MatchString(path):
		header.Set("Content-Type", "application/pkix-cert")
		header.Set("Cache-Control", immutable)
	default:
		t, ok := parseTilePath(path)
		if !ok || t.entries() > h.head().size {
			notFound(w)
			return
		}
		header.Set("Content-Type", "application/octet-stream")
		header.Set("Cache-Control", immutable)
	}
	h.serveFile(w, r, path)
}

const immutable = "public, max-age=31536000, immutable"

// serveFile opens below the tree only: os.Root follows no link out of it.
func (h readHandler) serveFile(w http.ResponseWriter, r *http.Request, path string) {
	f, err := h.files.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		notFound(w)
		return
	}
	if err != nil {
		unreadable(w)
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		unreadable(w)
		return
	}
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func notFound(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "not found", http.StatusNotFound)
}

func unreadable(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "the log cannot be read", http.StatusServiceUnavailable)
}
