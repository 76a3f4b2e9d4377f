package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	ctx509 "github.com/google/certificate-transparency-go/x509"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	// logKeyFile is the public key in the directory of an embedded log.
	logKeyFile     = "log.pub"
	requestTimeout = 10 * time.Second
	maxAnswer      = 1 << 20
)

// get fetches a document into answer, which may be nil.
func get(ctx context.Context, url string, answer *[]byte) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("asking for %s: %w", url, err)
	}
	return do(req, answer)
}

func do(req *http.Request, answer *[]byte) (status int, err error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	if answer != nil {
		*answer = body
	}
	return resp.StatusCode, nil
}

// requestCertificate is what every Sigstore client does: the token, a public
// key and a signature over the token's email, to /api/v2/signingCert. It returns
// the certificate first and the root last, in PEM.
func requestCertificate(ctx context.Context, url, token, publicKey string, proof []byte) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]string{"algorithm": "ECDSA", "content": publicKey},
			"proofOfPossession": proof,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	var answer []byte
	status, err := do(req, &answer)
	if err != nil {
		return nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("asking for a certificate: status %d: %s", status, answer)
	}
	var response struct {
		SCT struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	if err := json.Unmarshal(answer, &response); err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	if len(response.SCT.Chain.Certificates) < 2 {
		return nil, errors.New("the answer holds no logged certificate with its chain")
	}
	return response.SCT.Chain.Certificates, nil
}

// embeddedSCT reads the one SCT out of a certificate.
func embeddedSCT(cert *x509.Certificate) (ctlog.SCT, error) {
	parsed, err := ctx509.ParseCertificate(cert.Raw)
	if err != nil {
		return ctlog.SCT{}, fmt.Errorf("reading the certificate's SCT: %w", err)
	}
	if n := len(parsed.SCTList.SCTList); n != 1 {
		return ctlog.SCT{}, fmt.Errorf("the certificate has %d SCTs, not one", n)
	}
	return ctlog.ParseSCT(parsed.SCTList.SCTList[0].Val)
}
