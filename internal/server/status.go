package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mayfly-ca/mayfly/ca"
)

// answer is how a reason looks to a client.
type answer struct {
	http    int
	code    codes.Code
	message string
	// retry is what Retry-After says when the refusal does not know better;
	// zero means that trying again is pointless.
	retry time.Duration
}

// Fulcio's texts, byte for byte, because people search for them.
const (
	textToken    = "There was an error processing the identity token" //nolint:gosec // no credential
	textProof    = "The signature supplied in the request could not be verified"
	textKey      = "The public key supplied in the request could not be parsed"
	textWeakKey  = "The public key supplied in the request is insecure"
	textCSR      = "The certificate signing request could not be parsed"
	textLog      = "Error entering certificate in CTL"
	textCA       = "error communicating with CA backend"
	textMethod   = "Method Not Allowed"
	textNotFound = "Not Found"
)

// textDenied is ours: Fulcio has no policy.
const textDenied = "The identity is not allowed to have a certificate"

var (
	badToken    = answer{http: http.StatusBadRequest, code: codes.InvalidArgument, message: textToken}
	badProof    = answer{http: http.StatusBadRequest, code: codes.InvalidArgument, message: textProof}
	badKey      = answer{http: http.StatusBadRequest, code: codes.InvalidArgument, message: textKey}
	weakKey     = answer{http: http.StatusBadRequest, code: codes.InvalidArgument, message: textWeakKey}
	badCSR      = answer{http: http.StatusBadRequest, code: codes.InvalidArgument, message: textCSR}
	internal    = answer{http: http.StatusInternalServerError, code: codes.Internal, message: "Internal error"}
	unavailable = answer{http: http.StatusServiceUnavailable, code: codes.Unavailable, retry: 5 * time.Second}
)

func (a answer) saying(message string) answer { a.message = message; return a }

func (a answer) after(retry time.Duration) answer { a.retry = retry; return a }

