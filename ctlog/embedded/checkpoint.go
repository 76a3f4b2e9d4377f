package embedded

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
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

// signTreeHead makes the signature bytes of a checkpoint.
//
// static-ct-api: "The signature is the following structure, followed by nothing:
//
//	struct {
//	    uint64 timestamp;
//	    TreeHeadSignature signature;
//	} RFC6962NoteSignature;"
func signTreeHead(key crypto.Signer, c checkpoint) ([]byte, error) {
	ms := uint64(c.time.UnixMilli())
	signed, err := digitallySign(key, treeHead(ms, c.size, c.root))
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, ms), signed...), nil
}

// digitallySign signs a SHA-256 digest and encodes the digitally-signed struct.
func digitallySign(key crypto.Signer, digest [32]byte) ([]byte, error) {
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddUint8(4) // sha256
	b.AddUint8(3) // ecdsa
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(signature) })
	return b.Bytes()
}

// verifier is a note.Verifier for checkpoints of a static-ct-api log. The one of
// transparency-dev/formats panics on a short signature.
type verifier struct {
	origin string
	hash   uint32
	key    *ecdsa.PublicKey
}

func newVerifier(origin string, logID [32]byte, key *ecdsa.PublicKey) *verifier {
	return &verifier{origin: origin, hash: noteKeyHash(origin, logID), key: key}
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
	var algorithm uint16
	var signature cryptobyte.String
	if !in.ReadUint64(&ms) || !in.ReadUint16(&algorithm) || algorithm != 0x0403 ||
		!in.ReadUint16LengthPrefixed(&signature) || !in.Empty() {
		return false
	}
	digest := treeHead(ms, text.Size, [32]byte(text.Hash))
	return ecdsa.VerifyASN1(v.key, digest[:], signature)
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
