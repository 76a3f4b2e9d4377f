package rfc6962

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/mayfly-ca/mayfly/ctlog"
)

var (
	// errRepeated is no error to the client: it got the SCT of before.
	errRepeated = errors.New("submitted before")
	errPanicked = fmt.Errorf("%w: the submission was broken off", ctlog.ErrUnavailable)
	errLate     = fmt.Errorf("%w: the log took too long", ctlog.ErrUnavailable)
)

// failure is what a client is told. Its text names what is wrong with the
// submission, never what is wrong with the log.
type failure struct {
	status     int
	text       string
	result     string
	allow      string
	retryAfter time.Duration // 0 is none
	hangUp     bool
}

func (f *failure) Error() string { return f.text }

func rejected(err error) *failure {
	return &failure{status: http.StatusBadRequest, text: shown(err.Error()), result: resultRejected}
}

// failureOf is the one table from an error to an answer. 429 says that it is the
// load, which does not count against the log; 503 that it is the log.
func failureOf(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	switch {
	case errors.Is(err, errWriting):
		return &failure{result: resultGone}
	case errors.Is(err, ctlog.ErrRejected):
		return rejected(fmt.Errorf("failed to verify add-chain contents: %w", err))
	case errors.Is(err, ctlog.ErrOverloaded):
		return &failure{status: http.StatusTooManyRequests, text: "the log has no room now", result: resultOverloaded, retryAfter: time.Second}
	case errors.Is(err, ctlog.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return &failure{status: http.StatusServiceUnavailable, text: "the log takes no submissions now", result: resultUnavailable, retryAfter: 5 * time.Second}
	}
	return &failure{status: http.StatusInternalServerError, text: "internal error", result: resultUnavailable}
}

// write answers as CTFE does: the status in words, and what it is about.
func (f *failure) write(w http.ResponseWriter) {
	if f.status == 0 {
		return // nobody is there
	}
	header := w.Header()
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(f.retryAfter.Seconds())), 10))
	}
	if f.allow != "" {
		header.Set("Allow", f.allow)
	}
	if f.hangUp {
		header.Set("Connection", "close")
	}
	header.Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(f.status)+"\n"+f.text, f.status)
}

// readChain reads the body, within its bound.
func readChain(w http.ResponseWriter, r *http.Request) ([][]byte, error) {
	if r.ContentLength > MaxBody {
		return nil, tooLarge()
	}
	chain, err := parseChain(http.MaxBytesReader(w, r.Body, MaxBody))
	if err == nil {
		return chain, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &failure{status: http.StatusRequestTimeout, text: "the body took too long", result: resultGone, hangUp: true}
	}
	return nil, rejected(fmt.Errorf("failed to parse add-chain body: %w", err))
}

func tooLarge() *failure {
	return &failure{
		status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("certificate chain exceeds %d-byte limit", MaxBody), result: resultRejected,
	}
}

// writeSCT answers as RFC 6962, Section 4.1 says.
func writeSCT(w http.ResponseWriter, s ctlog.SCT) error {
	return writeJSON(w, struct {
		Version    int    `json:"sct_version"`
		ID         []byte `json:"id"`
		Timestamp  int64  `json:"timestamp"`
		Extensions string `json:"extensions"`
		Signature  []byte `json:"signature"`
	}{0, s.LogID[:], s.Timestamp.UnixMilli(), base64.StdEncoding.EncodeToString(s.Extensions), s.Signature})
}

var errWriting = errors.New("writing the answer")

func writeJSON(w http.ResponseWriter, answer any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return fmt.Errorf("%w: %w", errWriting, err)
	}
	return nil
}

// maxShown bounds what of a submission is repeated in answers and in our log.
const maxShown = 400

// shown makes a text from outside fit for one line.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxShown)], "?"))
}