// answers is the one table from reasons to what the client is told. Where Fulcio
// has a status and a text, they are Fulcio's. The exceptions exist because
// clients try again after 5xx and 429 and never after another 4xx: an outage is
// 503, a limit 429; and policy, which Fulcio does not have, is 403.
//
// A request that ran out of time is 503 too, and not 504: gRPC clients retry
// UNAVAILABLE and rarely DEADLINE_EXCEEDED, proxies write 504 themselves, and
// asking again is safe because every attempt is a certificate of its own.
var answers = map[ca.Reason]answer{
	ca.ReasonRequestMalformed: {http: 400, code: codes.InvalidArgument, message: "The request could not be parsed"},
	ca.ReasonRequestTooLarge:  {http: 413, code: codes.ResourceExhausted, message: "The request is too large"},
	ca.ReasonMethod:           {http: 501, code: codes.Unimplemented, message: textMethod},
	ca.ReasonNotFound:         {http: 404, code: codes.NotFound, message: textNotFound},
	ca.ReasonDeadline:         unavailable.saying("The request could not be completed in time").after(time.Second),
	ca.ReasonRateLimited:      {http: 429, code: codes.ResourceExhausted, message: "Too many requests", retry: time.Second},
	ca.ReasonOverloaded:       unavailable.saying("The service is overloaded").after(time.Second),
	ca.ReasonInternal:         internal,

	ca.ReasonTokenMissing:    badToken,
	ca.ReasonTokenConflict:   badToken,
	ca.ReasonTokenMalformed:  badToken,
	ca.ReasonTokenTooLarge:   badToken,
	ca.ReasonTokenEncrypted:  badToken,
	ca.ReasonTokenType:       badToken,
	ca.ReasonAlgNotAllowed:   badToken,
	ca.ReasonIssuerUnknown:   badToken,
	ca.ReasonKeyUnknown:      badToken,
	ca.ReasonKeyUse:          badToken,
	ca.ReasonKeyAlgMismatch:  badToken,
	ca.ReasonBadSignature:    badToken,
	ca.ReasonClaimChars:      badToken,
	ca.ReasonAudience:        badToken,
	ca.ReasonAudienceExtra:   badToken,
	ca.ReasonAuthorizedParty: badToken,
	ca.ReasonExpMalformed:    badToken,
	ca.ReasonExpired:         badToken,
	ca.ReasonIssuedAt:        badToken,
	ca.ReasonNotBefore:       badToken,
	ca.ReasonLifetime:        badToken,
	ca.ReasonSubject:         badToken,
	ca.ReasonDelegated:       badToken,
	ca.ReasonPopRequired:     badToken,
	ca.ReasonEmailUnverified: badToken,
	ca.ReasonIdpKeysMissing:  unavailable.saying("The keys of the identity provider are not available"),
	ca.ReasonIdpKeysStale:    unavailable.saying("The keys of the identity provider are not available"),
	ca.ReasonKeyIssuer:       badToken,
	ca.ReasonKeyBlocked:      badToken,
	ca.ReasonTokenReused:     badToken,
	ca.ReasonTokenQuota:      {http: 429, code: codes.ResourceExhausted, message: "The identity token was used too often", retry: time.Minute},
	ca.ReasonGuest:           {http: 403, code: codes.PermissionDenied, message: textDenied},
	ca.ReasonGroupsOverage:   {http: 403, code: codes.PermissionDenied, message: textDenied},

	ca.ReasonKeyMissing:     badKey,
	ca.ReasonKeyMalformed:   badKey,
	ca.ReasonKeyUnsupported: weakKey,
	ca.ReasonKeyWeak:        weakKey,
	ca.ReasonKeyNotAllowed:  weakKey.saying("signing algorithm not permitted"),
	ca.ReasonProofInvalid:   badProof,
	ca.ReasonCSRMalformed:   badCSR,
	ca.ReasonCSRAlgorithm:   badCSR.saying("signing algorithm not permitted"),
	ca.ReasonCSRSignature:   badProof,

	ca.ReasonFrozen:        {http: 403, code: codes.PermissionDenied, message: textDenied},
	ca.ReasonPolicy:        {http: 403, code: codes.PermissionDenied, message: textDenied},
	ca.ReasonMFARequired:   {http: 403, code: codes.PermissionDenied, message: "A stronger login is required"},
	ca.ReasonAuthTooOld:    {http: 403, code: codes.PermissionDenied, message: "A more recent login is required"},
	ca.ReasonSANInvalid:    badToken,
	ca.ReasonSANNotAllowed: {http: 403, code: codes.PermissionDenied, message: textDenied},

	ca.ReasonNameNotPermitted: {http: 403, code: codes.PermissionDenied, message: textDenied},
	ca.ReasonAuthority:        {http: 403, code: codes.PermissionDenied, message: textDenied},
	ca.ReasonNoActiveChain:    unavailable.saying(textCA),
	ca.ReasonChainExpiring:    unavailable.saying(textCA),
	ca.ReasonSignerFailed:     unavailable.saying(textCA),
	ca.ReasonLogFailed:        unavailable.saying(textLog),
	ca.ReasonAuditFailed:      unavailable.saying("The service cannot record certificates"),
	ca.ReasonClock:            unavailable.saying("The clock of the service is not to be trusted"),
	ca.ReasonProfileViolation: internal.saying(textCA),
	ca.ReasonSelfTest:         internal,
}

// answerTo returns the row of a refusal. A reason without one is a bug of ours,
// and so is what the client is told.
func answerTo(r *ca.Refusal) answer {
	a, ok := answers[r.Reason]
	if !ok {
		return internal
	}
	if r.RetryAfter > 0 && a.retry > 0 {
		a.retry = r.RetryAfter
	}
	// A delay is told in whole seconds (RFC 9110, Section 10.2.3); rounding down
	// would invite the client to be refused again.
	a.retry = time.Duration(math.Ceil(a.retry.Seconds())) * time.Second
	return a
}

// refusalOf classifies an error for the client. What nobody classified is
// internal, save that running out of time is not a fault of the code.
func refusalOf(err error) *ca.Refusal {
	if _, ok := errors.AsType[*ca.Refusal](err); !ok &&
		(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return &ca.Refusal{Kind: ca.KindUnavailable, Reason: ca.ReasonDeadline, Err: err}
	}
	return ca.AsRefusal(err)
}

// errorDomain is where our reason codes have their meaning.
const errorDomain = "mayfly"

// statusProto is the one body of an error: the text for people, and in details
// the reason code, the request id and when to try again for programs.
func statusProto(a answer, reason ca.Reason, requestID string) *spb.Status {
	details := []proto.Message{
		&errdetails.ErrorInfo{Reason: string(reason), Domain: errorDomain},
		&errdetails.RequestInfo{RequestId: requestID},
	}
	if a.retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(a.retry)})
	}
	s := &spb.Status{Code: int32(a.code), Message: a.message}
	for _, d := range details {
		packed, err := anypb.New(d)
		if err != nil {
			panic("server: details are messages of ours and always marshal: " + err.Error()) //nolint:forbidigo // says which
		}
		s.Details = append(s.Details, packed)
	}
	return s
}

