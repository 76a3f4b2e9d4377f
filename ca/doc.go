// Package ca turns a verified identity plus a proven key into a logged,
// short-lived code-signing certificate.
//
// [Authority.Issue] is the one place where certificates are made. It reads as a
// straight line: policy decides, the to-be-signed bytes are built once by our
// own DER encoder and judged by an independent parser, the intent is recorded
// durably, the precertificate is signed and logged, and the final certificate
// is assembled from the very same bytes with the poison replaced by the SCT.
//
// Invariants:
//
//   - nothing leaves the process that has no durable record;
//   - a certificate is returned only with a verified, embedded SCT, unless the
//     operator switched logging off by name;
//   - every signature made is over bytes that were parsed and compared with the
//     request and the decision, and is verified before it is used;
//   - a [ProvenKey] exists only for a key whose possession was proven.
//
// The package imports nothing else of this module. It does not verify tokens,
// speak to logs or open keys: those arrive behind the interfaces [Policy],
// [Log], [Recorder] and [Signer].
package ca
