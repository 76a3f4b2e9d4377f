// Package ctlog submits precertificates to certificate transparency logs and
// gives back signed certificate timestamps that it has verified.
//
// A [Log] is one log: [Remote] speaks RFC 6962 over HTTP, the embedded package
// keeps a log on this machine's disk. A [Pool] puts several behind one face, and
// has a breaker for each, so that a log of which it is known that it fails costs
// nobody time or a signature.
//
// Invariants:
//   - an SCT leaves a Log only after its version, log id, timestamp and signature
//     were checked against the submission as we see it ([Key.VerifySCT]), so a
//     log can neither lend us another's promise nor sign other bytes than ours;
//   - a pool gives exactly one SCT, because clients in the field refuse a
//     certificate with more;
//   - every call is bounded: in time, in bytes read and in attempts, and a pool's
//     time does not grow with the number of its logs;
//   - nothing that the one who asks for a certificate can do makes a log rest.
//
// The package does not decide what to do when no log answers (the caller fails
// closed), does not audit logs afterwards, and does not choose which logs the
// world trusts.
package ctlog

import (
	"context"
	"errors"
)

// The sentinels say what a caller can do about a submission that got no SCT.
// Every error of Submit and Ready wraps at least one of them or the context's.
var (
	// ErrUnavailable says that the log cannot take anybody's submission at the
	// moment: unreachable, broken, stopped or misconfigured. Another log may.
	ErrUnavailable = errors.New("log unavailable")
	// ErrOverloaded says that the log is well but has no room now. Asking again
	// a little later is right.
	ErrOverloaded = errors.New("log overloaded")
	// ErrRejected says that the log looked at this submission and refused it;
	// repeating it to the same log is useless.
	ErrRejected = errors.New("log rejected the submission")
	// ErrBadSCT says that the log answered with something that is not its valid
	// SCT over this submission. It is never retried: a log that does this is
	// broken or is not the log we think it is.
	ErrBadSCT = errors.New("log gave an invalid SCT")
)

// Log is one certificate transparency log.
//
// Submit returns one SCT, verified over exactly this submission, or an error
// that wraps a sentinel of this package or the context's error. It honours ctx,
// holds its own bound on time and may be called concurrently. A submission whose
// call failed may still have been logged.
//
// Ready reports, without I/O, why a submission would be turned away now.
type Log interface {
	// Name is the configured name: short, for logs, metrics and audit records.
	Name() string
	// ID is the log id: SHA-256 of the log's DER SubjectPublicKeyInfo.
	ID() [32]byte
	Submit(ctx context.Context, s Submission) (SCT, error)
	Ready() error
}

// Submission is a signed precertificate on its way to a log.
type Submission struct {
	// Precertificate is the DER of the signed precertificate.
	Precertificate []byte
	// Issuers is the DER of the issuing certificate first and the root last.
	Issuers [][]byte
	// TBS is the DER of the to-be-signed certificate without poison and without
	// SCT list: what the log signs (RFC 6962, Section 3.2).
	TBS []byte
	// IssuerKeyHash is SHA-256 of the issuing certificate's SubjectPublicKeyInfo.
	IssuerKeyHash [32]byte
}
