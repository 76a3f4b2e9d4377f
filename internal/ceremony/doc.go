// Package ceremony makes what stands at the beginning of a certificate
// authority: the certificate request for an organization's PKI, the ordered
// chain file of what comes back, and, for those without a PKI, a root and an
// intermediate of their own.
//
// Invariants:
//
//   - what is handed out has been parsed back and checked: a request asks for
//     exactly what was meant, and a new chain has no problem that [ca.Inspect]
//     knows of;
//   - nothing is overwritten, and no code path deletes a key: a ceremony that
//     fails leaves what it has made in a directory that it names;
//   - every name is read by a strict parser, and what it does not understand is
//     refused and not guessed.
//
// It makes certificates of authorities only; those that the service issues come
// from package ca. It opens no token and reads no configuration.
package ceremony
