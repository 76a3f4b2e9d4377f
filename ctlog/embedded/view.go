package embedded

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/disk"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/internal/sequence"
)

// View reads a log's directory and changes nothing in it, not even a lock. It
// works beside whoever has the log open, needs no private key, and proves what it
// reads against checkpoints. It is also all that there is to a frozen log.
type View struct {
	dir, tree string
	instance  instance
	info      Info
	verifier  *verifier
	files     *os.Root
}

// Head is a checkpoint of the log that was verified.
type Head struct {
	Size uint64
	Root [32]byte
	Time time.Time
	// Note is the checkpoint as it was published.
	Note []byte
}

func (c checkpoint) export() Head { return Head{Size: c.size, Root: c.root, Time: c.time, Note: c.raw} }

func (h Head) checkpoint() checkpoint {
	return checkpoint{size: h.Size, root: h.Root, time: h.Time, raw: h.Note}
}

// Head is the published checkpoint.
func (l *Log) Head() Head { return l.publisher.head.Load().export() }

// OpenView opens the log in a directory for reading. The caller closes it.
func OpenView(dir string) (*View, error) {
	v := &View{dir: dir, tree: filepath.Join(dir, treeDir)}
	if err := v.identify(); err != nil {
		return nil, fmt.Errorf("ctlog/embedded: reading log %s: %w", dir, err)
	}
	var err error
	if v.files, err = os.OpenRoot(v.tree); err != nil {
		return nil, fmt.Errorf("ctlog/embedded: reading log %s: %w", dir, err)
	}
	return v, nil
}

// Inspect says which log a directory holds.
func Inspect(dir string) (Info, error) {
	v := &View{dir: dir}
	if err := v.identify(); err != nil {
		return Info{}, fmt.Errorf("ctlog/embedded: reading log %s: %w", dir, err)
	}
	return v.info, nil
}

// identify reads who the log is, and that its public key is the one it was made
// with.
func (v *View) identify() error {
	in, err := readInstance(v.dir)
	if err != nil {
		return err
	}
	name := filepath.Join(v.dir, publicKeyFile)
	raw, err := readSmall(name)
	if err != nil {
		return err
	}
	block, rest := pem.Decode(raw)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		return fmt.Errorf("%s is not one PEM block", name)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	id := sha256.Sum256(block.Bytes)
	if !ok || hex.EncodeToString(id[:]) != in.LogID {
		return fmt.Errorf("%s is not the key of log %s", name, in.LogID)
	}
	v.instance = in
	v.info = Info{
		Origin: in.Origin, InstanceID: in.Instance, LogID: id, PublicKey: block.Bytes, PublicKeyFile: name,
		Created: in.Created, Activate: in.Activate, KeyPlace: in.Key, Frozen: in.Frozen,
	}
	v.verifier = newVerifier(in.Origin, id, public)
	return nil
}

// Info says which log it is.
func (v *View) Info() Info { return v.info }

// Close gives the directory free.
func (v *View) Close() error { return v.files.Close() }

// Head reads and verifies the published checkpoint.
func (v *View) Head() (Head, error) {
	raw, err := readSmall(filepath.Join(v.tree, layout.CheckpointPath))
	if err != nil {
		return Head{}, fmt.Errorf("reading published checkpoint: %w", err)
	}
	c, err := v.verifier.open(raw)
	if err != nil {
		return Head{}, err
	}
	return c.export(), nil
}

// RecordHead reads the checkpoint that the record at path has of this log.
func (v *View) RecordHead(path string) (Head, error) {
	r := record{fs: disk.OS{}, path: path, instance: v.instance.Instance}
	c, ok, err := r.read(v.verifier)
	if err != nil {
		return Head{}, err
	}
	if !ok {
		return Head{}, fmt.Errorf("there is no checkpoint record %s yet: %w", path, fs.ErrNotExist)
	}
	return c.export(), nil
}

// FreeBytes is the space that is left for the log.
func (v *View) FreeBytes() (uint64, error) {
	free, _, err := freeSpace(v.tree)
	return free, err
}

// ReadHandler serves the log as [Log.ReadHandler] does, under the checkpoint that
// is published now: that of a frozen log never changes.
func (v *View) ReadHandler() (http.Handler, error) {
	h, err := v.Head()
	if err != nil {
		return nil, err
	}
	head := h.checkpoint()
	return readHandler{files: v.files, head: func() *checkpoint { return &head }}, nil
}

// VerifyEntry proves from the tiles that a checkpoint covers an entry.
func (v *View) VerifyEntry(ctx context.Context, head Head, e LoggedEntry) error {
	builder, err := client.NewProofBuilder(ctx, head.Size, client.FileFetcher{Root: v.tree}.ReadTile)
	if err != nil {
		return fmt.Errorf("proving entry %d: %w", e.Index, err)
	}
	nodes, err := builder.InclusionProof(ctx, e.Index)
	if err != nil {
		return fmt.Errorf("proving entry %d: %w", e.Index, err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, e.Index, head.Size, e.LeafHash[:], nodes, head.Root[:]); err != nil {
		return fmt.Errorf("proving entry %d of %d: %w", e.Index, head.Size, err)
	}
	return nil
}

// Freeze makes a log read-only for good. Nobody may have it open, and its
// checkpoint must cover everything that was promised: open and close it before. A
// frozen log needs its private key no more.
func Freeze(dir string, at time.Time) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ctlog/embedded: freezing log %s: %w", dir, err)
		}
	}()
	v, err := OpenView(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if !v.info.Frozen.IsZero() {
		return nil
	}
	if v.instance.Version != instanceVersion {
		return errors.New("it was written by an earlier version; open it once before")
	}
	head, err := v.Head()
	if err != nil {
		return err
	}
	extent, err := sequence.Look(filepath.Join(dir, sequenceDir), v.instance.id(), func(sequence.Group) error { return nil })
	if err != nil {
		return err
	}
	if extent.Next != head.Size {
		return fmt.Errorf("the checkpoint covers %d entries of %d", head.Size, extent.Next)
	}
	in := v.instance
	in.Frozen = at.UTC().Truncate(time.Millisecond)
	if head.Time.After(in.Frozen) {
		in.Frozen = head.Time
	}
	return in.write(disk.OS{}, dir)
}
