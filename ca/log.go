package ca

import (
	"context"
	"time"
)

// Log is a certificate transparency log, or several behind one face.
//
// Submit returns one SCT whose signature was verified over exactly this
// submission, or an error; it honours ctx, never retries for longer than its own
// bound, and may be called concurrently. Ready reports, without I/O, why a
// submission would be turned away now; it is asked before the CA key is used. An
// error of either may be a [Refusal], which then reaches the client as it is.
type Log interface {
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

// SCT is a verified signed certificate timestamp.
type SCT struct {
	// Log is the configured name of the log that gave it.
	Log string
	// LogID is SHA-256 of the log's SubjectPublicKeyInfo.
	LogID [32]byte
	// Timestamp is the time of the SCT in milliseconds resolution.
	Timestamp time.Time
	// Index is the leaf index in a static-ct-api log, or -1.
	Index int64
	// TLS is the SignedCertificateTimestamp in TLS encoding (RFC 6962, Section
	// 3.2), as it is embedded.
	TLS []byte
}
