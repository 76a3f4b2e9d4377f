package stack

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"google.golang.org/protobuf/proto"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// api is a door of the service.
type api string

const (
	apiV2   api = "v2"
	apiV1   api = "v1"
	apiGRPC api = "grpc"
)

// Callers are many people with a key each, so that nothing is measured that is
// quick only the second time. RSA keys take long to make, so there are a few.
const (
	callers    = 64
	rsaCallers = 4
)

// call is a request that is ready to be made any number of times.
type call struct {
	api    api
	header http.Header
	body   []byte
	target *http.Request // of which each request is a copy
}

// calls are requests of as many people, whose keys are of a kind; empty means
// P-256.
func (s *site) calls(a api, kind string) []call {
	s.t.Helper()
	n := callers
	if len(kind) > 3 && kind[:3] == "RSA" {
		n = rsaCallers
	}
	all := make([]call, n)
	for i := range all {
		email := fmt.Sprintf("alice-%d@corp.example", i)
		token := s.token(func(c map[string]any) { c["sub"], c["email"] = fmt.Sprintf("alice-%d", i), email })
		all[i] = s.call(a, kind, token, email)
		all[i].target.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 40000).String()
	}
	return all
}

func (s *site) call(a api, kind, token, message string) call {
	s.t.Helper()
	spki, proof := s.proof(kind, message)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	c := call{api: a, header: http.Header{
		"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "User-Agent": {"bench"}, "Accept-Encoding": {"gzip"},
	}}
	path, err := "/api/v2/signingCert", error(nil)
	switch a {
	case apiV2:
		c.body, err = json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
			"publicKey": map[string]string{"algorithm": "ECDSA", "content": text}, "proofOfPossession": proof,
		}})
	case apiV1:
		path = "/api/v1/signingCert"
		c.body, err = json.Marshal(map[string]any{
			"publicKey": map[string]any{"content": []byte(text), "algorithm": "ecdsa"}, "signedEmailAddress": proof,
		})
	case apiGRPC:
		path = fulciov2.CA_CreateSigningCertificate_FullMethodName
		c.header.Set("Content-Type", "application/grpc")
		c.header.Set("Te", "trailers")
		var message []byte
		message, err = proto.Marshal(&fulciov2.CreateSigningCertificateRequest{
			Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
				PublicKey: &fulciov2.PublicKey{Content: text}, ProofOfPossession: proof,
			}},
		})
		// gRPC over HTTP/2: "Length-Prefixed-Message → Compressed-Flag
		// Message-Length Message".
		c.body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	}
	s.must(err)
	c.target, err = http.NewRequestWithContext(s.t.Context(), http.MethodPost, "https://ca.corp.example"+path, nil)
	s.must(err)
	if a == apiGRPC {
		c.target.Proto, c.target.ProtoMajor, c.target.ProtoMinor = "HTTP/2.0", 2, 0
	}
	return c
}

// proof makes a key of a kind and signs a message with it, as clients do.
func (s *site) proof(kind, message string) (spki, signature []byte) {
	s.t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "Ed25519":
		var private ed25519.PrivateKey
		_, private, err = ed25519.GenerateKey(rand.Reader)
		s.must(err)
		key = private
		signature = ed25519.Sign(private, []byte(message))
	case "P-384":
		key = newSigner(s.t, kind)
		long := sha512.Sum384([]byte(message))
		signature, err = key.Sign(rand.Reader, long[:], crypto.SHA384)
	default:
		key = newSigner(s.t, cmp.Or(kind, "P-256"))
		digest := sha256.Sum256([]byte(message))
		signature, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	s.must(err)
	spki, err = x509.MarshalPKIXPublicKey(key.Public())
	s.must(err)
	return spki, signature
}

// request is a new request as net/http would hand it over.
func (c call) request(ctx context.Context) *http.Request {
	r := c.target.WithContext(ctx)
	r.Header = c.header.Clone()
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
	return r
}

// reply is the least that takes an answer.
type reply struct {
	api    api
	header http.Header
	status int
	body   bytes.Buffer
}

func (c call) reply() *reply { return &reply{api: c.api, header: make(http.Header)} }

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *reply) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

// Flush is for gRPC.
func (r *reply) Flush() {}

// bad says what is wrong with the answer if it is no certificate.
func (r *reply) bad() error {
	want := http.StatusOK
	if r.api == apiV1 {
		want = http.StatusCreated
	}
	code := r.header.Get("Grpc-Status")
	if r.status != want || !bytes.Contains(r.body.Bytes(), []byte("BEGIN CERTIFICATE")) || r.api == apiGRPC && code != "0" {
		return fmt.Errorf("status %d, gRPC %q: %s", r.status, code, r.body.Bytes())
	}
	return nil
}
