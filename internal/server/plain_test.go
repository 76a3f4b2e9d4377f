package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// What the short way accepts, the libraries accept and read the same.
func FuzzPlainV2(f *testing.F) {
	for _, body := range []string{
		`{"credentials":{"oidcIdentityToken":"t"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"-----\nPEM\n"},"proofOfPossession":"AwQ="}}`,
		` {"certificateSigningRequest" : "AQI=" , "credentials":{} } `,
		`{"publicKeyRequest":{"proofOfPossession":"-_8","publicKey":{}},"certificateSigningRequest":""}`,
		`{"publicKeyRequest":{"publicKey":{"content":"a\\nb\u0041","content":"x"}}}`,
		`{"credentials":{"oidcIdentityToken":null},"extra":[1,{}]}{}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { sameReading(t, body, plainV2, decodeAnyV2) })
}

func FuzzPlainV1(f *testing.F) {
	for _, body := range []string{
		`{"publicKey":{"content":"AQI=","algorithm":"ecdsa"},"signedEmailAddress":"AwQ=","certificateSigningRequest":null}`,
		`{"publicKey":null,"signedEmailAddress":null,"certificateSigningRequest":"AQI="}`,
		"\t{\"certificateSigningRequest\":\"+/8=\"\r\n}",
		`{"publicKey":{"content":"A\nQI=","content":""},"publicKey":null}`,
		`{"signedEmailAddress":"====","x":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { sameReading(t, body, plainV1, decodeAnyV1) })
}

func sameReading(t *testing.T, body []byte, short func([]byte) (input, bool), long func([]byte) (input, error)) {
	t.Helper()
	got, ok := short(body)
	if !ok {
		return
	}
	if want, err := long(body); err != nil || !sameInput(got, want) {
		t.Errorf("%q: got %+v the short way, and %+v and error %v from the library", body, got, want, err)
	}
}

// The short way is the one that real clients take, in either version.
func TestClientsAreReadTheShortWay(t *testing.T) {
	v := start(t, options{}).placeholders(t)
	for file, read := range map[string]func([]byte) (input, bool){
		"v1-cosign": plainV1, "v2-sigstore-go": plainV2, "v2-npm": plainV2, "v2-python": plainV2,
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "exchanges", "logged", file+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		sent := false
		for _, section := range txtar.Parse(data).Files {
			head, body, _ := strings.Cut(string(section.Data), "\n\n")
			if sent || section.Name != "request" || !strings.HasPrefix(head, "POST ") {
				continue // the first is the client's own, others are variations
			}
			sent = true
			body = fill(t, body, v, true)
			in, ok := read([]byte(body))
			if !ok || len(in.csr)+len(in.publicKey) == 0 {
				t.Errorf("%s: %s: got %+v and %v, want it read", file, body, in, ok)
			}
		}
		if !sent {
			t.Errorf("%s: no request found", file)
		}
	}
}

// Everything out of the ordinary is left to the libraries.
func TestPlainReadsOnlyThePlain(t *testing.T) {
	for _, body := range []string{
		``, `null`, `[]`, `"x"`, `{`, `{"`, `{"credentials"`, `{"credentials":`, `{"credentials":{}`, `{"credentials":{},}`, `{,}`,
		`{} x`, `{}{}`, `{"credentials":null}`, `{"credentials":{},"credentials":{}}`, `{"unknown":"x"}`, `{"Credentials":{}}`,
		`{"credentials":{"oidcIdentityToken":"a\u0062"}}`, `{"credentials":{"oidcIdentityToken":"a\n"}}`, "{\"credentials\":{\"oidcIdentityToken\":\"caf\u00e9\"}}",
		"{\"credentials\":{\"oidcIdentityToken\":\"\x00\"}}", `{"credentials":{"oidcIdentityToken":"\`,
		`{"certificateSigningRequest":"AQ"}`, `{"certificateSigningRequest":"AQ\n=="}`, `{"certificateSigningRequest":"-_8="}`,
		`{"certificateSigningRequest":"AQ==","publicKeyRequest":{}}`, `{"certificate_signing_request":"AQ=="}`, `{"\n":{}}`,
	} {
		if in, ok := plainV2([]byte(body)); ok {
			t.Errorf("plainV2(%q): got %+v, want it left alone", body, in)
		}
	}
}
