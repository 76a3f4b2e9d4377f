package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// documented is a row of the table in docs/api.md.
type documented struct {
	http    int
	code    string
	message string
	retry   string
}

var documentedRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d{3}) \\| ([A-Z_]+) \\| (.+?) \\| (?:(\\d+) s)? ?\\| (.+) \\|$")

func documentedReasons(t *testing.T) map[ca.Reason]documented {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[ca.Reason]documented)
	for _, m := range documentedRow.FindAllStringSubmatch(string(text), -1) {
		code, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := rows[ca.Reason(m[1])]; twice {
			t.Errorf("docs/api.md: %s is there twice", m[1])
		}
		rows[ca.Reason(m[1])] = documented{http: code, code: m[3], message: m[4], retry: m[5]}
	}
	return rows
}

// declaredReasons reads the constants from the source of package ca, so that a
// new one cannot be forgotten here.
func declaredReasons(t *testing.T) []ca.Reason {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "ca", "refusal.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []ca.Reason
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		reasons = append(reasons, ca.Reason(text))
		return true
	})
	slices.Sort(reasons)
	return reasons
}

func TestEveryReasonHasAnAnswerAndDocumentation(t *testing.T) {
	declared := declaredReasons(t)
	if len(declared) < 40 {
		t.Fatalf("reasons in package ca: got %d, want all of them", len(declared))
	}
	if got := reasonLabels(); !slices.Equal(got, declared) {
		t.Errorf("reasons in status.go:\n got  %q\n want %q", got, declared)
	}
	if got := slices.Sorted(maps.Keys(documentedReasons(t))); !slices.Equal(got, declared) {
		t.Errorf("reasons in docs/api.md:\n got  %q\n want %q", got, declared)
	}
}

// reply is what a client sees of a refusal, on either transport.
type reply struct {
	http               int
	code               int
	message            string
	reason, domain     string
	id                 string
	retry              string // RetryInfo
	retryAfter, headID string
	raw                string
}

func (s *stack) refusedREST(t *testing.T, path, bearer string) reply {
	t.Helper()
	spki := s.spki(t)
	b64 := base64.StdEncoding.EncodeToString
	body := fmt.Sprintf(`{"publicKey":{"content":%q},"signedEmailAddress":%q}`, b64(spki), b64(s.sign(t, "alice@corp.example")))
	if strings.Contains(path, "v2") {
		body = fmt.Sprintf(`{"publicKeyRequest":{"publicKey":{"content":%q},"proofOfPossession":%q}}`,
			"-----BEGIN PUBLIC KEY-----\n"+b64(spki)+"\n-----END PUBLIC KEY-----", b64(s.sign(t, "alice@corp.example")))
	}
	resp, got := s.post(t, path, bearer, body)
	var parsed struct {
		Code    int
		Message string
		Details []map[string]any
	}
	if err := json.Unmarshal(got, &parsed); err != nil {
		t.Fatalf("%s with token %q: got %q: %v", path, bearer, got, err)
	}
	r := reply{http: resp.StatusCode, code: parsed.Code, message: parsed.Message, raw: string(got),
		retryAfter: resp.Header.Get("Retry-After"), headID: resp.Header.Get("X-Request-Id")}
	for _, d := range parsed.Details {
		switch d["@type"] {
		case "type.googleapis.com/google.rpc.ErrorInfo":
			r.reason, r.domain = d["reason"].(string), d["domain"].(string)
		case "type.googleapis.com/google.rpc.RequestInfo":
			r.id = d["requestId"].(string)
		case "type.googleapis.com/google.rpc.RetryInfo":
			r.retry = strings.TrimSuffix(d["retryDelay"].(string), "s")
		}
	}
	return r
}

func (s *stack) refusedGRPC(t *testing.T, bearer string) reply {
	t.Helper()
	return s.refusedGRPCNamed(t, bearer, "from-grpc")
}

func (s *stack) refusedGRPCNamed(t *testing.T, bearer, id string) reply {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+bearer, "x-request-id", id)
	_, err := fulciov2.NewCAClient(s.dial(t)).CreateSigningCertificate(ctx, s.request(t))
	st := status.Convert(err)
	r := reply{code: int(st.Code()), message: st.Message(), raw: fmt.Sprint(st.Proto()), headID: id}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			r.reason, r.domain = d.Reason, d.Domain
		case *errdetails.RequestInfo:
			r.id = d.RequestId
		case *errdetails.RetryInfo:
			r.retry = strconv.Itoa(int(d.RetryDelay.AsDuration().Seconds()))
		}
	}
	return r
}

