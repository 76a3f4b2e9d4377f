// Package embedded keeps a certificate transparency log in a directory on this
// machine: static-ct-api tiles behind a sequence file, with verified SCTs a few
// hundred microseconds after a submission.
//
// Invariants:
//   - [Init] makes a log once; [Open] never makes one, so a lost or half-restored
//     directory cannot quietly become a second log under the same key;
//   - an SCT is signed only after its entry is in the sequence file, synced, under
//     the index in the SCT;
//   - one opener: the directory is locked for as long as a write may still happen;
//   - a checkpoint is signed only over tiles that are on the disk, after they were
//     read back and proven to extend what was signed last, and after the record of
//     it outside the directory is durable;
//   - time never runs backwards in SCTs and checkpoints.
//
// # How it works
//
// A committer takes what waits in the queue, gives it indices, and makes it
// durable in the sequence file with one write and one fdatasync: that is all a
// submitter waits for. Half a second later at the most, a publisher appends it to
// the right edge of the tree, which is all of the tree that is in memory, writes
// tiles and bundles, signs the checkpoint, and drops segments of the sequence
// file that it has overtaken. A start loads the right edge, proves it against the
// checkpoint, and appends what the sequence file has beyond it. docs/adr/0002
// says why it is so and what else was measured.
//
// # When something goes wrong
//
// An error while writing the sequence file, any error of a sync, and a tree that
// contradicts what was signed stop the log for good: Ready says why, submissions
// are refused at once, [Log.Stopped] is closed, and only Close followed by Open
// (in practice: a restart of the process) brings it back. There is no repair in
// the background on purpose. After a failed sync the kernel may have dropped the
// pages and will report success the next time; a fresh Open reads everything from
// the beginning, proves it against what was signed, and refuses if it cannot.
// Published entries stay readable, and what was promised goes on being published
// if it can be, while the log is stopped.
//
// Conditions that pass by themselves do not stop the log but refuse submissions
// while they last: little free space, few file descriptors, a full queue, a
// clock that stands behind the log's last signature, a disk that does not
// answer, checkpoints that cannot be published.
//
// # What it does not do
//
// It takes no submissions over the network and checks no chains (for that,
// [Log.Add] stands behind whoever does), and does not look for duplicates. It
// proves only what someone else has kept a copy of: set Config.CheckpointRecord,
// and keep checkpoints elsewhere.
//
// Nothing is global: any number of logs may be open at once.
package embedded