// refuseREST answers with an error in the form that Fulcio's gateway has.
func (c *call) refuseREST(w http.ResponseWriter, err error) {
	a := c.refused(err)
	a.setRetryAfter(w)
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, a.http, statusJSON(a, c.refusal.Reason, c.id))
}

// refuseGRPC answers a gRPC request that never gets to the gRPC library, as
// "Trailers-Only" (gRPC over HTTP/2, Responses).
func (c *call) refuseGRPC(w http.ResponseWriter, err error) {
	a := c.refused(err)
	details, err := proto.Marshal(statusProto(a, c.refusal.Reason, c.id))
	if err != nil {
		panic("server: a status of ours always marshals: " + err.Error()) //nolint:forbidigo // says which
	}
	a.setRetryAfter(w)
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(int(a.code)))
	h.Set("Grpc-Message", a.message) // printable ASCII without %: needs no encoding
	h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(details))
	w.WriteHeader(http.StatusOK)
}

// statusError is the same for a request that the gRPC library answers.
func (c *call) statusError(err error) error {
	a := c.refused(err)
	return status.ErrorProto(statusProto(a, c.refusal.Reason, c.id))
}

// refused notes why a call was refused, for its log line and metrics.
func (c *call) refused(err error) answer {
	c.refusal = refusalOf(err)
	return answerTo(c.refusal)
}

func (a answer) setRetryAfter(w http.ResponseWriter) {
	if a.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(a.retry/time.Second)))
	}
}

// log writes the one line about a call, unless a flood of anonymous ones leaves
// it out. Nothing else in this package logs what became of a request.
func (s *Server) log(c *call, outcome string, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case c.refusal != nil:
		level = levelOf(c.refusal)
	case c.quiet:
		level = slog.LevelDebug
	}
	if !s.cfg.Logger.Enabled(context.Background(), level) {
		return
	}
	var left int64
	anonymous := c.identity.IssuerName == ""
	crowded := c.refusal != nil && c.refusal.Reason == ca.ReasonOverloaded
	if (anonymous || crowded) && level < slog.LevelError {
		var ok bool
		if left, ok = s.anonymous.take(s.cfg.Clock()); !ok {
			return // before anything was made of it
		}
	}
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("id", c.id),
		slog.String("route", c.route),
		slog.String("method", c.method),
		slog.String("outcome", outcome),
		slog.Duration("took", took),
		slog.String("source", addressText(c.source)),
	)
	if c.identity.IssuerName != "" {
		attrs = append(attrs, slog.Attr{Key: "identity", Value: c.identity.LogValue()})
	}
	if c.refusal != nil {
		attrs = append(attrs, slog.String("reason", string(c.refusal.Reason)), slog.String("err", causeOf(c.refusal)))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int64("left_out", left))
	}
	s.cfg.Logger.LogAttrs(context.Background(), level, "request", attrs...)
}

// addressText is empty for who has no address.
func addressText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// maxCause bounds the text of an error in the log: some quote what the client
// sent, and junk must not fill the disk by being told at length.
const maxCause = 2 << 10

func causeOf(r *ca.Refusal) string {
	if r.Err == nil {
		return ""
	}
	cause := r.Err.Error()
	if len(cause) > maxCause {
		cause = strings.ToValidUTF8(cause[:maxCause], "") + "…"
	}
	return cause
}

// levelOf keeps what only the caller can mend out of the operator's warnings.
func levelOf(r *ca.Refusal) slog.Level {
	switch a := answerTo(r); {
	case a.http == http.StatusNotImplemented:
		return slog.LevelInfo
	case a.http >= 500 && r.Reason != ca.ReasonOverloaded:
		return slog.LevelError
	case a.http == http.StatusTooManyRequests || r.Reason == ca.ReasonOverloaded:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// panicked turns a recovered panic into a refusal, and tells the operator where
// it came from. The value may quote a request, so only its type and text up to a
// bound are kept.
func (s *Server) panicked(c *call, value any, stack []byte) error {
	s.metrics.panics.Inc()
	text := fmt.Sprint(value)
	s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "panic while answering a request",
		slog.String("id", c.id), slog.String("route", c.route),
		slog.String("panic", text[:min(len(text), 256)]), slog.String("stack", string(stack)))
	return ca.Refuse(ca.KindInternal, ca.ReasonInternal, "panic: %.256s", text)
}

// reasonLabels are the reasons in a fixed order, so that every series of the
// refusal counter exists before the first refusal.
func reasonLabels() []ca.Reason { return slices.Sorted(maps.Keys(answers)) }
