package embedded

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/transparency-dev/tessera/ctonly"
)

func bundleOf(t testing.TB, n int) ([]byte, []*ctonly.Entry) {
	t.Helper()
	ca := testca.New(t)
	var raw []byte
	var entries []*ctonly.Entry
	for i := range n {
		s := ca.Precertificate(t)
		e := entryOf(s)
		e.Timestamp = 1790000000000 + uint64(i)
		entries = append(entries, e)
		raw = append(raw, e.LeafData(uint64(i))...)
	}
	return raw, entries
}

func TestParseBundleHashesAsTesseraDoes(t *testing.T) {
	raw, entries := bundleOf(t, 3)
	leaves, err := parseBundle(raw)
	if err != nil || len(leaves) != len(entries) {
		t.Fatalf("parseBundle: %d leaves, %v; want %d", len(leaves), err, len(entries))
	}
	for i, e := range entries {
		if got, want := leaves[i].hash, [32]byte(e.MerkleLeafHash(uint64(i))); got != want {
			t.Errorf("entry %d: hash %x, want %x", i, got, want)
		}
		if got := uint64(leaves[i].time.UnixMilli()); got != e.Timestamp {
			t.Errorf("entry %d: time %d, want %d", i, got, e.Timestamp)
		}
	}
	for cut := 1; cut < 40; cut++ {
		if _, err := parseBundle(raw[:len(raw)-cut]); err == nil {
			t.Errorf("parseBundle accepts a bundle without its last %d bytes", cut)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	raw, _ := bundleOf(f, 2)
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Fuzz(func(t *testing.T, in []byte) {
		leaves, err := parseBundle(in)
		if err == nil && len(leaves) == 0 && len(in) != 0 {
			t.Fatalf("parseBundle(%x) finds nothing and no error", in)
		}
	})
}

func FuzzParseTilePath(f *testing.F) {
	for _, seed := range []string{"tile/0/000", "tile/data/x001/234.p/5", "tile/1/000.p/255", "tile/0/x000/001", "tile/../log.key"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, ok := parseTilePath(path)
		if ok && (p.width == 0 || p.width > 256 || p.entries() == 0) {
			t.Fatalf("parseTilePath(%q) = %+v with %d entries", path, p, p.entries())
		}
	})
}

// FuzzOpenCheckpoint holds that nothing but the log's own signature opens, and
// that junk does not panic.
func FuzzOpenCheckpoint(f *testing.F) {
	dir, _ := initLog(f)
	l := openLog(f, testConfig(f, dir))
	raw, err := l.readPublished()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw.raw)
	f.Add(raw.raw[:len(raw.raw)-20])
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := l.verifier.open(in); err == nil && (c.size != 0 || c.root != emptyRoot) {
			t.Fatalf("open(%q) = %d entries, root %x", in, c.size, c.root)
		}
	})
}

// groupOf makes a group of one entry as the committer does.
func groupOf(t testing.TB, ca *testca.CA, index uint64) sequence.Group {
	t.Helper()
	s := ca.Precertificate(t)
	at := time.UnixMilli(1790000000000)
	e := entryOf(s)
	e.Timestamp = uint64(at.UnixMilli())
	return sequence.Group{First: index, Count: 1, Time: at, Payload: e.LeafData(index)}
}

func entryOf(s ctlog.Submission) *ctonly.Entry {
	return &ctonly.Entry{
		IsPrecert: true, Certificate: s.TBS, Precertificate: s.Precertificate,
		IssuerKeyHash: s.IssuerKeyHash[:], FingerprintsChain: fingerprints(s.Issuers),
	}
}
