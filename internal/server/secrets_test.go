package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A client that puts its token into the wrong place of a request is refused, and
// must not find its token in our log: error texts of decoders quote what they
// do not understand.
func TestMisplacedTokenIsNotLogged(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
	s := start(t, options{})
	for _, body := range []string{
		`{"credentials": "%s"}`,
		`{"credentials": {"oidcIdentityToken": %s}}`,
		`{"credentials": {"oidcIdentityToken": ["%s"]}}`,
		`{"credentials": {"oidcIdentityToken": {"%s": 1}}}`,
		`{"publicKeyRequest": {"proofOfPossession": "%s"}}`,
		`{"publicKeyRequest": {"publicKey": "%s"}}`,
		`{"publicKeyRequest": ["%s"]}`,
		`{"certificateSigningRequest": "%s"}`,
		`{"%[1]s": 1, "%[1]s": 2}`,
		`{"publicKey": "%s"}`,
		`{"publicKey": {"content": "%s"}}`,
		`{"signedEmailAddress": "%s"}`,
		`"%s"`,
		`%s`,
		`{"a": 1} %s`,
		`{"a": 1 "%s"}`,
		`{"a" "%s"}`,
		`["%s"]`,
		`Bearer %s`,
	} {
		for _, path := range []string{"/api/v1/signingCert", "/api/v2/signingCert"} {
			if resp, got := s.post(t, path, "", fmt.Sprintf(body, token)); resp.StatusCode != http.StatusBadRequest || strings.Contains(string(got), token[:12]) {
				t.Errorf("%s with body %s: got %d %s, want 400 without the token", path, body, resp.StatusCode, got)
			}
		}
	}
	s.get(t, "/"+token)
	s.get(t, "/readyz?token="+token)
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, token[:12]) {
			t.Errorf("the token is in the log: %s", line)
		}
	}
}

// Whatever a client sends, its line in the log has a bounded length.
func TestLogLinesAreBounded(t *testing.T) {
	s := start(t, options{})
	long := strings.Repeat("x", 60<<10)
	s.get(t, "/"+long)
	s.post(t, "/api/v2/signingCert", "alice", `{"publicKeyRequest": "`+long+`"}`)
	err := s.dial(t).Invoke(t.Context(), "/"+long+"/"+long[:10], new(emptypb.Empty), new(emptypb.Empty))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: got %.200v, want Unimplemented", err)
	}
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(s.log.String()) {
		if len(line) > 4<<10 {
			t.Errorf("line of %d bytes: %.200s", len(line), line)
		}
	}
}

// A flood of junk leaves a bounded log; what was left out is told once it is
// over, and requests of verified identities are always there.
func TestFloodOfJunkLeavesABoundedLog(t *testing.T) {
	s := start(t, options{})
	handler := s.Handler()
	junk := func() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/junk", nil))
	}
	const flood = anonymousBurst + 500
	for range flood {
		junk()
	}
	if got := strings.Count(s.log.String(), `"route":"other"`); got != anonymousBurst {
		t.Errorf("%d lines about %d junk requests, want %d", got, flood, anonymousBurst)
	}
	if resp, body := s.post(t, "/api/v2/signingCert", "alice", s.body(t)); resp.StatusCode != http.StatusOK {
		t.Errorf("during the flood: %d %s", resp.StatusCode, body)
	}
	s.post(t, "/api/v2/signingCert", "issue:policy", s.body(t))
	s.clock.advance(time.Second)
	junk()
	if err := s.wait(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"issuer":"corp","subject":"subject of alice"`, `"reason":"policy"`, `"left_out":500`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has no line with %s", want)
		}
	}
}
