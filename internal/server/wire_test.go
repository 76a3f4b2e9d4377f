package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// setups are the servers that exchanges run against, by directory.
var setups = map[string]options{
	"logged":   {},
	"unlogged": {unlogged: true},
	"limited-identity": {config: func(c *Config) {
		c.Limits.PerIdentity = Rate{Count: 1, Per: 90 * time.Second}
	}},
	"limited-address": {config: func(c *Config) {
		c.Limits.PerAddress = Rate{Count: 1, Per: time.Minute}
	}},
	"notready": {config: func(c *Config) {
		c.Ready = func() map[string]bool { return map[string]bool{"log": false, "signer": true} }
		bare := &Snapshot{Chains: func() [][]string { return nil }}
		c.Snapshot = func() *Snapshot { return bare }
	}},
}

// TestExchanges plays every file under testdata/exchanges. A file is a txtar
// archive of requests, over REST or gRPC, each followed by the response that
// must come. testdata/README.md describes the placeholders.
func TestExchanges(t *testing.T) {
	played := 0
	for setup, o := range setups {
		files, err := filepath.Glob(filepath.Join("testdata", "exchanges", setup, "*.txtar"))
		if err != nil || len(files) == 0 {
			t.Errorf("setup %s: got %d files and error %v, want exchanges", setup, len(files), err)
		}
		for _, file := range files {
			t.Run(setup+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
				archive, err := txtar.ParseFile(file)
				if err != nil {
					t.Fatal(err)
				}
				s := start(t, o)
				v := s.placeholders(t)
				for i := 0; i+1 < len(archive.Files); i += 2 {
					request, response := archive.Files[i], archive.Files[i+1]
					if response.Name != "response" {
						t.Fatalf("section %d: got %q, want a response", i+2, response.Name)
					}
					s.play(t, v, request, string(response.Data))
				}
			})
			played++
		}
	}
	all, err := filepath.Glob(filepath.Join("testdata", "exchanges", "*", "*"))
	if err != nil || len(all) != played {
		t.Errorf("files: got %d played of %d, error %v", played, len(all), err)
	}
}

func (s *stack) placeholders(t testing.TB) map[string]string {
	t.Helper()
	spki := s.spki(t)
	csrDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s.key)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csrDER})
	badCSR := append([]byte(nil), csrDER...)
	badCSR[len(badCSR)-1] ^= 1
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weakDER, err := x509.MarshalPKIXPublicKey(weak.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	b64 := base64.StdEncoding.EncodeToString
	return map[string]string{
		"$KEY_PEM":         keyPEM,
		"$KEY_PEM_B64":     b64([]byte(keyPEM)),
		"$KEY_ONELINE":     "-----BEGIN PUBLIC KEY-----\n" + b64(spki) + "\n-----END PUBLIC KEY-----",
		"$KEY_DER_B64":     b64(spki),
		"$KEY_P224":        string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: weakDER})),
		"$PROOF":           b64(s.sign(t, "alice@corp.example")),
		"$PROOF_URL":       base64.RawURLEncoding.EncodeToString(s.sign(t, "alice@corp.example")),
		"$PROOF_SUB":       b64(s.sign(t, "subject of alice")),
		"$PROOF_OTHER":     b64(s.sign(t, "mallory@corp.example")),
		"$CSR_B64":         b64(csr),
		"$CSR_FORGED_B64":  b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: badCSR})),
		"$INTERMEDIATE":    strings.TrimSpace(s.pki.intermediate),
		"$ROOT":            strings.TrimSpace(s.pki.root),
		"$INTERMEDIATE_LF": s.pki.intermediate,
		"$ROOT_LF":         s.pki.root,
		"$BIG_BODY":        strings.Repeat("A", maxBody),
		"$BIG_KEY":         strings.Repeat("A", maxKey+1),
		"$BIG_B64":         b64(make([]byte, maxKey+1)),
		"$BIG_TOKEN":       strings.Repeat("t", 16<<10+1),
	}
}

var certificatePEM = regexp.MustCompile(`-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----`)

var placeholder = regexp.MustCompile(`\$[A-Z0-9_]+`)

// fill puts the values into the text of a message; in JSON they are escaped.
func fill(t testing.TB, text string, v map[string]string, escape bool) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		value, ok := v[name]
		if !ok {
			t.Fatalf("unknown placeholder %s", name)
		}
		if escape {
			quoted, _ := json.Marshal(value)
			value = string(quoted[1 : len(quoted)-1])
		}
		return value
	})
}

// play sends one request and compares what comes with what is written.
func (s *stack) play(t *testing.T, v map[string]string, request txtar.File, want string) {
	t.Helper()
	head, body, _ := strings.Cut(string(request.Data), "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	header := make(http.Header)
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, fill(t, value, v, false))
	}
	body = fill(t, strings.TrimSpace(body), v, true)
	want = strings.TrimSpace(want)
	switch request.Name {
	case "grpc":
		s.playGRPC(t, v, lines[0], header, body, want)
	case "request":
		for _, http2 := range []bool{false, true} {
			if http2 && strings.Contains(t.Name(), "/limited") {
				continue // a second request would find the limit used up
			}
			s.playREST(t, v, lines[0], header, body, want, http2)
		}
	default:
		t.Fatalf("section %q is neither request nor grpc", request.Name)
	}
}

