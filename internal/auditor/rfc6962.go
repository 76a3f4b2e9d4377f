package auditor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// RFC6962 is a log that is read as RFC 6962, Section 4, says.
type RFC6962 struct {
	fetch Fetch
	key   Key
}

// NewRFC6962 makes a source of a log with that key. The paths that fetch is given
// begin with ct/v1/.
func NewRFC6962(fetch Fetch, key Key) *RFC6962 { return &RFC6962{fetch: fetch, key: key} }

var _ Source = (*RFC6962)(nil)

// batch is how many entries are asked for; a log may return fewer.
const batch = 256

// Head implements [Source] with get-sth (RFC 6962, Section 4.3).
func (r *RFC6962) Head(ctx context.Context) (Head, error) {
	raw, err := r.fetch(ctx, "ct/v1/get-sth", maxHead)
	if err != nil {
		return Head{}, err
	}
	var sth struct {
		Size      uint64 `json:"tree_size"`
		Timestamp uint64 `json:"timestamp"`
		Root      []byte `json:"sha256_root_hash"`
		Signature []byte `json:"tree_head_signature"`
	}
	if err := json.Unmarshal(raw, &sth); err != nil {
		return Head{}, fmt.Errorf("%w: %w", errHead, err)
	}
	if len(sth.Root) != 32 || sth.Timestamp > 1<<53 {
		return Head{}, fmt.Errorf("%w: root or timestamp out of range", errHead)
	}
	if !r.key.verifyHead(sth.Timestamp, sth.Size, [32]byte(sth.Root), sth.Signature) {
		return Head{}, fmt.Errorf("%w: the signature is not one of the configured key", errHead)
	}
	return Head{Size: sth.Size, Root: [32]byte(sth.Root), Time: time.UnixMilli(int64(sth.Timestamp)).UTC(), Note: string(raw)}, nil
}

// Entries implements [Source] with get-entries (RFC 6962, Section 4.6).
func (r *RFC6962) Entries(ctx context.Context, head Head, from uint64) ([]Entry, error) {
	last := min(from+batch, head.Size) - 1
	raw, err := r.fetch(ctx, fmt.Sprintf("ct/v1/get-entries?start=%d&end=%d", from, last), maxBundle)
	if err != nil {
		return nil, err
	}
	answer := leaves{most: int(last - from + 1)}
	if err := json.Unmarshal(raw, &struct {
		Entries *leaves `json:"entries"`
	}{&answer}); err != nil {
		return nil, fmt.Errorf("%w: reading entries from %d: %w", errEntries, from, err)
	}
	if len(answer.leaves) == 0 {
		return nil, fmt.Errorf("%w: reading entries from %d: there are none", errEntries, from)
	}
	entries := make([]Entry, len(answer.leaves))
	for i, l := range answer.leaves {
		if entries[i], err = readMerkleLeaf(l); err != nil {
			return nil, fmt.Errorf("%w: reading entry %d: %w", errEntries, from+uint64(i), err)
		}
	}
	return entries, nil
}

// leaves are the leaf_input of entries, and not more of them than were asked for:
// within the bound of an answer there is room for millions that say nothing.
type leaves struct {
	most   int
	leaves [][]byte
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *leaves) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return errors.New("entries is not a list")
	}
	l.leaves = nil
	for d.More() {
		if len(l.leaves) == l.most {
			return fmt.Errorf("more than %d entries", l.most)
		}
		var entry struct {
			Leaf []byte `json:"leaf_input"`
		}
		if err := d.Decode(&entry); err != nil {
			return err
		}
		l.leaves = append(l.leaves, entry.Leaf)
	}
	return nil
}

// Extends implements [Source] with get-sth-consistency (RFC 6962, Section 4.4).
func (r *RFC6962) Extends(ctx context.Context, _ *compact.Range, old, head Head) error {
	if old.Size == 0 {
		return errors.New("there is nothing to extend")
	}
	raw, err := r.fetch(ctx, fmt.Sprintf("ct/v1/get-sth-consistency?first=%d&second=%d", old.Size, head.Size), maxHead)
	if err != nil {
		return err
	}
	var answer struct {
		Consistency [][]byte `json:"consistency"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("reading the consistency proof: %w", err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, head.Size, answer.Consistency, old.Root[:], head.Root[:]); err != nil {
		return fmt.Errorf("%w: %w", errRoot, err)
	}
	return nil
}
