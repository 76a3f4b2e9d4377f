package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

func TestDecodeV1(t *testing.T) {
	for _, tc := range []struct {
		body string
		want input
		bad  bool
	}{
		{body: `{}`},
		{body: ` {"publicKey":null,"signedEmailAddress":null,"certificateSigningRequest":null} `},
		{body: `{"publicKey":{"content":"AQI=","algorithm":"ecdsa"},"signedEmailAddress":"AwQ"}`, want: input{publicKey: []byte{1, 2}, proof: []byte{3, 4}}},
		{body: `{"certificateSigningRequest":"-_8="}`, want: input{csr: []byte{0xfb, 0xff}}},
		{body: `{"certificateSigningRequest":"+/8"}`, want: input{csr: []byte{0xfb, 0xff}}},
		{body: `{"PublicKey":{"content":"AQI="}}`}, // names are case-sensitive
		{body: `{"publicKey":{"Content":"AQI="}}`},
		{body: `{"token":"x","credentials":{"oidcIdentityToken":"x"}}`},
		{body: `{"extra":1,"extra":2}`}, // unknown, so of no consequence
		{body: ``, bad: true},
		{body: `null`, bad: true},
		{body: `[]`, bad: true},
		{body: `{"publicKey":"x"}`, bad: true},
		{body: `{"publicKey":{"content":"AQI="}`, bad: true},
		{body: `{"publicKey":{"content":"AQI="}}}`, bad: true},
		{body: `{"publicKey":{"content":"AQI="}} x`, bad: true},
		{body: `{"publicKey":{},"publicKey":{"content":"AQI="}}`, bad: true},
		{body: `{"publicKey":{"content":"AQI=","content":"AwQ="}}`, bad: true},
		{body: `{"publicKey":{"content":"AQI=","\u0063ontent":"AwQ="}}`, bad: true},
		{body: `{"signedEmailAddress":"A?=="}`, bad: true},
		{body: `{"signedEmailAddress":"+_8="}`, bad: true}, // neither alphabet
		{body: `{"signedEmailAddress":1}`, bad: true},
		{body: `{1:2}`, bad: true},
		{body: `{"a" "b"}`, bad: true},
		{body: strings.Repeat("[", maxBody), bad: true},
		{body: `{"x":` + strings.Repeat("[", maxBody-10), bad: true},
	} {
		got, err := decodeV1([]byte(tc.body))
		if (err != nil) != tc.bad || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("decodeV1(%.80q): got %+v and error %v, want %+v and an error: %v", tc.body, got, err, tc.want, tc.bad)
		}
		if err != nil && ca.AsRefusal(err).Reason != ca.ReasonRequestMalformed {
			t.Errorf("decodeV1(%.80q): got reason %s, want request_malformed", tc.body, ca.AsRefusal(err).Reason)
		}
	}
}

// What decodeV1 accepts has one reading: encoding the result and decoding that
// gives the same, and the standard decoder, where it is stricter, agrees.
func FuzzDecodeV1(f *testing.F) {
	f.Add([]byte(`{"publicKey":{"content":"AQI=","algorithm":"ecdsa"},"signedEmailAddress":"AwQ","certificateSigningRequest":null}`))
	f.Add([]byte(`{"certificateSigningRequest":"-_8"}`))
	f.Add([]byte(`{"publicKey":{"content":"A","content":"B"}}`))
	f.Add([]byte(`{"x":[{"publicKey":1}]}{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := decodeV1(body)
		if err != nil {
			if r := ca.AsRefusal(err); r.Reason != ca.ReasonRequestMalformed || r.Kind != ca.KindInvalid {
				t.Errorf("decodeV1(%q): got %v, want a malformed request", body, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Errorf("decodeV1(%q): accepted what is no JSON", body)
		}
		if len(in.csr)+len(in.publicKey)+len(in.proof) > len(body) || in.token != "" {
			t.Errorf("decodeV1(%q): got %+v, which was not in there", body, in)
		}
		b64 := base64.StdEncoding.EncodeToString
		again, err := decodeV1([]byte(`{"publicKey":{"content":"` + b64(in.publicKey) + `"},"signedEmailAddress":"` + b64(in.proof) +
			`","certificateSigningRequest":"` + b64(in.csr) + `"}`))
		if err != nil || !sameInput(in, again) {
			t.Errorf("decodeV1(%q): got %+v, and encoded again %+v and error %v", body, in, again, err)
		}
	})
}

func FuzzDecodeV2(f *testing.F) {
	f.Add([]byte(`{"credentials":{"oidcIdentityToken":"t"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"PEM"},"proofOfPossession":"AwQ="}}`))
	f.Add([]byte(`{"certificateSigningRequest":"-_8"}`))
	f.Add([]byte(`{"certificate_signing_request":"AQI=","extra":{"deep":[null]}}`))
	f.Add([]byte(`{"credentials":null,"publicKeyRequest":{"publicKey":{"algorithm":"NEWER"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := decodeV2(body)
		if err != nil {
			if r := ca.AsRefusal(err); r.Reason != ca.ReasonRequestMalformed || r.Kind != ca.KindInvalid {
				t.Errorf("decodeV2(%q): got %v, want a malformed request", body, err)
			}
			return
		}
		if len(in.csr) > 0 && len(in.publicKey) > 0 {
			t.Errorf("decodeV2(%q): got %+v, with a key and a signing request", body, in)
		}
		req := &fulciov2.CreateSigningCertificateRequest{
			Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: in.token}},
			Key:         &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: in.csr},
		}
		if len(in.csr) == 0 {
			req.Key = &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
				PublicKey: &fulciov2.PublicKey{Content: string(in.publicKey)}, ProofOfPossession: in.proof}}
		}
		encoded, err := protojson.Marshal(req)
		if err != nil {
			t.Fatalf("decodeV2(%q): got %+v, which does not encode: %v", body, in, err)
		}
		if again, err := decodeV2(encoded); err != nil || !sameInput(in, again) {
			t.Errorf("decodeV2(%q): got %+v, and encoded again %+v and error %v", body, in, again, err)
		}
	})
}

func sameInput(a, b input) bool {
	return a.token == b.token && bytes.Equal(a.csr, b.csr) && bytes.Equal(a.publicKey, b.publicKey) && bytes.Equal(a.proof, b.proof)
}
