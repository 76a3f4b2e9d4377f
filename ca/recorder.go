package ca

import (
	"context"
	"time"
)

// Recorder is the durable audit record. Its error stops issuance.
type Recorder interface {
	// Intent records what is about to be signed and returns once the record is
	// durable. The returned number names the intent in the outcome.
	Intent(ctx context.Context, i Intent) (uint64, error)
	// Outcome closes an intent. It returns when the record is written; it
	// becomes durable with the next group. The context carries no cancellation.
	Outcome(ctx context.Context, o Outcome) error
	// Refused records the refusal of a verified identity. It may drop records
	// beyond its limits, which it counts.
	Refused(ctx context.Context, r Request, d Decision, why *Refusal) error
	// LastTime is the time of the last record. Issuance stops while the clock
	// stands before it.
	LastTime() time.Time
	// Ready reports, without I/O, why an intent would be turned away now.
	Ready() error
}

// Intent is what will be signed, told before the first signature.
type Intent struct {
	Request  Request
	Decision Decision
	// Serial is the certificate's serial number, 20 octets.
	Serial [20]byte
	// Chain is the configured name of the chain that signs.
	Chain string
	// IssuerKeyHash is SHA-256 of the issuing certificate's SubjectPublicKeyInfo.
	IssuerKeyHash [32]byte
	// TBSHash is SHA-256 of the poison-free to-be-signed bytes.
	TBSHash [32]byte
	// NotBefore and NotAfter are the certificate's validity.
	NotBefore, NotAfter time.Time
}

// Outcome closes an intent: Err is nil when the certificate was handed out.
type Outcome struct {
	Intent uint64
	Serial [20]byte
	// CertificateHash is SHA-256 of the final certificate's DER; zero when none
	// was made.
	CertificateHash [32]byte
	// SCT is the embedded SCT; zero when none was obtained.
	SCT SCT
	// Err is why no certificate was handed out.
	Err *Refusal
}
