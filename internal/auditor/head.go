package auditor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	f_log "github.com/transparency-dev/formats/log"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"
)

// Head is a tree head of a log whose signature was verified.
type Head struct {
	Size uint64    `json:"size"`
	Root [32]byte  `json:"-"`
	Time time.Time `json:"time"`
	// Note is the head as the log published it: a checkpoint, or an STH in JSON.
	Note string `json:"note"`
}

// errHead says that a tree head is not one of the configured log.
var errHead = errors.New("the tree head is not to be believed")

// Key is the public key of a log.
type Key struct {
	// ID is SHA-256 of the SubjectPublicKeyInfo.
	ID     [32]byte
	public crypto.PublicKey
}

// ParseKey reads a SubjectPublicKeyInfo, PEM or DER: ECDSA or RSA.
func ParseKey(raw []byte) (Key, error) {
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	public, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return Key{}, fmt.Errorf("parsing log key: %w", err)
	}
	switch public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		return Key{ID: sha256.Sum256(raw), public: public}, nil
	}
	return Key{}, fmt.Errorf("parsing log key: %T is no key of a log", public)
}

// verifyHead checks the signature of a tree head.
//
//	// RFC 6962, Section 3.5
//	digitally-signed struct {
//	    Version version;
//	    SignatureType signature_type = tree_hash;
//	    uint64 timestamp;
//	    uint64 tree_size;
//	    opaque sha256_root_hash[32];
//	} TreeHeadSignature;
func (k Key) verifyHead(ms, size uint64, root [32]byte, signed []byte) bool {
	var b cryptobyte.Builder
	b.AddUint8(0)
	b.AddUint8(1)
	b.AddUint64(ms)
	b.AddUint64(size)
	b.AddBytes(root[:])
	digest := sha256.Sum256(b.BytesOrPanic())
	in := cryptobyte.String(signed)
	var algorithm uint16
	var signature cryptobyte.String
	if !in.ReadUint16(&algorithm) || !in.ReadUint16LengthPrefixed(&signature) || !in.Empty() {
		return false
	}
	// RFC 5246, Section 7.4.1.4.1: sha256(4), rsa(1), ecdsa(3).
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return algorithm == 0x0403 && ecdsa.VerifyASN1(public, digest[:], signature)
	case *rsa.PublicKey:
		return algorithm == 0x0401 && rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

// checkpoints verifies the checkpoints of a static-ct-api log. It is a
// note.Verifier.
type checkpoints struct {
	origin string
	key    Key
}

// Name implements note.Verifier.
func (c checkpoints) Name() string { return c.origin }

// KeyHash implements note.Verifier.
//
// static-ct-api: "key ID = SHA-256(key name || 0x0A || 0x05 || RFC 6962 LogID)[:4]"
func (c checkpoints) KeyHash() uint32 {
	h := sha256.New()
	h.Write([]byte(c.origin + "\n\x05"))
	h.Write(c.key.ID[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Verify implements note.Verifier. A signature is a timestamp and the signature of
// RFC 6962 over it.
func (c checkpoints) Verify(msg, sig []byte) bool {
	var text f_log.Checkpoint
	if rest, err := text.Unmarshal(msg); err != nil || len(rest) != 0 || text.Origin != c.origin || len(text.Hash) != sha256.Size {
		return false
	}
	in := cryptobyte.String(sig)
	var ms uint64
	return in.ReadUint64(&ms) && c.key.verifyHead(ms, text.Size, [32]byte(text.Hash), in)
}

func (c checkpoints) open(raw []byte) (Head, error) {
	if c.origin == "" {
		origin, _, _ := strings.Cut(string(raw), "\n")
		c.origin = origin
	}
	text, _, signed, err := f_log.ParseCheckpoint(raw, c.origin, c)
	if err != nil {
		return Head{}, fmt.Errorf("%w: verifying the checkpoint under the origin %q and the configured key: %w", errHead, c.origin, err)
	}
	ms, err := noteTime(signed)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", errHead, err)
	}
	if len(text.Hash) != sha256.Size {
		return Head{}, fmt.Errorf("%w: a root of %d bytes", errHead, len(text.Hash))
	}
	return Head{Size: text.Size, Root: [32]byte(text.Hash), Time: time.UnixMilli(ms).UTC(), Note: string(raw)}, nil
}

func noteTime(n *note.Note) (int64, error) {
	if len(n.Sigs) != 1 {
		return 0, fmt.Errorf("%d signatures of this log", len(n.Sigs))
	}
	b, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(b) < 12 {
		return 0, errors.New("malformed signature")
	}
	ms := binary.BigEndian.Uint64(b[4:12]) // behind the key hash
	if ms > 1<<53 {
		return 0, errors.New("timestamp out of range")
	}
	return int64(ms), nil
}
