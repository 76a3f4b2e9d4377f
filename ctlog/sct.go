package ctlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// maxTimestamp is the last millisecond of the year 9999, beyond which neither
// certificates nor JSON can say a time.
const maxTimestamp = 253402300799999

// extensionLeafIndex is the extension_type of static-ct-api's leaf_index.
const extensionLeafIndex = 0

// leafIndexSize is that of an extension list with a leaf_index alone.
const leafIndexSize = 8

// SCT is a signed certificate timestamp.
type SCT struct {
	// Log is the configured name of the log that gave it; it is not signed.
	Log string
	// LogID is SHA-256 of the log's SubjectPublicKeyInfo.
	LogID [32]byte
	// Timestamp has a resolution of one millisecond.
	Timestamp time.Time
	// Index is the leaf index that a static-ct-api log promises in Extensions,
	// or -1. It is derived: only Extensions is signed and marshalled.
	Index int64
	// Extensions is the content of the extensions vector, without its length.
	Extensions []byte
	// Signature is the TLS encoding of the digitally-signed struct: hash and
	// signature algorithm, length, signature.
	Signature []byte
}

// MarshalTLS encodes the SCT as it is embedded in a certificate's SCT list and
// as [ParseSCT] reads it.
//
//	// RFC 6962, Section 3.2
//	struct {
//	    Version sct_version;
//	    LogID id;
//	    uint64 timestamp;
//	    CtExtensions extensions;
//	    digitally-signed struct { ... };
//	} SignedCertificateTimestamp;
func (s SCT) MarshalTLS() ([]byte, error) {
	ms, err := milliseconds(s.Timestamp)
	if err != nil {
		return nil, err
	}
	if err := checkDigitallySigned(s.Signature); err != nil {
		return nil, err
	}
	if len(s.Extensions) > maxExtensions {
		return nil, fmt.Errorf("encoding SCT: extensions of %d bytes", len(s.Extensions))
	}
	b := make([]byte, 0, 1+len(s.LogID)+8+2+len(s.Extensions)+len(s.Signature))
	b = append(b, 0) // v1
	b = append(b, s.LogID[:]...)
	b = binary.BigEndian.AppendUint64(b, ms)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Extensions)))
	b = append(b, s.Extensions...)
	return append(b, s.Signature...), nil
}

// ParseSCT decodes one SCT of version 1. Trailing bytes, a malformed extension
// list and a signature that does not fill its length are errors. Nothing is
// verified: that is [Key.VerifySCT].
func ParseSCT(tls []byte) (SCT, error) {
	in := cryptobyte.String(tls)
	var (
		version    uint8
		s          SCT
		ms         uint64
		extensions cryptobyte.String
	)
	if !in.ReadUint8(&version) {
		return SCT{}, errors.New("parsing SCT: empty")
	}
	if version != 0 {
		return SCT{}, fmt.Errorf("parsing SCT: version %d, want 0 (v1)", version)
	}
	if !in.CopyBytes(s.LogID[:]) || !in.ReadUint64(&ms) || !in.ReadUint16LengthPrefixed(&extensions) {
		return SCT{}, errors.New("parsing SCT: truncated")
	}
	var err error
	if s.Timestamp, err = timestamp(ms); err != nil {
		return SCT{}, fmt.Errorf("parsing SCT: %w", err)
	}
	if s.Index, err = leafIndex(extensions); err != nil {
		return SCT{}, fmt.Errorf("parsing SCT: %w", err)
	}
	if err := checkDigitallySigned(in); err != nil {
		return SCT{}, fmt.Errorf("parsing SCT: %w", err)
	}
	s.Extensions = append([]byte(nil), extensions...)
	s.Signature = append([]byte(nil), in...)
	return s, nil
}

// leafIndex reads the index from the extensions of a static-ct-api log. An
// RFC 6962 log sends none.
//
//	// static-ct-api
//	struct {
//	    ExtensionType extension_type;
//	    opaque extension_data<0..2^16-1>;
//	} Extension;
//	Extension CTExtensions<0..2^16-1>;
//	uint8 uint40[5];
//	uint40 LeafIndex;
//
// Unknown types are passed over, as the format asks of clients; a second
// leaf_index is not, because two readers could then see two indices.
func leafIndex(extensions []byte) (int64, error) {
	index := int64(-1)
	in := cryptobyte.String(extensions)
	for !in.Empty() {
		var kind uint8
		var data cryptobyte.String
		if !in.ReadUint8(&kind) || !in.ReadUint16LengthPrefixed(&data) {
			return -1, errors.New("malformed extension list")
		}
		if kind != extensionLeafIndex {
			continue
		}
		if index >= 0 {
			return -1, errors.New("leaf_index given twice")
		}
		if len(data) != 5 {
			return -1, fmt.Errorf("leaf_index of %d bytes, want 5", len(data))
		}
		index = 0
		for _, b := range data {
			index = index<<8 | int64(b)
		}
	}
	return index, nil
}

// checkDigitallySigned checks the shape of a digitally-signed struct.
//
//	// RFC 5246, Section 4.7
//	struct {
//	    SignatureAndHashAlgorithm algorithm;
//	    opaque signature<0..2^16-1>;
//	} DigitallySigned;
func checkDigitallySigned(b []byte) error {
	in := cryptobyte.String(b)
	var algorithm uint16
	var signature cryptobyte.String
	if !in.ReadUint16(&algorithm) || !in.ReadUint16LengthPrefixed(&signature) {
		return errors.New("truncated signature")
	}
	if len(signature) == 0 {
		return errors.New("empty signature")
	}
	if !in.Empty() {
		return fmt.Errorf("%d bytes after the signature", len(in))
	}
	return nil
}

func milliseconds(t time.Time) (uint64, error) {
	ms := t.UnixMilli()
	if ms < 0 || ms > maxTimestamp {
		return 0, fmt.Errorf("timestamp %s is out of range", t)
	}
	return uint64(ms), nil
}

func timestamp(ms uint64) (time.Time, error) {
	if ms > maxTimestamp || ms > math.MaxInt64 {
		return time.Time{}, fmt.Errorf("timestamp %d is out of range", ms)
	}
	return time.UnixMilli(int64(ms)).UTC(), nil
}
