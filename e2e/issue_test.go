package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// answer is what the REST API said to a request for a certificate.
type answer struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration
	// chain is leaf to root, when a certificate was issued.
	chain []*x509.Certificate
}

// reason is the reason code of an error answer.
func (a answer) reason() string {
	var body struct {
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	_ = json.Unmarshal(a.body, &body)
	for _, d := range body.Details {
		if d.Reason != "" {
			return d.Reason
		}
	}
	return ""
}

func (a answer) String() string { return fmt.Sprintf("%d after %v: %s", a.status, a.took, a.body) }

// applicant is a key with the proof that its holder has it.
type applicant struct {
	public string // PEM
	proof  []byte
}

func newApplicant(t testing.TB, claim string) applicant {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(claim))
	proof, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return applicant{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), proof}
}

// request asks for a certificate through the second REST API. Only a transport
// that fails is an error.
func (w *world) request(a applicant, token string) (answer, error) {
	body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey": map[string]any{"algorithm": "ECDSA", "content": a.public}, "proofOfPossession": a.proof,
	}})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequest(http.MethodPost, w.url+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	return w.send(req)
}

// send sends a request for a certificate and reads the answer.
func (w *world) send(req *http.Request) (answer, error) {
	start := time.Now()
	resp, err := w.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got := answer{status: resp.StatusCode, header: resp.Header}
	got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	got.took = time.Since(start)
	if err != nil || got.status != http.StatusOK {
		return got, err
	}
	got.chain, err = readChain(got.body)
	return got, err
}

func readChain(body []byte) ([]*x509.Certificate, error) {
	var answer struct {
		Embedded struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading answer: %w", err)
	}
	var chain []*x509.Certificate
	for _, text := range answer.Embedded.Chain.Certificates {
		cert, err := parsePEM([]byte(text))
		if err != nil {
			return nil, err
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("answer without a certificate: %s", body)
	}
	return chain, nil
}

// parsePEM reads the first certificate of a PEM text.
func parsePEM(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM in %q", text)
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodePEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// mustIssue gets a certificate for a person.
func (w *world) mustIssue(t testing.TB, email string) []*x509.Certificate {
	t.Helper()
	got, err := w.request(newApplicant(t, email), w.issuer.token(t, email, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.chain == nil {
		t.Fatalf("no certificate for %s: %v", email, got)
	}
	return got.chain
}
