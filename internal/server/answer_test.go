package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/ca"
)

// What is written by hand is what protojson writes, whatever the text.
func FuzzCertificateJSON(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n", "root\n", uint8(2), true)
	f.Add("one\r\ntwo\t\"quoted\" \\ <&>", "caf\u00e9\u2028\x7f\x00", uint8(3), false)
	f.Add("", "", uint8(0), true)
	f.Fuzz(func(t *testing.T, first, other string, n uint8, embedded bool) {
		pems := make([]string, n%5)
		for i := range pems {
			pems[i] = strings.ToValidUTF8(other, "?")
		}
		if len(pems) > 0 {
			pems[0] = strings.ToValidUTF8(first, "?")
		}
		got, want := certificateJSON(pems, embedded), marshalJSON(signingCertificate(pems, embedded))
		if !bytes.Equal(got, want) {
			t.Errorf("certificateJSON(%q, %v):\n got  %s\n want %s", pems, embedded, got, want)
		}
	})
}

func FuzzStatusJSON(f *testing.F) {
	f.Add("Too many requests", "rate_limited", "6f1c", uint32(8), int64(time.Minute))
	f.Add("half a second", "x", "y", uint32(1), int64(time.Second/2))
	f.Add("100% \"wrong\" <&>\n", "caf\u00e9", "\\", uint32(0), int64(-1))
	f.Add("", "", "", uint32(3), int64(0))
	f.Fuzz(func(t *testing.T, message, reason, id string, code uint32, retry int64) {
		a := answer{code: codes.Code(code), message: strings.ToValidUTF8(message, "?"), retry: time.Duration(retry)}
		r, id := ca.Reason(strings.ToValidUTF8(reason, "?")), strings.ToValidUTF8(id, "?")
		got, want := statusJSON(a, r, id), marshalStatus(a, r, id)
		if !bytes.Equal(got, want) {
			t.Errorf("statusJSON(%+v, %q, %q):\n got  %s\n want %s", a, r, id, got, want)
		}
	})
}

// The texts that the table has take the short way, of which a flood depends.
func TestEveryAnswerIsPlain(t *testing.T) {
	for reason, a := range answers {
		if _, plain := appendText(nil, string(reason)+a.message); !plain || a.message == "" || a.code == codes.OK {
			t.Errorf("%s: %+v needs escapes or has nothing to say", reason, a)
		}
	}
}

// A length that is said keeps net/http from sending an answer in chunks.
func TestAnswersSayTheirLength(t *testing.T) {
	s := start(t, options{})
	bodies := s.bodies(t)
	for path, body := range bodies {
		for _, token := range []string{"alice", "verify:expired"} {
			resp, got := s.post(t, path, token, body)
			if resp.ContentLength != int64(len(got)) || len(got) == 0 {
				t.Errorf("%s with %s: got Content-Length %d for %d bytes, status %d", path, token, resp.ContentLength, len(got), resp.StatusCode)
			}
		}
	}
}

// A body that says that it is too large is not read: the answer comes before the
// body does, and the connection ends, lest the body be taken for a request.
func TestOversizedBodyIsNotRead(t *testing.T) {
	s := start(t, options{})
	for _, http2 := range []bool{false, true} {
		body := &unread{}
		req, err := http.NewRequest(http.MethodPost, "https://"+s.address+"/api/v2/signingCert", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = maxBody + 1
		req.Header = http.Header{"Authorization": {"Bearer alice"}, "Expect": {"100-continue"}}
		client := s.client(t, http2)
		client.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
		resp, got := s.do(t, client, req)
		if resp.StatusCode != http.StatusRequestEntityTooLarge || body.reads != 0 {
			t.Errorf("%s: got %d %s after %d reads, want 413 after none", resp.Proto, resp.StatusCode, got, body.reads)
		}
		if resp.Close == http2 {
			t.Errorf("%s: got Connection: close %v, want it in HTTP/1.1 alone", resp.Proto, resp.Close)
		}
	}
}

// unread is a body that counts how often it is read.
type unread struct{ reads int }

func (u *unread) Read(p []byte) (int, error) {
	u.reads++
	return len(p), nil
}