func (s *stack) playREST(t *testing.T, v map[string]string, line string, header http.Header, body, want string, http2 bool) {
	t.Helper()
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Path, req.Header = path, header
	resp, err := s.client(t, http2).Do(req)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	wantHead, wantBody, _ := strings.Cut(want, "\n\n")
	wantLines := strings.Split(wantHead, "\n")
	if gotCode := fmt.Sprint(resp.StatusCode); gotCode != wantLines[0] {
		t.Errorf("%s (%s) with %.200q: got status %s and %s, want %s", line, resp.Proto, body, gotCode, got, wantLines[0])
	}
	for _, l := range wantLines[1:] {
		name, value, _ := strings.Cut(l, ": ")
		if g := resp.Header.Get(name); g != value {
			t.Errorf("%s: header %s: got %q, want %q", line, name, g, value)
		}
	}
	v["$REQUEST_ID"] = resp.Header.Get("X-Request-Id")
	s.findLeaf(t, v, string(got))
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		equalJSON(t, line, got, fill(t, wantBody, v, true))
	} else if w := fill(t, wantBody, v, false); string(got) != w {
		t.Errorf("%s: body:\n got  %q\n want %q", line, got, w)
	}
}

// messages makes the request and the response of a method.
var messages = map[string][2]proto.Message{
	fulciov2.CA_CreateSigningCertificate_FullMethodName: {&fulciov2.CreateSigningCertificateRequest{}, &fulciov2.SigningCertificate{}},
	fulciov2.CA_GetTrustBundle_FullMethodName:           {&fulciov2.GetTrustBundleRequest{}, &fulciov2.TrustBundle{}},
	fulciov2.CA_GetConfiguration_FullMethodName:         {&fulciov2.GetConfigurationRequest{}, &fulciov2.Configuration{}},
	healthpb.Health_Check_FullMethodName:                {&healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}},
	healthpb.Health_List_FullMethodName:                 {&healthpb.HealthListRequest{}, &healthpb.HealthListResponse{}},
}

func (s *stack) playGRPC(t *testing.T, v map[string]string, method string, header http.Header, body, want string) {
	t.Helper()
	pair, known := messages[method]
	if !known {
		pair = messages[fulciov2.CA_GetTrustBundle_FullMethodName]
	}
	req, resp := pair[0].ProtoReflect().New().Interface(), pair[1].ProtoReflect().New().Interface()
	if body != "" {
		if err := protojson.Unmarshal([]byte(body), req); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	for name, values := range header {
		for _, value := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
		}
	}
	// An answer without a message has its header where the trailer else is.
	var first, last metadata.MD
	err := s.dial(t).Invoke(ctx, method, req, resp, grpc.Header(&first), grpc.Trailer(&last))
	if ids := append(first.Get("x-request-id"), last.Get("x-request-id")...); len(ids) == 1 {
		v["$REQUEST_ID"] = ids[0]
	}
	reply := resp
	if err != nil {
		reply = status.Convert(err).Proto()
	}
	got, merr := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(reply)
	if merr != nil {
		t.Fatal(merr)
	}
	wantCode, wantBody, _ := strings.Cut(want, "\n\n")
	if code := status.Code(err).String(); code != wantCode {
		t.Errorf("%s with %.200q: got %s %s, want %s", method, body, code, got, wantCode)
	}
	s.findLeaf(t, v, string(got))
	equalJSON(t, method, got, fill(t, wantBody, v, true))
}

// findLeaf checks the issued certificate in a response and makes it $LEAF.
func (s *stack) findLeaf(t *testing.T, v map[string]string, body string) {
	t.Helper()
	v["$LEAF"] = "no leaf in the response"
	text := strings.ReplaceAll(body, `\n`, "\n")
	first := certificatePEM.FindString(text)
	if first == "" {
		return
	}
	block, _ := pem.Decode([]byte(first))
	if block == nil {
		t.Fatalf("certificate in %q does not parse", body)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.IsCA {
		return
	}
	v["$LEAF"] = strings.TrimSpace(string(pem.EncodeToMemory(block)))
	if err := leaf.CheckSignatureFrom(s.pki.intermediateX); err != nil {
		t.Errorf("leaf: %v", err)
	}
	if !s.key.PublicKey.Equal(leaf.PublicKey) || len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != "alice@corp.example" {
		t.Errorf("leaf: got %v for key %v, want alice's for the client's", leaf.EmailAddresses, leaf.PublicKey)
	}
}

func equalJSON(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Errorf("%s: got %q, which is no JSON: %v", what, got, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%s: want %q, which is no JSON: %v", what, want, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\n got  %s\n want %s", what, got, want)
	}
}