// Every reason is answered as docs/api.md says, the same through every door,
// whether it comes from the token or from issuance, and tells nothing else.
func TestEveryReasonIsAnsweredAsDocumented(t *testing.T) {
	s := start(t, options{})
	for reason, want := range documentedReasons(t) {
		var wantCode codes.Code
		if err := wantCode.UnmarshalJSON([]byte(strconv.Quote(want.code))); err != nil {
			t.Fatal(err)
		}
		for _, stage := range []string{"verify", "issue"} {
			bearer := stage + ":" + string(reason)
			s.taken()
			for door, got := range map[string]reply{
				"v1":   s.refusedREST(t, "/api/v1/signingCert", bearer),
				"v2":   s.refusedREST(t, "/api/v2/signingCert", bearer),
				"grpc": s.refusedGRPC(t, bearer),
			} {
				expect := reply{http: want.http, code: int(wantCode), message: want.message, reason: string(reason), domain: "mayfly",
					id: got.headID, headID: got.headID, retry: want.retry, retryAfter: want.retry, raw: got.raw}
				if door == "grpc" {
					expect.http, expect.retryAfter = 0, ""
				}
				if got != expect || got.id == "" {
					t.Errorf("%s refused with %s through %s:\n got  %+v\n want %+v", stage, reason, door, got, expect)
				}
				if strings.Contains(got.raw, "10.1.2.3") || strings.Contains(got.raw, "svc-mayfly") {
					t.Errorf("%s refused with %s through %s: got %s, which leaks the backend", stage, reason, door, got.raw)
				}
			}
			// The journal has what Issue refused; the rest is counted.
			if got := s.taken(); stage == "verify" && !slices.Equal(got, []ca.Reason{reason, reason, reason}) || stage == "issue" && len(got) != 0 {
				t.Errorf("refusals counted when %s refused: got %q", bearer, got)
			}
		}
	}
	// The operator learns what the client did not, and nobody a token.
	if text := s.log.String(); !strings.Contains(text, secret) {
		t.Errorf("log: no line has the cause %q", secret)
	} else if strings.Contains(text, "verify:policy") {
		t.Errorf("log: a line has the token")
	}
}

func TestUnknownReasonIsInternal(t *testing.T) {
	s := start(t, options{})
	got := s.refusedREST(t, "/api/v2/signingCert", "issue:no_such_reason")
	if got.http != http.StatusInternalServerError || got.code != 13 || got.message != "Internal error" {
		t.Errorf("unknown reason: got %+v, want 500 and code 13", got)
	}
}

func TestErrorsBecomeRefusals(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want ca.Reason
	}{
		{errors.New("whatever"), ca.ReasonInternal},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), ca.ReasonDeadline},
		{fmt.Errorf("asking: %w", context.Canceled), ca.ReasonDeadline},
		{fmt.Errorf("asking: %w", ca.Refuse(ca.KindUnavailable, ca.ReasonLogFailed, "%w", context.DeadlineExceeded)), ca.ReasonLogFailed},
	} {
		if got := refusalOf(tc.err).Reason; got != tc.want {
			t.Errorf("refusalOf(%v): got %s, want %s", tc.err, got, tc.want)
		}
	}
}

func TestRetryAfterIsRoundedUpAndOnlyWhereRetryingHelps(t *testing.T) {
	for _, tc := range []struct {
		reason ca.Reason
		given  time.Duration
		want   time.Duration
	}{
		{ca.ReasonRateLimited, 0, time.Second},
		{ca.ReasonRateLimited, 1100 * time.Millisecond, 2 * time.Second},
		{ca.ReasonRateLimited, time.Millisecond, time.Second},
		{ca.ReasonLogFailed, 0, 5 * time.Second},
		{ca.ReasonLogFailed, time.Minute, time.Minute},
		{ca.ReasonPolicy, time.Minute, 0},
	} {
		if got := answerTo(&ca.Refusal{Reason: tc.reason, RetryAfter: tc.given}).retry; got != tc.want {
			t.Errorf("%s after %s: got %s, want %s", tc.reason, tc.given, got, tc.want)
		}
	}
}
