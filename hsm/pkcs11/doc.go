// Package pkcs11 signs with keys that a PKCS#11 token holds: a hardware
// security module, a TPM, or SoftHSM. It is the only importer of
// github.com/miekg/pkcs11.
//
// Tokens lose sessions, forget who is logged in, go away and come back in
// another slot, and now and then hang for ever. A [Token] heals itself from all
// of these without a restart; a [Key] is one private key on one or several
// tokens, of which the first that works signs.
//
// Invariants:
//
//   - no signature leaves the package that was not verified in Go against the
//     public key that the caller configured;
//   - a session that saw an error is closed and never used again, because an
//     operation may still be active in it;
//   - a PIN is sent once for each connection and never again after the token
//     refused it: every attempt counts towards locking the token;
//   - C_Finalize is never called under a running call, and no session or object
//     handle is used after it;
//   - a call that hangs holds one session and one goroutine, not its caller;
//   - every goroutine but those inside a hung call ends with [Token.Close].
//
// All tokens of one library share its C_Initialize and C_Finalize, and so share
// their fate when one of them can only be had back by initialising anew. Two
// tokens that stand in for each other belong into two libraries.
//
// The package deletes nothing, makes keys only when asked to, and does not
// measure the time that a certificate lives.
package pkcs11
