package embedded

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/crypto/cryptobyte"
)

// LoggedEntry is an entry of the log, with what belongs to it.
type LoggedEntry struct {
	Index    uint64
	Time     time.Time
	LeafHash [32]byte
	// Certificate is DER: the certificate, or with a Precertificate its
	// TBSCertificate without poison.
	Certificate []byte
	// Precertificate is DER; nil for a certificate.
	Precertificate []byte
	// IssuerKeyHash belongs to a precertificate.
	IssuerKeyHash [32]byte
	// Issuers are SHA-256 of the certificates of the chain, the issuing one first.
	Issuers [][32]byte
}

// entry takes a leaf apart. It was parsed once already, so that only what is there
// is looked at; see parseLeaf for the structure.
func (l leaf) entry() (LoggedEntry, error) {
	e := LoggedEntry{Index: l.index, Time: l.time, LeafHash: l.hash}
	in := cryptobyte.String(l.data)
	var kind uint16
	var certificate, extensions, precertificate, chain cryptobyte.String
	if !in.Skip(8) || !in.ReadUint16(&kind) || kind == 1 && !in.CopyBytes(e.IssuerKeyHash[:]) ||
		!in.ReadUint24LengthPrefixed(&certificate) || !in.ReadUint16LengthPrefixed(&extensions) ||
		kind == 1 && !in.ReadUint24LengthPrefixed(&precertificate) ||
		!in.ReadUint16LengthPrefixed(&chain) || !in.Empty() {
		return LoggedEntry{}, errors.New("malformed")
	}
	e.Certificate, e.Precertificate = certificate, precertificate
	for len(chain) >= 32 {
		var fingerprint [32]byte
		if !chain.CopyBytes(fingerprint[:]) {
			break
		}
		e.Issuers = append(e.Issuers, fingerprint)
	}
	return e, nil
}

// Entries hands the entries under a checkpoint to yield, from an index on, until
// it returns false. They are read bundle by bundle and are not proven: see
// [View.VerifyEntry] and [View.Check]. What an entry points to is good only during
// the call.
func (v *View) Entries(ctx context.Context, head Head, from uint64, yield func(LoggedEntry) bool) error {
	for index := from; index < head.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		leaves, err := v.bundle(head, index/layout.EntryBundleWidth)
		if err != nil {
			return err
		}
		for _, l := range leaves[index%layout.EntryBundleWidth:] {
			e, err := l.entry()
			if err != nil {
				return fmt.Errorf("entry %d: %w", l.index, err)
			}
			if !yield(e) {
				return nil
			}
			index++
		}
	}
	return nil
}

// bundle reads the entries of a bundle that a checkpoint covers, and that they
// are those of their places.
func (v *View) bundle(head Head, index uint64) ([]leaf, error) {
	partial := layout.PartialTileSize(0, index, head.Size)
	want := layout.EntryBundleWidth
	if partial != 0 {
		want = int(partial)
	}
	raw, err := readBundle(v.tree, index, partial)
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", index, err)
	}
	leaves, err := parseBundle(raw)
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", index, err)
	}
	if len(leaves) < want {
		return nil, fmt.Errorf("reading bundle %d: %d entries, want %d", index, len(leaves), want)
	}
	for i, l := range leaves[:want] {
		if at := index*layout.EntryBundleWidth + uint64(i); l.index != at {
			return nil, fmt.Errorf("reading bundle %d: entry %d where entry %d belongs", index, l.index, at)
		}
	}
	return leaves[:want], nil
}

// Since is the index of the first entry that is not older than a time; the size
// of the tree when all are. Times never fall from one entry to the next, so a few
// bundles tell.
func (v *View) Since(head Head, at time.Time) (uint64, error) {
	bundles := int((head.Size + layout.EntryBundleWidth - 1) / layout.EntryBundleWidth)
	var failed error
	first := sort.Search(bundles, func(i int) bool {
		leaves, err := v.bundle(head, uint64(i))
		if err != nil {
			failed = err
			return true
		}
		return !leaves[len(leaves)-1].time.Before(at)
	})
	if failed != nil || first == bundles {
		return head.Size, failed
	}
	leaves, err := v.bundle(head, uint64(first))
	if err != nil {
		return 0, err
	}
	inside := sort.Search(len(leaves), func(i int) bool { return !leaves[i].time.Before(at) })
	return leaves[inside].index, nil
}
