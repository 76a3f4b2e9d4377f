// Package embedded keeps a certificate transparency log in a directory on this
// machine: static-ct-api tiles written by Tessera, behind a front end that gives
// verified SCTs.
//
// Invariants:
//   - [Init] makes a log once; [Open] never makes one, so a lost or half-restored
//     directory cannot quietly become a second log under the same key;
//   - an SCT is signed only after Tessera has made its entry durable under the
//     index in the SCT;
//   - one process, one opener: the directory is locked for as long as a write may
//     still happen;
//   - a checkpoint is signed only after it was proven consistent with the last
//     one signed, and after the record of it outside the directory is durable;
//   - time never runs backwards in SCTs and checkpoints.
//
// # When something goes wrong
//
// Any error from Tessera stops the log for good: Ready says why, submissions are
// refused at once, [Log.Stopped] is closed, and only Close followed by Open (in
// practice: a restart of the process) brings it back. There is no repair in the
// background on purpose. After a failed write the kernel may have dropped the
// pages and will report success the next time, and Tessera's own goroutines
// cannot be waited for; a fresh Open reads everything from the beginning, proves
// it against what was signed, removes what an interrupted batch left behind, and
// refuses if it cannot. Published entries stay readable, and what was promised
// goes on being published, while the log is stopped.
//
// Conditions that pass by themselves do not stop the log but refuse submissions
// while they last: little free space, few file descriptors, a full queue, a
// clock that stands behind the log's last signature, a disk that does not
// answer, checkpoints that cannot be published.
//
// # What it does not do
//
// It takes no submissions over the network, checks no chains (the CA has made
// the precertificate a moment before), and does not look for duplicates. It
// proves only what someone else has kept a copy of: set Config.CheckpointRecord,
// and keep checkpoints elsewhere.
package embedded
