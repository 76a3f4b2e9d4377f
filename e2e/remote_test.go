package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
)

// remoteLog is an RFC 6962 log that can fail in every way. When it works, it
// signs real SCTs over what it was sent, and keeps nothing: what is tested is
// the CA.
type remoteLog struct {
	url, publicKey string
	key            *ecdsa.PrivateKey
	mode           atomic.Value // string
	asked          atomic.Int64
	closing        chan struct{}
}

// Modes of a remote log.
const (
	works     = "works"
	hangs     = "hangs"
	refuses4  = "answers 400"
	fails5    = "answers 500"
	overloads = "answers 503"
	breaksOff = "breaks off"
	isForeign = "signs with another key"
	isGarbage = "answers garbage"
	trickles  = "answers a byte at a time"
)

func newRemoteLog(t testing.TB) *remoteLog {
	t.Helper()
	l := &remoteLog{key: newKey(t), closing: make(chan struct{})}
	l.mode.Store(works)
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l.publicKey = writeFile(t, filepath.Join(t.TempDir(), "log.pub"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2026/ct/v1/add-pre-chain", func(rw http.ResponseWriter, r *http.Request) { l.add(t, rw, r) })
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		close(l.closing)
		server.Close()
	})
	l.url = server.URL + "/2026"
	return l
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (l *remoteLog) add(t testing.TB, w http.ResponseWriter, r *http.Request) {
	l.asked.Add(1)
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return // the client went away
	}
	key := l.key
	switch l.mode.Load() {
	case hangs:
		select {
		case <-r.Context().Done():
		case <-l.closing:
		}
		return
	case trickles:
		l.trickle(w, r)
		return
	case breaksOff:
		panic(http.ErrAbortHandler)
	case refuses4:
		http.Error(w, "unacceptable chain", http.StatusBadRequest)
		return
	case fails5:
		http.Error(w, "disk on fire", http.StatusInternalServerError)
		return
	case overloads:
		w.Header().Set("Retry-After", "3600")
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	case isGarbage:
		_, _ = io.WriteString(w, `{"sct_version":0,"id":"AAAA"}`)
		return
	case isForeign:
		key = newKey(t)
	}
	answer, err := l.sct(body, key)
	if err != nil {
		t.Errorf("the CA sent the log something wrong: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// trickle would take an hour.
func (l *remoteLog) trickle(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		case <-l.closing:
			return
		}
	}
}

// sct signs for a precertificate chain, under the id of the log's own key.
func (l *remoteLog) sct(body []byte, key crypto.Signer) (*ct.AddChainResponse, error) {
	var request ct.AddChainRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	if len(request.Chain) != 3 {
		return nil, errors.New("want a chain of precertificate, issuing CA and root")
	}
	var chain []ct.ASN1Cert
	for _, der := range request.Chain {
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	now := uint64(time.Now().UnixMilli())
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, now)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	input, err := ct.SerializeSCTSignatureInput(ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: id}, Timestamp: now}, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(input)
	raw, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	signature, err := tls.Marshal(tls.DigitallySigned{
		Algorithm: tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA}, Signature: raw,
	})
	if err != nil {
		return nil, err
	}
	return &ct.AddChainResponse{SCTVersion: ct.V1, ID: id[:], Timestamp: now, Signature: signature}, nil
}
