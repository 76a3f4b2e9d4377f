// Package e2e runs Mayfly as an administrator would and uses it as its users
// would: the real binary behind TLS on loopback, a chain made with the openssl
// command line, an OpenID provider, a real RFC 3161 timestamp authority, and
// the released clients (cosign, npm's sigstore, sigstore-go, gRPC, OpenSSL).
//
// What is proved here and nowhere else: that clients which nobody patched take
// what Mayfly gives, that what a client received is on disk after the process
// was killed, and that a flood of junk costs a bounded amount.
//
// Invariants:
//
//   - nothing is faked on Mayfly's side of the wire; the provider signs real
//     tokens and publishes real key sets;
//   - everything listens on loopback, and clients get a proxy that refuses, so a
//     test that would reach the internet fails;
//   - proofs and signatures of the log are checked by code that shares nothing
//     with the log's own.
//
// It is a module of its own, so that the clients' dependencies never enter the
// product's. run.sh builds what the tests start; without the variables that it
// sets they fail and say so.
package e2e
