// Package rfc6962 lets others submit to an embedded log over HTTP: a [Handler]
// for add-chain, add-pre-chain and get-roots of RFC 6962, so that replicas of a
// certificate authority, or another one, can use the log as their remote log.
//
// Invariants:
//   - a submission is looked at only if its connection shows a client
//     certificate, which the TLS listener in front has verified;
//   - an entry gets into the log only if one of the listed issuing certificates
//     signed it, by a path that crypto/x509 accepts, and only while it is valid;
//   - what the log signs for a precertificate is computed here from the
//     precertificate, never taken from the submitter;
//   - what a submitter can make the log hold is bounded: body, rate, requests in
//     flight, the memory of what was seen lately;
//   - no text of a backend reaches a submitter.
//
// # What is remembered
//
// A submission that was answered within the last five minutes, and is among the
// last 32768 (Config.Remember), gets the same SCT again: a client that lost the
// answer and asks again makes no second entry. Five minutes, because clients
// refuse an SCT that is older than they can explain. Two that come at once become
// one entry. The memory is that of one process: after a restart a repetition is a
// new entry, as RFC 6962 allows.
//
// Verified paths from a listed issuing certificate upwards are remembered too, so
// that a submission normally costs the one signature of its own certificate.
//
// # What it does not do
//
// The rest of RFC 6962, which is about reading, is not here: the log is read as
// static-ct-api says. Precertificates that a dedicated precertificate signing
// certificate has signed are refused. Name constraints of the issuing certificate
// are not applied to what it has signed: what a listed authority did belongs in
// the log, also if it should not have done it.
package rfc6962
