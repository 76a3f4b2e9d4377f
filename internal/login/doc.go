// Package login gets an ID token for cosign and other Sigstore clients: from a
// person by browser or on another device, from the CI job that it runs in, or
// for a service account.
//
// Stock clients can do the first, but ask for nothing beyond it: no fresh login,
// no second factor, and no provider behind a private CA. A policy that demands
// these would lock their users out.
//
// Invariants:
//
//   - a token is handed out only after its claims were compared with what was
//     asked for: issuer, client, audience, nonce, expiry, acr, auth_time;
//   - a token, code, verifier or secret stands in no error and no message;
//   - a CI provider that was detected and fails is an error: nobody is sent to a
//     browser instead, and no other identity takes its place;
//   - the loopback listener answers one callback, and lives no longer than the
//     login.
//
// It verifies no signature, since it acts on no claim; it keeps nothing, neither
// refresh tokens nor a cache; and it does not sign.
package login
