package ctlog

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// RFC 6962, Section 3.2: "opaque TBSCertificate<1..2^24-1>", and
	// "opaque CtExtensions<0..2^16-1>".
	maxTBS        = 1<<24 - 1
	maxExtensions = 1<<16 - 1
	// sctInputHead is what stands before the TBS: version, signature type,
	// timestamp, entry type, issuer key hash and the length.
	sctInputHead = 1 + 1 + 8 + 2 + 32 + 3
)

// SCTInput is what a log signs for sct over this submission. It is written by
// hand, because it is made for each certificate, and shares nothing with what a
// log of ours encodes: that the two agree is what [Key.VerifySCT] finds out.
//
//	// RFC 6962, Section 3.2
//	digitally-signed struct {
//	    Version sct_version = v1(0);
//	    SignatureType signature_type = certificate_timestamp(0);
//	    uint64 timestamp;
//	    LogEntryType entry_type = precert_entry(1);
//	    PreCert {
//	        opaque issuer_key_hash[32];
//	        opaque TBSCertificate<1..2^24-1>;
//	    } signed_entry;
//	    CtExtensions extensions;
//	};
func (s Submission) SCTInput(sct SCT) ([]byte, error) {
	return s.appendSCTInput(make([]byte, 0, sctInputHead+len(s.TBS)+2+len(sct.Extensions)), sct)
}

func (s Submission) appendSCTInput(b []byte, sct SCT) ([]byte, error) {
	ms, err := milliseconds(sct.Timestamp)
	if err != nil {
		return nil, fmt.Errorf("encoding what an SCT signs: %w", err)
	}
	if len(s.TBS) == 0 || len(s.TBS) > maxTBS || len(sct.Extensions) > maxExtensions {
		return nil, errors.New("encoding what an SCT signs: the TBS or the extensions have no length that can be written")
	}
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint64(b, ms)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = append(b, s.IssuerKeyHash[:]...)
	n := len(s.TBS)
	b = append(b, byte(n>>16), byte(n>>8), byte(n))
	b = append(b, s.TBS...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(sct.Extensions)))
	return append(b, sct.Extensions...), nil
}
