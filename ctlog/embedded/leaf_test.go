package embedded

import (
	"bytes"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/ctonly"
)

// FuzzAppendLeaf holds what goes into the tree, and what of it is signed, to
// tessera's encoder.
func FuzzAppendLeaf(f *testing.F) {
	f.Add(uint64(1790000000123), uint64(7), []byte{0x30, 0}, true, []byte{0x30, 1, 0}, []byte{1}, uint8(2))
	f.Add(uint64(0), uint64(maxEntries-1), []byte{0x30, 0}, false, []byte{}, []byte{}, uint8(0))
	f.Add(uint64(1<<63), uint64(255), make([]byte, maxCertificate), true, make([]byte, maxCertificate), []byte{9}, uint8(maxIssuers))
	f.Fuzz(func(t *testing.T, ms, index uint64, certificate []byte, precert bool, precertificate, hash []byte, chain uint8) {
		index %= maxEntries
		e := Entry{Certificate: certificate}
		if precert {
			e.Precertificate = append([]byte{}, precertificate...)
		}
		copy(e.IssuerKeyHash[:], hash)
		for i := range int(chain) % (maxIssuers + 1) {
			e.Issuers = append(e.Issuers, append(bytes.Clone(hash), byte(i)))
		}
		prints := fingerprints(e.Issuers)
		oracle := ctonly.Entry{
			Timestamp: ms, IsPrecert: precert, Certificate: e.Certificate, Precertificate: e.Precertificate,
			IssuerKeyHash: e.IssuerKeyHash[:], FingerprintsChain: prints,
		}
		got, signed := e.appendLeaf([]byte("before"), prints, ms, index)
		got, signed = got[len("before"):], signed-len("before")
		if want := oracle.LeafData(index); !bytes.Equal(got, want) {
			t.Fatalf("appendLeaf(%+v, index %d)\n got %x\nwant %x", e, index, got, want)
		}
		if len(got) != e.leafSize() {
			t.Fatalf("leafSize(%+v) = %d, want %d", e, e.leafSize(), len(got))
		}
		if want := oracle.MerkleTreeLeaf(index); !bytes.Equal(append([]byte{0, 0}, got[:signed]...), want) {
			t.Fatalf("signed of (%+v, index %d)\n got %x\nwant %x", e, index, got[:signed], want)
		}
		if got, want := hashBehind("\x00\x00\x00", got[:signed]), [32]byte(oracle.MerkleLeafHash(index)); got != want {
			t.Fatalf("leaf hash of (%+v, index %d) is %x, want %x", e, index, got, want)
		}
	})
}

func TestHashChildrenIsThatOfTheLibrary(t *testing.T) {
	left, right := [32]byte{1, 31: 2}, [32]byte{3, 31: 4}
	want := [32]byte(rfc6962.DefaultHasher.HashChildren(left[:], right[:]))
	if got := hashChildren(left, right); got != want {
		t.Errorf("hashChildren(%x, %x) = %x, want %x", left, right, got, want)
	}
}
