// Package fulciov2 is the wire contract of Sigstore Fulcio v2, generated from
// fulcio.proto beside it.
//
// The schema may never drift from what clients in the field were built
// against: a test holds every name, number and type to a table, and buf
// breaking compares it with proto/baseline.binpb, an image of the contract that
// was built from Fulcio's own schema without its HTTP annotations.
//
// The full names of its messages are Fulcio's, so the package cannot be linked
// into one program with Fulcio's own generated code: protobuf registers each
// name once.
package fulciov2
