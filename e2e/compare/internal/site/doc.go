// Package site gives two certificate authorities the same surroundings: a PKI,
// an OpenID provider and a transparency log, and starts them as processes whose
// CPU time and memory can be told apart from those of everything else.
//
// Invariants:
//
//   - everything listens on loopback, and every process that was started is
//     killed at the latest when this one ends;
//   - both authorities get the same key, chain, provider and log;
//   - the provider and the stub log run in a process of their own (Backend), so
//     that neither the servers nor the generator are charged for them.
//
// The stub log keeps nothing: it signs what it is sent. It measures authorities,
// not logs.
package site
