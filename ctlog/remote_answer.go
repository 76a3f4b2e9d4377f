package ctlog

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	ct "github.com/google/certificate-transparency-go"
)

// parseAnswer decodes the answer to add-pre-chain (RFC 6962, Section 4.1). Every
// error wraps [ErrBadSCT].
func parseAnswer(body []byte) (SCT, error) {
	var answer ct.AddChainResponse
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&answer); err != nil {
		return SCT{}, badSCT(reasonMalformed, "decoding answer: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return SCT{}, badSCT(reasonMalformed, "decoding answer: data after the object")
	}
	if answer.SCTVersion != ct.V1 {
		return SCT{}, badSCT(reasonVersion, "SCT version %d, want 0 (v1)", answer.SCTVersion)
	}
	sct := SCT{Signature: answer.Signature}
	if len(answer.ID) != len(sct.LogID) {
		return SCT{}, badSCT(reasonLogID, "log id of %d bytes, want %d", len(answer.ID), len(sct.LogID))
	}
	copy(sct.LogID[:], answer.ID)
	var err error
	if sct.Timestamp, err = timestamp(answer.Timestamp); err != nil {
		return SCT{}, badSCT(reasonTimestamp, "%w", err)
	}
	if sct.Extensions, err = base64.StdEncoding.DecodeString(answer.Extensions); err != nil {
		return SCT{}, badSCT(reasonMalformed, "decoding extensions: %w", err)
	}
	if len(sct.Extensions) > 1<<16-1 {
		return SCT{}, badSCT(reasonExtensions, "extensions of %d bytes", len(sct.Extensions))
	}
	if sct.Index, err = leafIndex(sct.Extensions); err != nil {
		return SCT{}, badSCT(reasonExtensions, "%w", err)
	}
	return sct, nil
}

// statusError says what an answer other than 200 means. 400, 413 and 422 are
// about this submission; the other 4xx (a wrong path, missing credentials) are
// about the log's configuration or ours, and nobody's submission would pass.
func statusError(status int, header http.Header, body []byte, now time.Time) error {
	err := func(kind error) error {
		text := body[:min(len(body), maxErrorText)]
		return fmt.Errorf("%w: HTTP %d: %q", kind, status, text)
	}
	switch code := status; {
	case code == http.StatusTooManyRequests:
		return &attemptError{err: err(ErrOverloaded), retryAfter: retryAfter(header, now)}
	case code == http.StatusRequestTimeout, code >= 500:
		return &attemptError{err: err(ErrUnavailable), retryAfter: retryAfter(header, now)}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge,
		code == http.StatusUnprocessableEntity:
		return err(ErrRejected)
	default:
		return err(ErrUnavailable)
	}
}

// retryAfter reads the header in either form (RFC 9110, Section 10.2.3). The
// caller waits only if the wait fits into its deadline, so an absurd value costs
// the second attempt and nothing more.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
