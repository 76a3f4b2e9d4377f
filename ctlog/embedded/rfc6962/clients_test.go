package rfc6962_test

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/ctutil"
	"github.com/google/certificate-transparency-go/jsonclient"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// ctClient is certificate-transparency-go's client, which verifies each SCT.
func (w *world) ctClient(t testing.TB) *client.LogClient {
	t.Helper()
	c, err := client.New(w.server.URL, w.client, jsonclient.Options{PublicKeyDER: w.log.PublicKey(), UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func asn1Certs(chain [][]byte) []ct.ASN1Cert {
	var certs []ct.ASN1Cert
	for _, der := range chain {
		certs = append(certs, ct.ASN1Cert{Data: der})
	}
	return certs
}

func TestCertificateTransparencyGoSubmitsAndVerifies(t *testing.T) {
	w := newWorld(t, nil)
	c := w.ctClient(t)
	sct, err := c.AddPreChain(t.Context(), asn1Certs(w.issuing.chain(w.issuing.precertificate(t, nil))))
	if err != nil {
		t.Fatalf("add-pre-chain: %v", err)
	}
	if sct.LogID.KeyID != w.log.ID() {
		t.Errorf("SCT of log %x, want %x", sct.LogID.KeyID, w.log.ID())
	}
	if age := time.Since(ct.TimestampToTime(sct.Timestamp)); age < -time.Second || age > time.Minute {
		t.Errorf("SCT is %s old", age)
	}
	leaf := w.issuing.leaf(t, nil)
	if sct, err = c.AddChain(t.Context(), asn1Certs(w.issuing.chain(leaf))); err != nil {
		t.Fatalf("add-chain: %v", err)
	}
	cert, err := ctx509.ParseCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(w.log.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := ctutil.VerifySCT(key, []*ctx509.Certificate{cert}, sct, false); err != nil {
		t.Errorf("SCT over a certificate: %v", err)
	}
	roots, err := c.GetAcceptedRoots(t.Context())
	if err != nil {
		t.Fatalf("get-roots: %v", err)
	}
	if len(roots) != 1 || sha256.Sum256(roots[0].Data) != sha256.Sum256(w.root.cert.Raw) {
		t.Errorf("get-roots gave %d certificates, want the root", len(roots))
	}
}
