package site

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
)

// TestStubLogSignsWhatItIsSent verifies an SCT as an authority does.
func TestStubLogSignsWhatItIsSent(t *testing.T) {
	p, err := NewPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := p.NewCA("P-256")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewCAKey("P-256")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKey(p.file("log.key"), key); err != nil {
		t.Fatal(err)
	}
	log, err := loadStubLog(p.file("log.key"))
	if err != nil {
		t.Fatal(err)
	}
	precertificate := precertificate(t, p, ca)
	body, err := json.Marshal(ct.AddChainRequest{Chain: [][]byte{precertificate, ca.Issuing.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := log.sign(body)
	if err != nil {
		t.Fatal(err)
	}
	sct, err := answer.ToSignedCertificateTimestamp()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain([]ct.ASN1Cert{{Data: precertificate}, {Data: ca.Issuing.Raw}}, ct.PrecertLogEntryType, sct.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	input, err := ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: *leaf})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(input)
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || sct.Signature.Algorithm.Hash != cttls.SHA256 || !ecdsa.VerifyASN1(public, digest[:], sct.Signature.Signature) {
		t.Errorf("the SCT %+v does not verify", sct)
	}
	for _, bad := range []string{"", "{}", `{"chain":["AAAA","AAAA"]}`} {
		if answer, err := log.sign([]byte(bad)); err == nil {
			t.Errorf("%q was signed: %+v", bad, answer)
		}
	}
}

func precertificate(t *testing.T, p *PKI, ca CA) []byte {
	t.Helper()
	key, err := NewCAKey("P-256")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := loadStubLog(ca.Key) // any P-256 key in a file
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute), EmailAddresses: []string{"alice@corp.example"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Issuing, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issuing.Verify(x509.VerifyOptions{Roots: p.Roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Errorf("the issuing certificate is not good below its root: %v", err)
	}
	return der
}
