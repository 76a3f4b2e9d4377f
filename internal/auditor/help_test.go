package auditor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/audit"
)

var (
	began     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	issuerKey = sha256.Sum256([]byte("our issuing key"))
)

// clock is a time that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: began} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// item is an entry that a test puts into a log.
type item struct {
	at        time.Time
	issuerKey hash
	tbs       []byte
	final     []byte // a certificate instead
}

// leaf is the TileLeaf, and the hash of the Merkle leaf in it.
func (i item) leaf(index uint64) ([]byte, hash) {
	var b cryptobyte.Builder
	b.AddUint64(uint64(i.at.UnixMilli()))
	if i.final != nil {
		b.AddUint16(0)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(i.final) })
	} else {
		b.AddUint16(1)
		b.AddBytes(i.issuerKey[:])
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(i.tbs) })
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(0)
		b.AddUint16(5)
		b.AddUint8(uint8(index >> 32))
		b.AddUint32(uint32(index))
	})
	entry := b.BytesOrPanic()
	sum := rfc6962.DefaultHasher.HashLeaf(append([]byte{0, 0}, entry...))
	var rest cryptobyte.Builder
	rest.AddBytes(entry)
	if i.final == nil {
		rest.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte("precertificate")) })
	}
	rest.AddUint16LengthPrefixed(func(*cryptobyte.Builder) {})
	return rest.BytesOrPanic(), hash(sum)
}

// testLog is a static-ct-api log that keeps the rules unless a test breaks them.
type testLog struct {
	t      testing.TB
	name   string
	origin string
	key    *ecdsa.PrivateKey
	public Key
	clock  *clock
	// items says what stands at an index.
	items func(uint64) item
	tree  *compact.Range
	// mu guards what follows.
	mu     sync.Mutex
	files  map[string][]byte // instead of what is true
	note   []byte
	failed error
	calls  int
}

func newTestLog(t testing.TB, name string, c *clock, items func(uint64) item) *testLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParseKey(der)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{t: t, name: name, origin: "ct.example/" + name, key: key, public: public, clock: c, items: items,
		tree: factory.NewEmptyRange(0), files: map[string][]byte{}}
	l.grow(0)
	return l
}

// grow appends entries and publishes.
func (l *testLog) grow(n uint64) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		_, sum := l.items(l.tree.End()).leaf(l.tree.End())
		if err := l.tree.Append(sum[:], nil); err != nil {
			l.t.Fatal(err)
		}
	}
	root, err := l.tree.GetRootHash(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if l.tree.End() == 0 {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	l.note = l.sign(l.tree.End(), [32]byte(root), l.clock.Now())
}

// treeHead signs as RFC 6962 says.
func (l *testLog) treeHead(size uint64, root [32]byte, at time.Time) []byte {
	var b cryptobyte.Builder
	b.AddUint16(1) // v1, tree_hash
	b.AddUint64(uint64(at.UnixMilli()))
	b.AddUint64(size)
	b.AddBytes(root[:])
	digest := sha256.Sum256(b.BytesOrPanic())
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		l.t.Fatal(err)
	}
	var out cryptobyte.Builder
	out.AddUint16(0x0403)
	out.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(signature) })
	return out.BytesOrPanic()
}

func (l *testLog) sign(size uint64, root [32]byte, at time.Time) []byte {
	l.t.Helper()
	v := checkpoints{l.origin, l.public}
	blob := binary.BigEndian.AppendUint32(nil, v.KeyHash())
	blob = binary.BigEndian.AppendUint64(blob, uint64(at.UnixMilli()))
	blob = append(blob, l.treeHead(size, root, at)...)
	return fmt.Appendf(nil, "%s\n%d\n%s\n\n\u2014 %s %s\n", l.origin, size, base64.StdEncoding.EncodeToString(root[:]),
		l.origin, base64.StdEncoding.EncodeToString(blob))
}

// fetch is the log's read path.
func (l *testLog) fetch(_ context.Context, path string, limit int64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.failed != nil {
		return nil, l.failed
	}
	data, ok := l.files[path]
	switch {
	case ok:
	case path == "checkpoint":
		data = l.note
	default:
		data = l.tile(path)
	}
	if data == nil {
		return nil, fs.ErrNotExist
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, len(data), limit)
	}
	return data, nil
}

func (l *testLog) tile(path string) (data []byte) {
	rest, isData := strings.CutPrefix(path, "tile/data/")
	if !isData {
		var ok bool
		if rest, ok = strings.CutPrefix(path, "tile/0/"); !ok {
			l.t.Errorf("path %q", path)
			return nil
		}
	}
	number, width, partial := strings.Cut(rest, ".p/")
	index, err := strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(number), 10, 64)
	count := uint64(tileWidth)
	if partial && err == nil {
		count, err = strconv.ParseUint(width, 10, 64)
	}
	if err != nil {
		l.t.Errorf("path %q: %v", path, err)
		return nil
	}
	if index*tileWidth+count > l.tree.End() {
		return nil
	}
	for i := index * tileWidth; i < index*tileWidth+count; i++ {
		leaf, sum := l.items(i).leaf(i)
		if isData {
			data = append(data, leaf...)
		} else {
			data = append(data, sum[:]...)
		}
	}
	return data
}

