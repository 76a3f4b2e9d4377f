package ctlog

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
)

// knownIssuers remembers the issuing certificates of the last submissions. A CA has a
// handful, and to parse one costs as much as the rest of [Submission.Check].
var knownIssuers issuerKeys

// issuerKeys is a memory of certificates whose key had a hash. What it answers is
// what parsing the certificate again would answer: it compares every byte, keeps a
// copy of its own, and remembers nothing that was refused. A hash has one place,
// so that memory is bounded; two that share one only cost each other time.
type issuerKeys struct{ places [16]atomic.Pointer[issuerKey] }

type issuerKey struct {
	der  []byte
	hash [32]byte
}

// check says whether hash is that of the SubjectPublicKeyInfo of the certificate.
func (k *issuerKeys) check(der []byte, hash [32]byte) error {
	place := &k.places[hash[0]%byte(len(k.places))]
	if known := place.Load(); known != nil && known.hash == hash && bytes.Equal(known.der, der) {
		return nil
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading issuing certificate: %w", err)
	}
	if sha256.Sum256(issuer.RawSubjectPublicKeyInfo) != hash {
		return errors.New("issuer key hash is not that of the issuing certificate")
	}
	place.Store(&issuerKey{der: bytes.Clone(der), hash: hash})
	return nil
}
