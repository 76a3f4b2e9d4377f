package load_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/compare/internal/load"
)

// authority answers with certificates that tests can spoil.
type authority struct {
	*httptest.Server
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	dials atomic.Int64

	// spoil changes a certificate before it is signed, by whom and for what key.
	spoil func(*x509.Certificate)
	key2  crypto.PublicKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), spoil: func(*x509.Certificate) {}}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(t, w, r) }))
	a.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			a.dials.Add(1)
		}
	}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) serve(t *testing.T, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Errorf("reading a request: %v", err)
		return
	}
	var request struct {
		PublicKeyRequest struct {
			PublicKey struct{ Content string }
		}
		PublicKey struct{ Content []byte }
	}
	if err := json.Unmarshal(body, &request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	text := []byte(request.PublicKeyRequest.PublicKey.Content)
	if r.URL.Path == "/api/v1/signingCert" {
		text = request.PublicKey.Content
	}
	block, _ := pem.Decode(text)
	if block == nil {
		http.Error(w, "no key", http.StatusBadRequest)
		return
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Errorf("reading a key: %v", err)
		return
	}
	leaf := string(a.leaf(t, r.Header.Get("Authorization"), public))
	if r.URL.Path == "/api/v1/signingCert" {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, leaf)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": []string{leaf}}}})
}

// leaf is for the person whose name is the token.
func (a *authority) leaf(t *testing.T, authorization string, public crypto.PublicKey) []byte {
	email, _ := strings.CutPrefix(authorization, "Bearer ")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute), EmailAddresses: []string{email},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: []byte{4, 0}}},
	}
	a.spoil(template)
	if a.key2 != nil {
		public = a.key2
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Errorf("making a certificate: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a *authority) rest(sct bool) *load.REST {
	return &load.REST{Address: a.Listener.Addr().String(), Expected: load.Expected{Issuing: a.cert, SCT: sct}}
}

func applicants(t *testing.T, kind load.Kind, n int) []load.Applicant {
	t.Helper()
	all := make([]load.Applicant, n)
	for i := range all {
		key, err := kind.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		email := fmt.Sprintf("person%d@corp.example", i)
		if all[i], err = load.NewApplicant(email, email, key); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestRESTKeepsItsConnectionOrDoesNot(t *testing.T) {
	const requests = 200
	for _, test := range []struct {
		name   string
		fresh  bool
		layOut func(*load.REST, []load.Applicant) error
		dials  int64
	}{
		{"v2, kept", false, (*load.REST).V2, 1},
		{"v1, kept", false, (*load.REST).V1, 1},
		{"v2, one each", true, (*load.REST).V2, requests},
	} {
		a := newAuthority(t)
		rest := a.rest(true)
		rest.Fresh = test.fresh
		if err := test.layOut(rest, applicants(t, load.P256, 3)); err != nil {
			t.Fatal(err)
		}
		got := mustRun(t, load.Open{Rate: 1000, Duration: requests * time.Millisecond, Clients: 1, Timeout: 10 * time.Second}.Run, rest.Dial)
		if got.Good != requests || got.Error != nil {
			t.Errorf("%s: %d of %d were good: %v", test.name, got.Good, requests, got.Error)
		}
		if n := a.dials.Load(); n != test.dials {
			t.Errorf("%s: %d connections for %d requests, want %d", test.name, n, requests, test.dials)
		}
	}
}

// TestAnswersAreChecked spoils what is issued in every way that a server under
// load might. Number 0 is one of those that are parsed.
func TestAnswersAreChecked(t *testing.T) {
	for _, test := range []struct {
		name, want string
		sct        bool
		change     func(*authority)
	}{
		{"nothing", "", true, func(*authority) {}},
		{"another name", "mallory", true, func(a *authority) {
			a.spoil = func(c *x509.Certificate) { c.EmailAddresses = []string{"mallory@corp.example"} }
		}},
		{"another key", "another key", true, func(a *authority) { a.key2 = a.key.Public() }},
		{"another CA", "not the CA's", true, func(a *authority) {
			other := newAuthority(t)
			a.cert, a.key = other.cert, other.key
		}},
		{"no SCT", "SCT", true, func(a *authority) { a.spoil = func(c *x509.Certificate) { c.ExtraExtensions = nil } }},
		{"an SCT too many", "SCT", false, func(*authority) {}},
	} {
		a := newAuthority(t)
		rest := a.rest(test.sct)
		test.change(a)
		if err := rest.V2(applicants(t, load.P256, 1)); err != nil {
			t.Fatal(err)
		}
		client := rest.Dial(0)
		err := client.Call(t.Context(), 0)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.want)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusalsFailAndJunkIsToBeRefused(t *testing.T) {
	a := newAuthority(t)
	bad := bytes.Repeat([]byte("x"), 100)
	honest := a.rest(true)
	if err := honest.V2(applicants(t, load.P256, 1)); err != nil {
		t.Fatal(err)
	}
	good := honest.Raw("/api/v2/signingCert", "person0@corp.example", []byte(`{"publicKeyRequest":{"publicKey":{"content":`+jsonText(t, applicants(t, load.P256, 1)[0].PEM)+`}}}`))
	honest.Send([][]byte{honest.Raw("/api/v2/signingCert", "t", bad)})
	if err := honest.Dial(0).Call(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "status 400") {
		t.Errorf("a refusal of an honest request: %v, want an error with its status", err)
	}
	junk := &load.REST{Address: honest.Address, Junk: true, Source: load.SourceIn(2)}
	junk.Send([][]byte{junk.Raw("/api/v2/signingCert", "t", bad), good})
	client := junk.Dial(0)
	if err := client.Call(t.Context(), 0); err != nil {
		t.Errorf("junk that is refused: %v, want no error", err)
	}
	if err := client.Call(t.Context(), 1); err == nil {
		t.Error("junk that gets a certificate is no error")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func jsonText(t *testing.T, s string) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestApplicantsProveTheirKeys(t *testing.T) {
	for _, kind := range []load.Kind{load.P256, load.RSA2048, load.Ed25519} {
		a := applicants(t, kind, 1)[0]
		csr := &x509.Certificate{PublicKey: a.Public}
		algorithm := map[load.Kind]x509.SignatureAlgorithm{
			load.P256: x509.ECDSAWithSHA256, load.RSA2048: x509.SHA256WithRSA, load.Ed25519: x509.PureEd25519,
		}[kind]
		if err := csr.CheckSignature(algorithm, []byte(a.Email), a.Proof); err != nil {
			t.Errorf("%s: the proof over %s does not verify: %v", kind, a.Email, err)
		}
	}
	if _, err := load.Kind("P-224").NewKeys(); err == nil {
		t.Error("a kind that is not compared makes keys")
	}
}