func (l *testLog) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *testLog) target() Log {
	return Log{Name: l.name, Key: l.public, Source: NewStatic(l.fetch, l.origin, l.public), MaxAge: time.Minute, Merge: time.Minute}
}

// office is a state directory, a clock, a journal and what it recorded.
type office struct {
	t       testing.TB
	clock   *clock
	dir     string
	journal *audit.Journal
	targets Targets
	auditor *Auditor
	// events are the kinds that were recorded.
	events []string
	config Config
}

func newOffice(t testing.TB) *office {
	t.Helper()
	o := &office{t: t, clock: newClock(), dir: t.TempDir()}
	o.journal = openJournal(t, o.path("journal"), o.clock, 0)
	issuer := &x509.Certificate{RawSubjectPublicKeyInfo: []byte("our issuing key")}
	o.targets = Targets{Journals: []Journal{{Name: "own", Dir: o.path("journal"), Live: true}}, Issuers: []*x509.Certificate{issuer}}
	o.config = Config{
		Dir: o.path("auditor"), Clock: o.clock.Now,
		Targets: func() (Targets, error) { return o.targets, nil },
		Record: func(_ context.Context, kind string, _ ...slog.Attr) error {
			o.events = append(o.events, kind)
			return nil
		},
	}
	return o
}

func (o *office) path(name string) string { return filepath.Join(o.dir, name) }

// open opens the auditor; again is a restart.
func (o *office) open() {
	o.t.Helper()
	var err error
	if o.auditor, err = Open(o.config); err != nil {
		o.t.Fatal(err)
	}
	a := o.auditor
	o.t.Cleanup(func() { _ = a.lock.Close() })
}

func (o *office) restart() {
	o.t.Helper()
	if err := o.auditor.Close(); err != nil {
		o.t.Fatal(err)
	}
	o.open()
}

// round goes one round and checks which classes of alarm there are.
func (o *office) round(want ...Class) Report {
	o.t.Helper()
	r := o.auditor.Round(o.t.Context())
	var got []Class
	for _, f := range r.Alarms {
		got = append(got, f.Class)
		if f.Remedy == "" {
			o.t.Errorf("the alarm %q has no remedy", f.Class)
		}
	}
	if !slices.Equal(got, want) {
		o.t.Fatalf("alarms %v, want %v: %+v", got, want, r.Alarms)
	}
	return r
}

func openJournal(t testing.TB, dir string, c *clock, segment int64) *audit.Journal {
	t.Helper()
	j, err := audit.Open(t.Context(), audit.Config{Dir: dir, Node: filepath.Base(dir), Clock: c.Now, SegmentBytes: segment, FloorBytes: 1, ReserveBytes: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j
}

// intend records that an item will be signed.
func intend(t testing.TB, j *audit.Journal, n uint64, i item) uint64 {
	t.Helper()
	seq, err := j.Intent(t.Context(), ca.Intent{Serial: serialOf(n), Chain: "corp", IssuerKeyHash: i.issuerKey, TBSHash: sha256.Sum256(i.tbs),
		Request: ca.Request{ID: "r", API: "v2", Time: i.at}, NotBefore: i.at, NotAfter: i.at.Add(10 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// promise records the SCT of an item.
func promiseIn(t testing.TB, j *audit.Journal, intent, n uint64, l *testLog, i item, index int64) {
	t.Helper()
	err := j.Outcome(t.Context(), ca.Outcome{Intent: intent, Serial: serialOf(n), CertificateHash: hash{1},
		SCT: ca.SCT{Log: l.name, LogID: l.public.ID, Timestamp: i.at, Index: index, TLS: []byte{1}}})
	if err != nil {
		t.Fatal(err)
	}
}

func serialOf(n uint64) (s [20]byte) {
	binary.BigEndian.PutUint64(s[:], n)
	return s
}

// numbered is the n-th certificate.
func numbered(n uint64) item {
	return item{at: began.Add(time.Duration(n) * time.Millisecond), issuerKey: issuerKey, tbs: fmt.Appendf(nil, "certificate %d", n)}
}

// copyJournal brings a copy up to date as rsync --append does, and the mark with it.
func copyJournal(t testing.TB, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	// The mark comes first, which is the order that could hurt.
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(b.Name(), a.Name()) })
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".ndjson") && e.Name() != "journal.mark" {
			continue
		}
		flags := os.O_WRONLY | os.O_CREATE
		in, err := os.Open(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == "journal.mark" {
			flags |= os.O_TRUNC
		}
		out, err := os.OpenFile(filepath.Join(to, e.Name()), flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		end, err := out.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = in.Seek(end, io.SeekStart)
		}
		if err == nil {
			_, err = io.Copy(out, in)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = in.Close(), out.Close()
	}
}
