// Package server puts the CA on the network: REST and gRPC on one port, as
// Fulcio's clients expect them.
//
// Both transports run through the same middleware, in this order: recover,
// request id, metrics and one access-log line, deadline, peer limit, size
// limit. Then both call the same function, [Server] issue, which verifies the
// token, applies the identity's limit, proves the key and asks the CA.
//
// Invariants:
//
//   - each request pins one [Snapshot], so no request sees two configurations;
//   - every error meets one table, in status.go, which alone chooses what the
//     client reads and alone logs it: no text of a backend leaves the process;
//   - what a caller can make the server hold is bounded: body, header, token,
//     key, streams, requests in flight, time, and the memory of the limiters;
//   - the client's address is believed only as far as trusted proxies vouch.
//
// The package decides nothing about identities, policy or certificates, knows
// no configuration file and opens no log or key. Metrics and administration
// have listeners of their own and are not here. There is no gRPC reflection,
// no CORS and no gateway.
package server
