package ctlog

import (
	"errors"
	"fmt"
)

// Why an SCT is invalid, as the metric says it.
const (
	reasonOversized  = "oversized"
	reasonMalformed  = "malformed"
	reasonVersion    = "version"
	reasonLogID      = "log_id"
	reasonTimestamp  = "timestamp"
	reasonExtensions = "extensions"
	reasonSignature  = "signature"
	reasonOther      = "other"
)

// badSCTError is an [ErrBadSCT] of which a metric can tell the reason.
type badSCTError struct {
	reason string
	err    error
}

func badSCT(reason, format string, args ...any) error {
	return &badSCTError{reason: reason, err: fmt.Errorf(format, args...)}
}

func (e *badSCTError) Error() string   { return fmt.Sprintf("%v: %v", ErrBadSCT, e.err) }
func (e *badSCTError) Unwrap() []error { return []error{ErrBadSCT, e.err} }

// reasonOf is one of the constants above.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*badSCTError](err); ok {
		return e.reason
	}
	return reasonOther
}
