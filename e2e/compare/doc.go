// Compare measures Mayfly beside Fulcio: the same machine, OpenID provider, CA
// key and chain, transparency log and requests, in turns.
//
//	compare -fulcio e2e/.cache/bin/fulcio-v1.8.8 -write docs/PERFORMANCE.md
//	compare -rows 'P-384|gRPC' -round 4s
//	compare -quick
//
// `make bench-compare` builds all of it and runs the first. What is reported:
//
//   - at saturation: clients who ask again once they are answered, as many of
//     them as serve the server best;
//   - at equal load, half of what the slower server can do, and at half of what
//     each can do: arrivals at a constant rate, whose latency is counted from
//     when they were due (see package load);
//   - the CPU time of the server's process for each certificate. Generator,
//     provider and stub log share the cores with the server, so that this is the
//     fair figure, and throughput shows the smaller difference;
//   - beside it what the public-key operations of both designs cost alone;
//   - how honest clients fare while others send ten times as much junk.
//
// It is a measurement and no test: its figures hold for one machine at one time.
// With -quick it is the smoke test of itself.
package main
