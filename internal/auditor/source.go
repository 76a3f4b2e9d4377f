package auditor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Source reads a log. What it returns of entries is not believed: the auditor
// hashes it up to the head. Everything it fetches is bounded in size.
type Source interface {
	// Head fetches the present tree head and verifies its signature.
	Head(ctx context.Context) (Head, error)
	// Entries fetches at least one entry under a head, from an index on, and at most
	// a few hundred.
	Entries(ctx context.Context, head Head, from uint64) ([]Entry, error)
	// Extends asks the log itself to prove that head extends the tree of kept. It is
	// asked when the entries do not hash to the head, to tell a log that lost bytes
	// from one that tells two stories.
	Extends(ctx context.Context, kept *compact.Range, old, head Head) error
}

const (
	// maxHead has room for a hundred witnesses. Two heads that contradict each other
	// go into one record of the journal, where a byte may take six.
	maxHead   = 16 << 10
	maxTile   = 8 << 10
	maxBundle = 16 << 20
	tileWidth = 256
	// fetchTimeout bounds one exchange, its body included.
	fetchTimeout = 10 * time.Second
)

var factory = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Fetch reads a file below a log's monitoring prefix; more than limit bytes are an
// error, and fs.ErrNotExist says that there is no such file.
type Fetch func(ctx context.Context, path string, limit int64) ([]byte, error)

// FetchHTTP reads below a URL.
func FetchHTTP(base string, client *http.Client) Fetch {
	base = strings.TrimRight(base, "/")
	return func(ctx context.Context, path string, limit int64) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/"+path, nil)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", path, err)
		}
		req.Header.Set("User-Agent", "mayfly")
		resp, err := client.Do(req)
		if err != nil {
			return nil, fmt.Errorf("fetching %s: %w", path, err)
		}
		defer func() { _ = resp.Body.Close() }()
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound:
			return nil, fmt.Errorf("fetching %s: %w", path, fs.ErrNotExist)
		default:
			return nil, fmt.Errorf("fetching %s: HTTP %d", path, resp.StatusCode)
		}
		return readBounded(resp.Body, path, limit)
	}
}

// FetchDir reads below a directory of this machine, and follows no link out of it.
func FetchDir(dir string) Fetch {
	return func(_ context.Context, path string, limit int64) ([]byte, error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("reading the log's directory: %w", err)
		}
		defer root.Close() //nolint:errcheck // only read
		f, err := root.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		defer f.Close() //nolint:errcheck // only read
		return readBounded(f, path, limit)
	}
}

func readBounded(r io.Reader, path string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: more than %d bytes", path, limit)
	}
	return data, nil
}

// Static is a log whose checkpoint and tiles are read as static-ct-api says.
type Static struct {
	fetch    Fetch
	verifier checkpoints
}

// NewStatic makes a source of a log with that origin and key. Without an origin, the
// checkpoint may have any: what is signed does not contain it, so that the key alone
// says which log it is.
func NewStatic(fetch Fetch, origin string, key Key) *Static {
	return &Static{fetch: fetch, verifier: checkpoints{origin, key}}
}

var _ Source = (*Static)(nil)

// Head implements [Source].
func (s *Static) Head(ctx context.Context) (Head, error) {
	raw, err := s.fetch(ctx, "checkpoint", maxHead)
	if err != nil {
		return Head{}, err
	}
	return s.verifier.open(raw)
}

// Entries implements [Source]: the rest of one bundle.
func (s *Static) Entries(ctx context.Context, head Head, from uint64) ([]Entry, error) {
	index := from / tileWidth
	raw, err := s.tile(ctx, "data/", index, head.Size, maxBundle)
	if err != nil {
		return nil, err
	}
	entries, err := readBundle(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: reading bundle %d: %w", errEntries, index, err)
	}
	// Beyond the head there may be more in the bundle, which nobody has signed.
	want := min(uint64(tileWidth), head.Size-index*tileWidth)
	if uint64(len(entries)) < want {
		return nil, fmt.Errorf("%w: reading bundle %d: %d entries, want %d", errEntries, index, len(entries), want)
	}
	for i, e := range entries[:want] {
		// static-ct-api: an entry carries its own index.
		if at := int64(index*tileWidth) + int64(i); e.Promised != at {
			return nil, fmt.Errorf("%w: reading bundle %d: entry %d where entry %d belongs", errEntries, index, e.Promised, at)
		}
	}
	return entries[from-index*tileWidth : want], nil
}

// Extends implements [Source] with the hashes that the log has in its tiles.
func (s *Static) Extends(ctx context.Context, kept *compact.Range, _, head Head) error {
	r, err := factory.NewRange(0, kept.End(), append([][]byte(nil), kept.Hashes()...))
	if err != nil {
		return err
	}
	for r.End() < head.Size {
		index := r.End() / tileWidth
		raw, err := s.tile(ctx, "0/", index, head.Size, maxTile)
		if err != nil {
			return err
		}
		want := min(uint64(tileWidth), head.Size-index*tileWidth)
		if uint64(len(raw)) < 32*want {
			return fmt.Errorf("tile %d has %d bytes, want %d", index, len(raw), 32*want)
		}
		for at := r.End() % tileWidth; at < want; at++ {
			if err := r.Append(raw[32*at:32*at+32:32*at+32], nil); err != nil {
				return err
			}
		}
	}
	return compare(r, head)
}

// tile reads a tile of hashes or of data as it is under a tree of a size. A log may
// drop a partial tile once the full one exists.
func (s *Static) tile(ctx context.Context, level string, index, size uint64, limit int64) ([]byte, error) {
	path := "tile/" + level + tileNumber(index)
	if partial := size - index*tileWidth; partial < tileWidth {
		raw, err := s.fetch(ctx, fmt.Sprintf("%s.p/%d", path, partial), limit)
		if !errors.Is(err, fs.ErrNotExist) {
			return raw, err
		}
	}
	return s.fetch(ctx, path, limit)
}

// tileNumber spells an index: 1234067 is x001/x234/067.
func tileNumber(n uint64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	return path
}

// errEntries says that what came is not what entries look like.
var errEntries = errors.New("the entries are not to be believed")

// errRoot says that a tree has another root than its head.
var errRoot = errors.New("the tree has another root than its head")

// compare compares the root of a tree with a head of the same size.
func compare(r *compact.Range, head Head) error {
	root, err := r.GetRootHash(nil)
	if err != nil {
		return err
	}
	if r.End() == 0 {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	if [32]byte(root) != head.Root {
		return fmt.Errorf("%w: %x, want %x for %d entries", errRoot, root, head.Root, head.Size)
	}
	return nil
}
