package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// writeJSON sends compact JSON. Its length is said beforehand, without which
// net/http would cut the answer into chunks, each with a write of its own.
func writeJSON(w http.ResponseWriter, code int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	writeBody(w, code, body)
}

func writeBody(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) //nolint:gosec // JSON or PEM, told to be taken for nothing else; nobody is left to tell of an error
}

// marshalJSON writes unset fields out, as Fulcio's gateway does.
func marshalJSON(m proto.Message) []byte {
	body, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		panic("server: PEM and configured strings are UTF-8: " + err.Error()) //nolint:forbidigo // says which
	}
	return compact(body)
}

// compact takes the spacing out that protojson varies on purpose: equal answers
// have equal bytes and thereby equal entity tags.
func compact(body []byte) []byte {
	out, err := json.Marshal(json.RawMessage(body))
	if err != nil {
		panic("server: not JSON: " + err.Error()) //nolint:forbidigo // its callers marshalled it
	}
	return out
}

// signingCertificate has the embedded form, or the detached one without an SCT
// when logging is off, as clients know it from CAs that do not log.
func signingCertificate(pems []string, embedded bool) *fulciov2.SigningCertificate {
	chain := &fulciov2.CertificateChain{Certificates: trimmed(pems)}
	if embedded {
		return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateEmbeddedSct{
			SignedCertificateEmbeddedSct: &fulciov2.SigningCertificateEmbeddedSCT{Chain: chain}}}
	}
	return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateDetachedSct{
		SignedCertificateDetachedSct: &fulciov2.SigningCertificateDetachedSCT{Chain: chain}}}
}

// The parts of the answer around the certificates, in both forms.
const (
	embeddedHead = `{"signedCertificateEmbeddedSct":{"chain":{"certificates":["`
	embeddedTail = `"]}}}`
	detachedHead = `{"signedCertificateDetachedSct":{"chain":{"certificates":["`
	detachedTail = `"]},"signedCertificateTimestamp":""}}`
)

// certificateJSON is what marshalJSON makes of signingCertificate, byte for byte,
// at a tenth of its cost: every issuance ends here. Text that is not as plain as
// PEM is goes the long way.
func certificateJSON(pems []string, embedded bool) []byte {
	head, tail := detachedHead, detachedTail
	if embedded {
		head, tail = embeddedHead, embeddedTail
	}
	size := len(head) + len(tail)
	for _, p := range pems {
		size += len(p) + strings.Count(p, "\n") + len(`","`)
	}
	out := append(make([]byte, 0, size), head...)
	plain := len(pems) > 0
	for i, p := range pems {
		if i > 0 {
			out = append(out, `","`...)
		}
		var ok bool
		out, ok = appendText(out, strings.TrimSpace(p))
		plain = plain && ok
	}
	if !plain {
		return marshalJSON(signingCertificate(pems, embedded))
	}
	return append(out, tail...)
}

// appendText appends the inside of a JSON string of printable ASCII and newlines,
// and tells when the text has anything else that JSON or HTML would escape.
func appendText(out []byte, text string) (_ []byte, plain bool) {
	for {
		line, rest, more := strings.Cut(text, "\n")
		for _, b := range []byte(line) {
			if b < ' ' || b > '~' || b == '"' || b == '\\' || b == '<' || b == '>' || b == '&' {
				return out, false
			}
		}
		out = append(out, line...)
		if !more {
			return out, true
		}
		out, text = append(out, '\\', 'n'), rest
	}
}

// chainPEM is the answer of version 1.
func chainPEM(pems []string) []byte { return []byte(strings.Join(trimmed(pems), "\n")) }

// trimmed is PEM as signingCert has it, without final newlines.
func trimmed(pems []string) []string {
	out := make([]string, len(pems))
	for i, p := range pems {
		out[i] = strings.TrimSpace(p)
	}
	return out
}

// lines is PEM as trustBundle and rootCert have it, each with a final newline.
func lines(pems []string) []string {
	out := trimmed(pems)
	for i := range out {
		out[i] += "\n"
	}
	return out
}

// statusJSON is marshalStatus, byte for byte, at a tenth of its cost: a flood of
// junk is answered from here. What protojson would leave out or escape goes the
// long way.
func statusJSON(a answer, reason ca.Reason, requestID string) []byte {
	out := append(make([]byte, 0, 384), `{"code":`...)
	out = strconv.AppendInt(out, int64(a.code), 10)
	out = append(out, `,"message":"`...)
	out, plain := appendText(out, a.message)
	out = append(out, `","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"`...)
	out, plainReason := appendText(out, string(reason))
	out = append(out, `","domain":"`+errorDomain+`"},{"@type":"type.googleapis.com/google.rpc.RequestInfo","requestId":"`...)
	out, plainID := appendText(out, requestID)
	out = append(out, `"}`...)
	if !plain || !plainReason || !plainID || reason == "" || requestID == "" || a.message == "" || a.code == 0 || a.retry%time.Second != 0 {
		return marshalStatus(a, reason, requestID)
	}
	if a.retry > 0 {
		out = append(out, `,{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"`...)
		out = append(strconv.AppendInt(out, int64(a.retry/time.Second), 10), `s"}`...)
	}
	return append(out, `]}`...)
}

// marshalStatus is the body of an error over REST.
func marshalStatus(a answer, reason ca.Reason, requestID string) []byte {
	body, err := protojson.Marshal(statusProto(a, reason, requestID))
	if err != nil {
		panic("server: a status of ours always marshals: " + err.Error()) //nolint:forbidigo // says which
	}
	return compact(body)
}
