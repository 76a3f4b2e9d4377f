package site

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
)

// stubLog signs SCTs over what it is sent, at once, and keeps nothing.
type stubLog struct {
	key *ecdsa.PrivateKey
	id  [sha256.Size]byte
}

func loadStubLog(path string) (*stubLog, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the log's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM in %s", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the log's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the log's key is a %T, want ECDSA", parsed)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the log's key: %w", err)
	}
	return &stubLog{key: key, id: sha256.Sum256(der)}, nil
}

const maxSubmission = 1 << 20

func (l *stubLog) add(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxSubmission))
	if err != nil {
		return // the client went away
	}
	answer, err := l.sign(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (l *stubLog) sign(body []byte) (*ct.AddChainResponse, error) {
	var request ct.AddChainRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, fmt.Errorf("reading a submission: %w", err)
	}
	if len(request.Chain) < 2 {
		return nil, errors.New("a chain has the precertificate and its issuer")
	}
	var chain []ct.ASN1Cert
	for _, der := range request.Chain {
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	now := uint64(time.Now().UnixMilli())
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, now)
	if err != nil {
		return nil, fmt.Errorf("making a leaf: %w", err)
	}
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: l.id}, Timestamp: now}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, fmt.Errorf("encoding what is signed: %w", err)
	}
	digest := sha256.Sum256(input)
	raw, err := l.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	signature, err := tls.Marshal(tls.DigitallySigned{
		Algorithm: tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA}, Signature: raw,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a signature: %w", err)
	}
	return &ct.AddChainResponse{SCTVersion: ct.V1, ID: l.id[:], Timestamp: now, Signature: signature}, nil
}
