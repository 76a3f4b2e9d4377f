// Package load asks a certificate authority for certificates, at a rate of its
// own or as fast as it gets them, and says how long that took.
//
// Invariants:
//
//   - under an open loop a request's time begins when it was meant to be sent,
//     not when a connection was free for it. A server that stalls makes all
//     those late that should have started meanwhile, and the figures say so;
//     clients who wait for each other would hide it (coordinated omission);
//   - every request is counted once, whether it was answered or not: the
//     histogram's count is the number of requests sent;
//   - an answer counts as a certificate only when it holds one. Of every so
//     many, one is parsed, and compared with what was asked for;
//   - requests are signed and laid out beforehand, so that what is measured is
//     the server and as little as possible of the generator;
//   - every run ends: it has a duration, and each request a timeout.
//
// It does not start servers, and does not know whose they are.
package load
