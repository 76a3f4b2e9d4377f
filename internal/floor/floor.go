// Package floor does the public-key operations of one issuance with the standard
// library and nothing else, so that benchmarks can say how much of an issuance is
// arithmetic that no better program avoids and how much is overhead.
//
// The floor of Mayfly is what docs/DESIGN.md prescribes for one certificate:
//
//	token verified, proof of possession verified,
//	precertificate signed (with a log), certificate signed,
//	SCT signed (by the log in the box), SCT verified (with a log),
//	final signature verified
//
// It is a yardstick, not a bound. Mayfly verifies its own precertificate as well,
// which is overhead by this count, and checks its own signatures with tables made
// for its own keys, which is faster than the standard library: a whole issuance
// may cost less than its floor without a flaw in either.
//
// The floor of [Fulcio] is the same count for the design of that server, so that
// a comparison can say what ratio the arithmetic of both designs allows. Hashing
// and parsing are no part of a floor, and neither are checks of key quality.
//
// It is for benchmarks and e2e/compare; no program links it. Its keys are made
// when it is, and sign nothing but its own test message.
package floor

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Design is whose operations are counted.
type Design string

const (
	// Mayfly is the design of this repository.
	Mayfly Design = "mayfly"
	// Fulcio is that of sigstore/fulcio v1.8 with a key in a file: each of its two
	// calls of x509.CreateCertificate signs and verifies what it signed.
	Fulcio Design = "fulcio"
)

// Log is who makes the SCT and who verifies it.
type Log string

const (
	// LogNone is an issuance without a log: one certificate, no precertificate.
	LogNone Log = "none"
	// LogRemote is a log elsewhere. Its signature costs somebody else; the SCT is
	// verified here.
	LogRemote Log = "remote"
	// LogEmbedded is the log in the box: the SCT is signed and verified here. There
	// is none in Fulcio's design.
	LogEmbedded Log = "embedded"
)

// Spec is one issuance. Empty fields mean the default of the benchmarks.
type Spec struct {
	// Design is Mayfly if empty.
	Design Design
	// CAKey is P-256 (the default), P-384 or RSA-3072.
	CAKey string
	// Token is RS256 with a key of 2048 bits (the default) or ES256.
	Token string
	// Client is the key that the certificate is for: P-256 (the default), P-384,
	// RSA-2048, RSA-4096 or Ed25519.
	Client string
	// Log is LogEmbedded if empty, and LogRemote in Fulcio's design.
	Log Log
}

// Operation is a kind of public-key operation and how often one issuance does it.
type Operation struct {
	// Name says what is done, to what and with which key, as in
	// "certificate signed, P-256".
	Name  string
	Count int
	do    func() error
}

// Floor is the public-key operations of one issuance, ready to be done. It is
// immutable and safe for concurrent use.
type Floor struct {
	operations []Operation
}

// New makes the keys and the signatures that rounds verify. RSA keys take their
// time.
func New(spec Spec) (*Floor, error) {
	spec = spec.withDefaults()
	ca, err := newKey(spec.CAKey, "P-256", "P-384", "RSA-3072")
	if err != nil {
		return nil, fmt.Errorf("floor: CA key: %w", err)
	}
	client, err := newKey(spec.Client, "P-256", "P-384", "RSA-2048", "RSA-4096", "Ed25519")
	if err != nil {
		return nil, fmt.Errorf("floor: client key: %w", err)
	}
	token, err := tokenKey(spec.Token)
	if err != nil {
		return nil, fmt.Errorf("floor: token: %w", err)
	}
	log, err := newKey("P-256", "P-256") // RFC 6962 as every client reads it
	if err != nil {
		return nil, fmt.Errorf("floor: log key: %w", err)
	}
	f := &Floor{}
	f.add("token verified, "+spec.Token, 1, token.verify)
	f.add("proof verified, "+spec.Client, 1, client.verify)
	logged := 0
	switch {
	case spec.Log == LogRemote, spec.Log == LogEmbedded && spec.Design == Mayfly:
		logged = 1
	case spec.Log != LogNone:
		return nil, fmt.Errorf("floor: the design %q has no log %q", spec.Design, spec.Log)
	}
	f.add("precertificate signed, "+spec.CAKey, logged, ca.sign)
	f.add("certificate signed, "+spec.CAKey, 1, ca.sign)
	switch spec.Design {
	case Mayfly:
		if spec.Log == LogEmbedded {
			f.add("SCT signed, P-256", 1, log.sign)
		}
	case Fulcio:
		f.add("precertificate verified, "+spec.CAKey, logged, ca.verify)
	default:
		return nil, fmt.Errorf("floor: unknown design %q", spec.Design)
	}
	f.add("SCT verified, P-256", logged, log.verify)
	f.add("certificate verified, "+spec.CAKey, 1, ca.verify)
	return f, nil
}

func (s Spec) withDefaults() Spec {
	orElse := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	orElse((*string)(&s.Design), string(Mayfly))
	orElse(&s.CAKey, "P-256")
	orElse(&s.Token, "RS256")
	orElse(&s.Client, "P-256")
	if s.Design == Fulcio {
		orElse((*string)(&s.Log), string(LogRemote))
	}
	orElse((*string)(&s.Log), string(LogEmbedded))
	return s
}

func (f *Floor) add(name string, count int, do func() error) {
	if count > 0 {
		f.operations = append(f.operations, Operation{name, count, do})
	}
}

// Operations lists what a round does.
func (f *Floor) Operations() []Operation {
	return append([]Operation(nil), f.operations...)
}

// Round does the operations of one issuance once. Its error is a fault of the
// machine or of this package: the signatures are good.
func (f *Floor) Round() error {
	for _, op := range f.operations {
		for range op.Count {
			if err := op.do(); err != nil {
				return fmt.Errorf("%s: %w", op.Name, err)
			}
		}
	}
	return nil
}

// CPU does some rounds and returns the CPU time of one of them. It counts the
// time of its own thread, so that it may run beside anything: a server whose
// background work is not done yet, or itself on other cores. It panics when an
// operation fails, which is a bug.
func (f *Floor) CPU(rounds int) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadCPU()
	for range rounds {
		if err := f.Round(); err != nil {
			panic(fmt.Sprintf("floor: %v", err)) //nolint:forbidigo // the signatures were made by New
		}
	}
	return (threadCPU() - start) / time.Duration(max(rounds, 1))
}

// Ratio returns how many times the CPU time of b a round of f costs. Both are
// done in turns, so that both see the same machine, and the least of each counts:
// noise only adds.
func (f *Floor) Ratio(b *Floor, turns int) float64 {
	const rounds = 20
	mine, other := f.CPU(rounds), b.CPU(rounds)
	for range turns {
		mine, other = min(mine, f.CPU(rounds)), min(other, b.CPU(rounds))
	}
	return float64(mine) / float64(other)
}

func threadCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(fmt.Sprintf("floor: reading the thread's clock: %v", err)) //nolint:forbidigo // every POSIX system has it
	}
	return time.Duration(t.Nano())
}
