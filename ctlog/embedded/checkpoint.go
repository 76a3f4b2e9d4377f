package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	f_log "github.com/transparency-dev/formats/log"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"
)

// checkpoint is a signed tree head that was verified.
type checkpoint struct {
	size uint64
	root [32]byte
	time time.Time
	raw  []byte
}

// noteKeyHash identifies the log's key in a signature line.
//
// static-ct-api: "key ID = SHA-256(key name || 0x0A || 0x05 || RFC 6962 LogID)[:4]"
func noteKeyHash(origin string, logID [32]byte) uint32 {
	h := sha256.New()
	h.Write([]byte(origin))
	h.Write([]byte{'\n', 0x05})
	h.Write(logID[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// treeHead is the input to the signature of a checkpoint.
//
//	// RFC 6962, Section 3.5
//	digitally-signed struct {
//	    Version version;
//	    SignatureType signature_type = tree_hash;
//	    uint64 timestamp;
//	    uint64 tree_size;
//	    opaque sha256_root_hash[32];
//	} TreeHeadSignature;
func treeHead(ms, size uint64, root [32]byte) [32]byte {
	var b cryptobyte.Builder
	b.AddUint8(0)
	b.AddUint8(1)
	b.AddUint64(ms)
	b.AddUint64(size)
	b.AddBytes(root[:])
	return sha256.Sum256(b.BytesOrPanic())
}

// verifier is a note.Verifier for checkpoints of a static-ct-api log. The one of
// transparency-dev/formats panics on a short signature.
type verifier struct {
	origin string
	hash   uint32
	verify func(digest, signature []byte) bool // of the log's key, in ASN.1 DER
}

func newVerifier(origin string, logID [32]byte, key *ecdsa.PublicKey) *verifier {
	return &verifier{origin: origin, hash: noteKeyHash(origin, logID), verify: func(digest, signature []byte) bool {
		return ecdsa.VerifyASN1(key, digest, signature)
	}}
}

func (v *verifier) Name() string    { return v.origin }
func (v *verifier) KeyHash() uint32 { return v.hash }

// Verify implements note.Verifier.
func (v *verifier) Verify(msg, sig []byte) bool {
	var text f_log.Checkpoint
	if rest, err := text.Unmarshal(msg); err != nil || len(rest) != 0 {
		return false
	}
	if text.Origin != v.origin || len(text.Hash) != sha256.Size {
		return false
	}
	in := cryptobyte.String(sig)
	var ms uint64
	return in.ReadUint64(&ms) && v.verifyDigest(treeHead(ms, text.Size, [32]byte(text.Hash)), in)
}

// verifyDigest verifies a digitally-signed struct.
func (v *verifier) verifyDigest(digest [32]byte, signed []byte) bool {
	in := cryptobyte.String(signed)
	var algorithm uint16
	var signature cryptobyte.String
	return in.ReadUint16(&algorithm) && algorithm == 0x0403 &&
		in.ReadUint16LengthPrefixed(&signature) && in.Empty() && v.verify(digest[:], signature)
}

// sign makes the signed note of a checkpoint, and reads it back.
//
// static-ct-api: "The signature is the following structure, followed by nothing:
//
//	struct {
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;"
func (v *verifier) sign(ctx context.Context, key Signer, c checkpoint) ([]byte, error) {
	ms := uint64(c.time.UnixMilli())
	signed, err := digitallySign(ctx, key, treeHead(ms, c.size, c.root))
	if err != nil {
		return nil, err
	}
	blob := binary.BigEndian.AppendUint32(nil, v.hash)
	blob = append(binary.BigEndian.AppendUint64(blob, ms), signed...)
	raw := fmt.Appendf(nil, "%s\n%d\n%s\n\n\u2014 %s %s\n", v.origin, c.size,
		base64.StdEncoding.EncodeToString(c.root[:]), v.origin, base64.StdEncoding.EncodeToString(blob))
	read, err := v.open(raw)
	if err != nil {
		return nil, fmt.Errorf("checking our own checkpoint: %w", err)
	}
	if read.size != c.size || read.root != c.root || !read.time.Equal(c.time) {
		return nil, fmt.Errorf("our own checkpoint %q says something else", raw)
	}
	return raw, nil
}

// open verifies a checkpoint and reads it.
func (v *verifier) open(raw []byte) (checkpoint, error) {
	if len(raw) > maxSmallFile {
		return checkpoint{}, fmt.Errorf("checkpoint of %d bytes", len(raw))
	}
	text, _, signed, err := f_log.ParseCheckpoint(raw, v.origin, v)
	if err != nil {
		return checkpoint{}, fmt.Errorf("verifying checkpoint under origin %q and this log's key: %w", v.origin, err)
	}
	if len(text.Hash) != sha256.Size {
		return checkpoint{}, fmt.Errorf("checkpoint with a root of %d bytes", len(text.Hash))
	}
	at, err := noteTimestamp(signed)
	if err != nil {
		return checkpoint{}, err
	}
	return checkpoint{size: text.Size, root: [32]byte(text.Hash), time: at, raw: raw}, nil
}

func noteTimestamp(n *note.Note) (time.Time, error) {
	if len(n.Sigs) != 1 {
		return time.Time{}, fmt.Errorf("checkpoint with %d signatures of this log", len(n.Sigs))
	}
	b, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(b) < 12 {
		return time.Time{}, errors.New("checkpoint with a malformed signature")
	}
	// The first four bytes are the key hash.
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[4:12]))).UTC(), nil
}
