// Package logtest gives tests a certificate transparency log that keeps the rules
// of RFC 6962 and, when told to, breaks one of them.
//
// It takes precertificates only, gives each the same SCT for ever, with an index
// that it never repeats, and signs tree heads over all of them. Nothing of it
// shares code with package ctlog: leaves, signatures and trees are those of
// certificate-transparency-go and transparency-dev/merkle, so that nothing under
// test judges itself.
//
// It does not verify chains, and it forgets everything with its process.
package logtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Log is a log in memory.
type Log struct {
	t       testing.TB
	key     *ecdsa.PrivateKey
	foreign *ecdsa.PrivateKey // with which it signs when it lies
	spki    []byte
	clock   func() time.Time

	mu          sync.Mutex // guards all below
	fault       Fault
	choose      func() Fault
	submissions int
	given       map[[32]byte]given // by the hash of the precertificate
	tree        *compact.Range
}

// given is the SCT of a precertificate.
type given struct {
	sct  ct.SignedCertificateTimestamp
	leaf *ct.MerkleTreeLeaf
}

// New makes a log with a key of its own. The clock may be nil.
func New(t testing.TB, clock func() time.Time) *Log {
	t.Helper()
	l := &Log{t: t, clock: clock, given: map[[32]byte]given{}}
	if l.clock == nil {
		l.clock = time.Now
	}
	l.tree = (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if l.foreign, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if l.spki, err = x509.MarshalPKIXPublicKey(l.key.Public()); err != nil {
		t.Fatal(err)
	}
	return l
}

// PublicKey is the DER of the log's SubjectPublicKeyInfo.
func (l *Log) PublicKey() []byte { return l.spki }

// Set has the log break a rule from now on; None lets it keep them all.
func (l *Log) Set(f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault, l.choose = f, nil
}

// SetEach chooses a fault for each request. It is called by one request at a time.
func (l *Log) SetEach(choose func() Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.choose = choose
}

// Submissions counts the requests to add-pre-chain.
func (l *Log) Submissions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.submissions
}

func (l *Log) next(submission bool) Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if submission {
		l.submissions++
	}
	if l.choose != nil {
		return l.choose()
	}
	return l.fault
}

// ServeHTTP is the log's API.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	submission := r.Method == http.MethodPost && r.URL.Path == "/ct/v1/add-pre-chain"
	var request ct.AddChainRequest
	if submission {
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 512<<10)).Decode(&request); err != nil {
			http.Error(w, "malformed request", http.StatusBadRequest)
			return
		}
	}
	fault := l.next(submission)
	switch {
	case fault.answer(w, r):
	case submission:
		sct, err := l.add(request.Chain, fault)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fault.send(w, r, ct.AddChainResponse{
			SCTVersion: sct.SCTVersion, ID: sct.LogID.KeyID[:], Timestamp: sct.Timestamp,
			Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: l.encode(sct.Signature),
		})
	case r.Method == http.MethodGet && r.URL.Path == "/ct/v1/get-sth":
		fault.send(w, r, l.head())
	case r.Method == http.MethodGet && r.URL.Path == "/ct/v1/get-roots":
		fault.send(w, r, map[string][]string{"certificates": {}})
	default:
		http.NotFound(w, r)
	}
}

// add gives the SCT of a precertificate, or spoils it.
func (l *Log) add(chain [][]byte, fault Fault) (ct.SignedCertificateTimestamp, error) {
	var raw []ct.ASN1Cert
	for _, der := range chain {
		raw = append(raw, ct.ASN1Cert{Data: der})
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(raw, ct.PrecertLogEntryType, 0)
	if err != nil {
		return ct.SignedCertificateTimestamp{}, fmt.Errorf("no precertificate with its issuer: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g, known := l.given[sha256.Sum256(chain[0])]
	if !known {
		index := l.tree.End()
		leaf.TimestampedEntry.Timestamp = uint64(l.clock().UnixMilli())
		leaf.TimestampedEntry.Extensions = leafIndex(index)
		g = given{sct: l.sign(l.key, *leaf), leaf: leaf}
		hash, err := ct.LeafHashForLeaf(leaf)
		if err != nil {
			return ct.SignedCertificateTimestamp{}, fmt.Errorf("hashing leaf: %w", err)
		}
		if err := l.tree.Append(hash[:], nil); err != nil {
			return ct.SignedCertificateTimestamp{}, fmt.Errorf("adding leaf: %w", err)
		}
		l.given[sha256.Sum256(chain[0])] = g
	}
	return l.spoil(fault, g), nil
}

// leafIndex is static-ct-api's extension.
func leafIndex(index uint64) ct.CTExtensions {
	return ct.CTExtensions{0, 0, 5, byte(index >> 32), byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
}

func (l *Log) sign(key *ecdsa.PrivateKey, leaf ct.MerkleTreeLeaf) ct.SignedCertificateTimestamp {
	sct := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sha256.Sum256(l.spki)},
		Timestamp: leaf.TimestampedEntry.Timestamp, Extensions: leaf.TimestampedEntry.Extensions,
	}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: leaf})
	if err != nil {
		l.t.Errorf("the log cannot sign: %v", err)
	}
	sct.Signature = l.signature(key, input)
	return sct
}

func (l *Log) signature(key *ecdsa.PrivateKey, input []byte) ct.DigitallySigned {
	digest := sha256.Sum256(input)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		l.t.Errorf("the log cannot sign: %v", err)
	}
	return ct.DigitallySigned{
		Algorithm: tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA}, Signature: signature,
	}
}

func (l *Log) encode(d ct.DigitallySigned) []byte {
	b, err := tls.Marshal(tls.DigitallySigned(d))
	if err != nil {
		l.t.Errorf("the log cannot encode its signature: %v", err)
	}
	return b
}

// head signs the tree.
func (l *Log) head() ct.GetSTHResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	root, err := l.tree.GetRootHash(nil)
	if err != nil {
		l.t.Errorf("the log has no root: %v", err)
	}
	if root == nil {
		root = rfc6962.DefaultHasher.EmptyRoot()
	}
	sth := ct.SignedTreeHead{Version: ct.V1, TreeSize: l.tree.End(), Timestamp: uint64(l.clock().UnixMilli()), SHA256RootHash: [32]byte(root)}
	input, err := ct.SerializeSTHSignatureInput(sth)
	if err != nil {
		l.t.Errorf("the log cannot sign its tree: %v", err)
	}
	return ct.GetSTHResponse{
		TreeSize: sth.TreeSize, Timestamp: sth.Timestamp, SHA256RootHash: root, TreeHeadSignature: l.encode(l.signature(l.key, input)),
	}
}
