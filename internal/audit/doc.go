// Package audit keeps the journal of a certificate authority: an append-only,
// hash-chained file of records, one JSON object a line, that says before every
// signature what is going to be signed and after it what became of it.
//
// Invariants:
//
//   - [Journal.Intent] returns nil only when its record is on disk (written and
//     fdatasynced, its file's name too), so no certificate exists without one;
//   - an intent is closed by exactly one outcome; those that a crash left open
//     are closed by [Open] as unknown, to be treated as issued;
//   - after an error of write or sync nothing is recorded any more until the
//     process restarts. A kernel may drop the pages that it could not write and
//     report success the next time, so there is no retrying;
//   - a record that ends in a newline is whole or the journal is damaged. Only
//     an unfinished last line is cut off, and [Open] refuses everything else;
//   - tokens are never in it, nor claims beyond the listed facts;
//   - refusals cannot push intents off the disk: they are limited in number,
//     and only counted once the free space falls below the reserve.
//
// The chain finds edits, deletions, insertions and exchanges. It does not stop
// someone who can write the files from making a new chain, nor does it notice
// that its end is missing: for that, [Verify] takes heads that were kept
// elsewhere. The package deletes nothing and sends nothing anywhere.
package audit
