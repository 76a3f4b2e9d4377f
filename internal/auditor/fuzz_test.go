package auditor

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"golang.org/x/crypto/cryptobyte"
)

// merkleLeaf is an item as get-entries has it.
func merkleLeaf(i item, index uint64) []byte {
	raw, _ := i.leaf(index)
	in := cryptobyte.String(raw)
	if _, err := readLeaf(&in); err != nil {
		panic(err)
	}
	return append([]byte{0, 0}, raw[:len(raw)-len(in)]...)
}

// What is accepted, certificate-transparency-go reads alike.
func FuzzMerkleLeaf(f *testing.F) {
	f.Add(merkleLeaf(numbered(1), 1))
	f.Add(merkleLeaf(item{at: began, final: []byte("a certificate")}, 1<<39))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := readMerkleLeaf(raw)
		if err != nil {
			return
		}
		var leaf ct.MerkleTreeLeaf
		if rest, err := tls.Unmarshal(raw, &leaf); err != nil || len(rest) != 0 {
			t.Fatalf("accepted %x, but: %v, %d bytes left", raw, err, len(rest))
		}
		want, err := ct.LeafHashForLeaf(&leaf)
		if err != nil || e.Leaf != want {
			t.Errorf("leaf hash of %x is %x, want %x (%v)", raw, e.Leaf, want, err)
		}
		if got := uint64(e.Time.UnixMilli()); got != leaf.TimestampedEntry.Timestamp {
			t.Errorf("timestamp of %x is %d, want %d", raw, got, leaf.TimestampedEntry.Timestamp)
		}
		if p := leaf.TimestampedEntry.PrecertEntry; p != nil && (e.TBSHash != sha256.Sum256(p.TBSCertificate) || e.IssuerKeyHash != p.IssuerKeyHash) {
			t.Errorf("precertificate of %x is %x under %x", raw, e.TBSHash, e.IssuerKeyHash)
		}
	})
}

func FuzzBundle(f *testing.F) {
	var raw []byte
	for n := range uint64(3) {
		leaf, _ := numbered(n).leaf(n)
		raw = append(raw, leaf...)
	}
	f.Add(raw)
	leaf, _ := item{at: began, final: []byte("a certificate")}.leaf(0)
	f.Add(append(leaf, raw...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := readBundle(raw)
		if err != nil {
			return
		}
		if len(entries) > tileWidth || len(entries)*12 > len(raw) {
			t.Errorf("%d entries in %d bytes", len(entries), len(raw))
		}
		// Nothing may be hidden between entries: a bundle cut short is not accepted as
		// the same number of entries.
		if again, err := readBundle(raw[:max(0, len(raw)-1)]); err == nil && len(again) == len(entries) && len(raw) > 0 {
			t.Errorf("%d entries in %x, and as many without its last byte", len(entries), raw)
		}
	})
}

// Where certificate-transparency-go can take the SCT list out, the result is the same.
func FuzzCertificate(f *testing.F) {
	cert := certified(f)
	f.Add(cert.final)
	f.Add(cert.bare)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := readCertificate(der)
		if err != nil {
			return
		}
		got, err := withoutSCTs(c.tbs)
		if err != nil {
			return
		}
		if want, err := ctx509.RemoveSCTList(c.tbs); err == nil && got != sha256.Sum256(want) {
			t.Errorf("TBS of %x without SCTs has the hash %x, want that of %x", der, got, want)
		}
	})
}

// No checkpoint but the log's own verifies, whatever is around it.
func FuzzCheckpoint(f *testing.F) {
	l := newTestLog(f, "box", newClock(), numbered)
	l.grow(3)
	v := checkpoints{l.origin, l.public}
	good, err := v.open(l.note)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.note)
	f.Add(bytes.Replace(l.note, []byte("\n3\n"), []byte("\n4\n"), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, v := range []checkpoints{v, {"", l.public}} {
			h, err := v.open(raw)
			if err == nil && (h.Size != good.Size || h.Root != good.Root || !h.Time.Equal(good.Time)) {
				t.Errorf("%q verifies as %+v", raw, h)
			}
		}
	})
}

// A run that is read back is the one that was written, or none.
func FuzzRun(f *testing.F) {
	dir := f.TempDir()
	x, err := openRuns(dir)
	if err != nil {
		f.Fatal(err)
	}
	for n := range uint64(5) {
		x.add(nameOf(hash{1}, hash{byte(n)}), began)
	}
	if err := x.flush("1", nil); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "1.run"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "1.run")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &run{path: path}
		if r.load() != nil {
			return
		}
		if bytes.Equal(raw, good) != (r.header.Count == 5) {
			t.Errorf("%x is taken for a run of %d", raw, r.header.Count)
		}
	})
}
