package ctlog

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
)

func exampleSCT() SCT {
	return SCT{
		LogID:      [32]byte{1, 2, 3},
		Timestamp:  time.UnixMilli(1790000000123).UTC(),
		Index:      0x0102030405,
		Extensions: []byte{0, 0, 5, 1, 2, 3, 4, 5},
		Signature:  []byte{4, 3, 0, 2, 0xaa, 0xbb},
	}
}

// The encoding must be that of certificate-transparency-go, which every Go client
// decodes with.
func TestMarshalTLSAgreesWithCertificateTransparencyGo(t *testing.T) {
	s := exampleSCT()
	got, err := s.MarshalTLS()
	if err != nil {
		t.Fatalf("MarshalTLS(%+v): %v", s, err)
	}
	want, err := cttls.Marshal(ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1,
		LogID:      ct.LogID{KeyID: s.LogID},
		Timestamp:  1790000000123,
		Extensions: s.Extensions,
		Signature: ct.DigitallySigned{
			Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
			Signature: []byte{0xaa, 0xbb},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("MarshalTLS(%+v)\n got %x\nwant %x", s, got, want)
	}
	parsed, err := ParseSCT(got)
	if err != nil {
		t.Fatalf("ParseSCT(%x): %v", got, err)
	}
	if parsed.Index != s.Index || !parsed.Timestamp.Equal(s.Timestamp) || parsed.LogID != s.LogID ||
		!bytes.Equal(parsed.Extensions, s.Extensions) || !bytes.Equal(parsed.Signature, s.Signature) {
		t.Fatalf("ParseSCT(%x)\n got %+v\nwant %+v", got, parsed, s)
	}
}

func TestMarshalTLSRefusesWhatParseSCTWould(t *testing.T) {
	for name, change := range map[string]func(*SCT){
		"no signature":       func(s *SCT) { s.Signature = nil },
		"empty signature":    func(s *SCT) { s.Signature = []byte{4, 3, 0, 0} },
		"long signature":     func(s *SCT) { s.Signature = append(s.Signature, 0) },
		"before 1970":        func(s *SCT) { s.Timestamp = time.UnixMilli(-1) },
		"after 9999":         func(s *SCT) { s.Timestamp = time.UnixMilli(maxTimestamp + 1) },
		"too many extension": func(s *SCT) { s.Extensions = make([]byte, 1<<16) },
	} {
		s := exampleSCT()
		change(&s)
		if got, err := s.MarshalTLS(); err == nil {
			t.Errorf("%s: MarshalTLS(%+v) = %x, want an error", name, s, got)
		}
	}
}

func TestParseSCTRefusesMalformed(t *testing.T) {
	id := strings.Repeat("00", 32)
	const at, sig = "000001a0c0000000", "040300020102"
	for name, in := range map[string]string{
		"empty":                    "",
		"version 2":                "01" + id + at + "0000" + sig,
		"truncated id":             "00" + id[2:],
		"no extensions":            "00" + id + at,
		"no signature":             "00" + id + at + "0000",
		"short signature":          "00" + id + at + "0000" + "0403000301",
		"empty signature":          "00" + id + at + "0000" + "04030000",
		"trailing byte":            "00" + id + at + "0000" + sig + "00",
		"year 10000":               "00" + id + "ffffffffffffffff" + "0000" + sig,
		"extension without length": "00" + id + at + "0001" + "00" + sig,
		"leaf_index of 4 bytes":    "00" + id + at + "0007" + "00000400000001" + sig,
		"leaf_index twice":         "00" + id + at + "0010" + "0000050000000001" + "0000050000000002" + sig,
	} {
		raw, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseSCT(raw); err == nil {
			t.Errorf("%s: ParseSCT(%s) = %+v, want an error", name, in, got)
		}
	}
}

func TestParseSCTPassesOverUnknownExtensions(t *testing.T) {
	s := exampleSCT()
	s.Extensions = append([]byte{7, 0, 1, 0xff}, s.Extensions...)
	raw, err := s.MarshalTLS()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSCT(raw)
	if err != nil || got.Index != s.Index {
		t.Fatalf("ParseSCT(%x) = index %d, %v; want index %d", raw, got.Index, err, s.Index)
	}
	s.Extensions = nil
	if raw, err = s.MarshalTLS(); err != nil {
		t.Fatal(err)
	}
	if got, err = ParseSCT(raw); err != nil || got.Index != -1 {
		t.Fatalf("ParseSCT(%x) = index %d, %v; want index -1", raw, got.Index, err)
	}
}

// FuzzParseSCT holds that whatever parses marshals to the same bytes, and that
// certificate-transparency-go then reads the same.
func FuzzParseSCT(f *testing.F) {
	raw, err := exampleSCT().MarshalTLS()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Add(append(bytes.Clone(raw), 0))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ParseSCT(in)
		if err != nil {
			return
		}
		out, err := s.MarshalTLS()
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("ParseSCT(%x) marshals to %x, %v", in, out, err)
		}
		var other ct.SignedCertificateTimestamp
		if rest, err := cttls.Unmarshal(in, &other); err != nil || len(rest) != 0 {
			t.Fatalf("ParseSCT accepts %x, certificate-transparency-go says %v, rest %x", in, err, rest)
		}
		if other.Timestamp != uint64(s.Timestamp.UnixMilli()) || other.LogID.KeyID != s.LogID {
			t.Fatalf("ParseSCT(%x) = %+v, certificate-transparency-go reads %+v", in, s, other)
		}
	})
}
