package ctlog

import (
	"bytes"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
)

// FuzzSCTInput holds our encoding of what a log signs to that of
// certificate-transparency-go, with which clients verify: the same bytes, and
// the same submissions that have none.
func FuzzSCTInput(f *testing.F) {
	f.Add(int64(1790000000123), []byte{1, 2, 3}, []byte{0x30, 0}, []byte{0, 0, 5, 1, 2, 3, 4, 5})
	f.Add(int64(0), []byte{}, []byte{}, []byte{})
	f.Add(int64(maxTimestamp), bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{7}, 300), make([]byte, maxExtensions))
	f.Add(int64(maxTimestamp), []byte{}, make([]byte, 1<<16), make([]byte, maxExtensions+1))
	f.Fuzz(func(t *testing.T, ms int64, issuerKeyHash, tbs, extensions []byte) {
		s := Submission{TBS: tbs}
		copy(s.IssuerKeyHash[:], issuerKeyHash)
		got, err := s.SCTInput(SCT{Timestamp: time.UnixMilli(ms), Extensions: extensions})
		if ms < 0 || ms > maxTimestamp {
			if err == nil {
				t.Fatalf("timestamp %d was encoded to %x", ms, got)
			}
			return
		}
		want, wantErr := ct.SerializeSCTSignatureInput(
			ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: uint64(ms), Extensions: extensions},
			ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{
				EntryType:    ct.PrecertLogEntryType,
				PrecertEntry: &ct.PreCert{IssuerKeyHash: s.IssuerKeyHash, TBSCertificate: tbs},
			}}})
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("TBS of %d and extensions of %d bytes: %v, but certificate-transparency-go says %v",
				len(tbs), len(extensions), err, wantErr)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("SCTInput\n got %x\nwant %x", got, want)
		}
	})
}
