package load

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Expected is what certificates must be like.
type Expected struct {
	// Issuing is the CA's certificate.
	Issuing *x509.Certificate
	// SCT says that one is embedded.
	SCT bool
}

// sampled is of how many answers one is parsed. The others only have to be a
// success and hold a certificate: to check each would cost the generator as much
// as the server.
const sampled = 64

var (
	sctList      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	pemBeginning = []byte("-----BEGIN CERTIFICATE-----")
)

// check looks at an answer: its certificates are for the applicant and by the CA.
func (e Expected) check(leaf *x509.Certificate, a Applicant) error {
	public, ok := a.Public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	if len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != a.Email {
		return fmt.Errorf("the certificate is for %q, want %s", leaf.EmailAddresses, a.Email)
	}
	if err := leaf.CheckSignatureFrom(e.Issuing); err != nil {
		return fmt.Errorf("the certificate is not the CA's: %w", err)
	}
	if has := slices.ContainsFunc(leaf.Extensions, func(x pkix.Extension) bool { return x.Id.Equal(sctList) }); has != e.SCT {
		return fmt.Errorf("the certificate has an SCT: %t, want %t", has, e.SCT)
	}
	return nil
}

// checkREST looks at the body of a successful answer of either version.
func (e Expected) checkREST(body []byte, number int, a Applicant) error {
	if !bytes.Contains(body, pemBeginning) {
		return fmt.Errorf("an answer without a certificate: %.200s", body)
	}
	if number%sampled != 0 {
		return nil
	}
	text := body
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		var err error
		if text, err = v2Leaf(body); err != nil {
			return err
		}
	}
	leaf, err := parseLeaf(text)
	if err != nil {
		return err
	}
	return e.check(leaf, a)
}

// v2Leaf is the first certificate of the second version's JSON.
func v2Leaf(body []byte) ([]byte, error) {
	type chain struct {
		Chain struct {
			Certificates []string `json:"certificates"`
		} `json:"chain"`
	}
	var answer struct {
		Embedded chain `json:"signedCertificateEmbeddedSct"`
		Detached chain `json:"signedCertificateDetachedSct"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	certificates := append(answer.Embedded.Chain.Certificates, answer.Detached.Chain.Certificates...)
	if len(certificates) == 0 {
		return nil, fmt.Errorf("an answer without a chain: %.200s", body)
	}
	return []byte(certificates[0]), nil
}

func parseLeaf(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("no PEM in an answer: %.200q", text)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing a certificate: %w", err)
	}
	return leaf, nil
}
