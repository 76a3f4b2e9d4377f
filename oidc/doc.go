// Package oidc turns an OpenID Connect token into a verified [ca.Identity].
//
// go-oidc verifies signature, issuer and expiry, but it accepts much that a
// certificate authority must refuse: JSON serialisation, several encodings of
// one token, claims matched by case folding, logout tokens, tokens without
// subject or with a year of validity. A strict layer therefore stands before it
// and another one after it, and where go-oidc and the strict layer read a token
// differently, the token is refused.
//
// Invariants:
//
//   - the issuer is looked up by the exact bytes of iss among the configured
//     ones; a token of an unknown issuer causes no outbound request, ever;
//   - [Verifier.Verify] does no I/O. Keys arrive by one background refresher
//     per issuer, which alone decides when to fetch, and are published as an
//     immutable snapshot. A token that no key verifies may ask the refresher to
//     go early, and wait for it at most two seconds; whatever tokens say and
//     whatever the provider answers, it is asked at most twice in a minute, or
//     in two refresh intervals if that is less;
//   - claims are decoded once, case-sensitively and without duplicates, and that
//     one decoding is what every check and the identity use;
//   - an issuer takes ID tokens or access tokens, whichever it is configured
//     for, and never both;
//   - every error of Verify is a [ca.Refusal], and no error, log line or metric
//     contains a token.
//
// The package does not decide who may have a certificate and never follows jku,
// x5u or distributed claims. It counts how often tokens are used if it is told
// to, in the memory of one process: replicas do not know of each other.
package oidc
