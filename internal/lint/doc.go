// Package lint looks at a certificate as somebody who did not make it, and says
// what is wrong with it for keyless code signing.
//
// It reads the bytes with crypto/x509 and encoding/asn1 and knows nothing of the
// encoder, the decision or the judge in package ca: what those three agree on by
// mistake, it is to find. The tests run every certificate that can be issued,
// profile by kind of name by CA key, through it and through zlint.
//
// The service has its throw-away rehearsals looked at before a chain comes into
// use. It does not link zlint for that: of zlint's lints, some 70 look at such a
// certificate at all, none of them knows what Sigstore's clients want, and they
// would add 2.5 MB and twice the start-up time to every command. The tests have
// both, and the shape of a certificate depends on nothing that they do not vary.
//
// It does not look at issuing certificates; [ca.Inspect] does. It is not in the
// path of a request.
package lint
