package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"
)

// TestSigningRequestMadeByOpenSSL asks as sigstore-python and sigstore-rs do,
// with a CSR and an Accept header that does not fit the answer they parse, and
// with a key that OpenSSL made. Nothing but the key counts.
func TestSigningRequestMadeByOpenSSL(t *testing.T) {
	w := newWorld(t, setting{})
	openssl := command{dir: w.dir}
	for _, kind := range [][]string{
		{"EC", "ec_paramgen_curve:P-256"}, {"EC", "ec_paramgen_curve:P-384"}, {"RSA", "rsa_keygen_bits:3072"},
	} {
		t.Run(kind[0]+" "+kind[1], func(t *testing.T) {
			dir := t.TempDir()
			key, request := filepath.Join(dir, "key.pem"), filepath.Join(dir, "csr.pem")
			openssl.must(t, "openssl", "genpkey", "-algorithm", kind[0], "-pkeyopt", kind[1], "-out", key)
			digest := "-sha256"
			if kind[1] == "ec_paramgen_curve:P-384" {
				digest = "-sha384"
			}
			openssl.must(t, "openssl", "req", "-new", digest, "-key", key, "-subj", "/CN=mallory", "-addext", "subjectAltName=email:"+mallory, "-out", request)
			chain := w.requestCSR(t, readFile(t, request), w.issuer.token(t, alice, nil))
			leaf := chain[0]
			if len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != alice || leaf.Subject.String() != "" {
				t.Errorf("certificate is for %v, subject %q; want %s alone", leaf.EmailAddresses, leaf.Subject, alice)
			}
			w.checkLeaf(t, leaf)

			// What the key signs, the certificate verifies.
			file, signature := writeFile(t, filepath.Join(dir, "file"), "content"), filepath.Join(dir, "file.sig")
			openssl.must(t, "openssl", "dgst", "-sha256", "-sign", key, "-out", signature, file)
			public := writeFile(t, filepath.Join(dir, "pub.pem"), openssl.must(t, "openssl", "x509", "-pubkey", "-noout",
				"-in", writeFile(t, filepath.Join(dir, "leaf.pem"), encodePEM(leaf))))
			openssl.must(t, "openssl", "dgst", "-sha256", "-verify", public, "-signature", signature, file)
		})
	}
}

// requestCSR puts the token into the body, as npm does.
func (w *world) requestCSR(t testing.TB, csr []byte, token string) []*x509.Certificate {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"credentials":               map[string]any{"oidcIdentityToken": token},
		"certificateSigningRequest": csr,
	})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/pem-certificate-chain")
	got, err := w.send(req)
	if err != nil || got.chain == nil {
		t.Fatalf("no certificate for a signing request: %v, %v", got, err)
	}
	return got.chain
}
