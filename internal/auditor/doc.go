// Package auditor compares what is in certificate transparency logs with what the
// audit journals say was issued, and raises an alarm over every difference.
//
// Invariants:
//
//   - nothing of a log is believed: the tree head is verified under the configured
//     key, and all entries are read and hashed to the root in it, on top of the tree
//     that was kept from before. Consistency with that tree, and inclusion of every
//     entry at its index, follow;
//   - an entry under one of our issuing keys must have an intent in a listed
//     journal: by issuer key hash and hash of the TBSCertificate without poison and
//     SCT list, which a precertificate and its certificate have in common. If none
//     has it, the key was used behind the back of the service;
//   - an entry is called unexplained only when every journal is known to be read up
//     to a time after the entry was seen. Heads are fetched first and journals read
//     second, so that what a journal on this machine does not say by then, it never
//     will; a copy of another machine's says by its mark until when it is complete;
//   - an SCT that a journal recorded is a promise, and its entry must be in the log
//     that gave it;
//   - memory does not grow with logs or journals. What is known of them lies in
//     sorted files of hashes; what is undecided has a bound, at which reading waits;
//   - an alarm does not go away by a restart.
//
// The package changes neither logs nor journals, and takes nothing out of service.
package auditor
