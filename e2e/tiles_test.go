package e2e

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// logReader reads the log as a monitor would, from its public address. Tiles
// and proofs are those of Go's checksum database, leaves those of
// certificate-transparency-go: nothing of it was used to write the log.
type logReader struct {
	url    string
	client *http.Client
	key    *ecdsa.PublicKey
	id     [32]byte // SHA-256 of the key
}

func (w *world) log(t testing.TB) *logReader {
	t.Helper()
	der := readFile(t, w.logKey)
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatalf("reading the log's key: %v", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the log's key is a %T, want ECDSA", key)
	}
	return &logReader{url: w.url + "/log/" + logName, client: w.http, key: ec, id: sha256.Sum256(der)}
}

// The methods that follow verify the signature of a checkpoint. static-ct-api:
// "The signature [...] MUST be [...] RFC6962NoteSignature", with the origin line
// as the key's name.

func (l *logReader) Name() string { return strings.TrimPrefix(l.url, "https://") }

// KeyHash is the first bytes of SHA-256(name, newline, 0x05, log ID).
func (l *logReader) KeyHash() uint32 {
	h := sha256.New()
	h.Write(append([]byte(l.Name()+"\n\x05"), l.id[:]...))
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Verify checks
//
//	struct {
//	  uint64 timestamp;
//	  TreeHeadSignature signature;
//	} RFC6962NoteSignature;
//
// over the tree head of RFC 6962, Section 3.5, made of the note's own lines.
func (l *logReader) Verify(msg, sig []byte) bool {
	tree, err := parseTree(msg)
	if err != nil || len(sig) < 12 || sig[8] != 4 || sig[9] != 3 || int(binary.BigEndian.Uint16(sig[10:])) != len(sig)-12 {
		return false
	}
	head := append([]byte{0, 1}, sig[:8]...) // version, tree_hash, timestamp
	head = binary.BigEndian.AppendUint64(head, uint64(tree.N))
	digest := sha256.Sum256(append(head, tree.Hash[:]...))
	return ecdsa.VerifyASN1(l.key, digest[:], sig[12:])
}

// parseTree reads size and root below the origin line. The format is that of
// the checksum database with another first line.
func parseTree(msg []byte) (tlog.Tree, error) {
	_, rest, ok := strings.Cut(string(msg), "\n")
	if !ok {
		return tlog.Tree{}, errors.New("checkpoint of one line")
	}
	return tlog.ParseTree([]byte("go.sum database tree\n" + rest))
}

// checkpoint reads the latest checkpoint and verifies its signature.
func (l *logReader) checkpoint() (tlog.Tree, error) {
	raw, err := fetch(l.client, l.url+"/checkpoint")
	if err != nil {
		return tlog.Tree{}, err
	}
	n, err := note.Open(raw, note.VerifierList(l))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("verifying checkpoint %q: %w", raw, err)
	}
	if origin, _, _ := strings.Cut(n.Text, "\n"); origin != l.Name() {
		return tlog.Tree{}, fmt.Errorf("checkpoint is of %q, want %q", origin, l.Name())
	}
	return parseTree([]byte(n.Text))
}

// awaitCheckpoint waits for a checkpoint that covers so many entries; the log
// publishes within a second or two.
func (l *logReader) awaitCheckpoint(t testing.TB, size int64) tlog.Tree {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		tree, err := l.checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		if tree.N >= size {
			return tree
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("checkpoint covers %d entries after ten seconds, want %d", tree.N, size)
		}
	}
}

// hashes returns a reader of the tree's hashes, which checks every tile against
// the root.
func (l *logReader) hashes(tree tlog.Tree) tlog.HashReader { return tlog.TileHashReader(tree, l) }

func (l *logReader) Height() int                         { return 8 }
func (l *logReader) SaveTiles(_ []tlog.Tile, _ [][]byte) {}

func (l *logReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// static-ct-api has the checksum database's paths without the height.
		data, err := fetch(l.client, l.url+"/tile/"+strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// promise is what the SCT in a certificate promises.
type promise struct {
	index int64
	leaf  tlog.Hash
}

// promised verifies the one SCT in a certificate and returns what is therefore
// in the log.
func (l *logReader) promised(leaf, issuer *x509.Certificate) (promise, error) {
	scts, err := x509util.ParseSCTsFromCertificate(leaf.Raw)
	if err != nil || len(scts) != 1 {
		return promise{}, fmt.Errorf("certificate %x has %d SCTs, want 1 (%w)", leaf.SerialNumber, len(scts), err)
	}
	sct := scts[0]
	var chain []*ctx509.Certificate
	for _, cert := range []*x509.Certificate{leaf, issuer} {
		parsed, err := ctx509.ParseCertificate(cert.Raw)
		if ctx509.IsFatal(err) {
			return promise{}, fmt.Errorf("certificate-transparency-go does not read the certificate: %w", err)
		}
		chain = append(chain, parsed)
	}
	entry, err := ct.MerkleTreeLeafForEmbeddedSCT(chain, sct.Timestamp)
	if err != nil {
		return promise{}, fmt.Errorf("making the log entry: %w", err)
	}
	entry.TimestampedEntry.Extensions = sct.Extensions // the function leaves them out
	verifier, err := ct.NewSignatureVerifier(l.key)
	if err != nil {
		return promise{}, err
	}
	if err := verifier.VerifySCTSignature(*sct, ct.LogEntry{Leaf: *entry}); err != nil {
		return promise{}, fmt.Errorf("verifying SCT: %w", err)
	}
	// static-ct-api: extension 0 is leaf_index, a uint40.
	e := sct.Extensions
	if len(e) != 8 || e[0] != 0 || e[1] != 0 || e[2] != 5 {
		return promise{}, fmt.Errorf("SCT extensions are %x, want a leaf_index", e)
	}
	hash, err := ct.LeafHashForLeaf(entry)
	if err != nil {
		return promise{}, err
	}
	return promise{int64(e[3])<<32 | int64(binary.BigEndian.Uint32(e[4:])), hash}, nil
}

// prove computes the inclusion proof of an entry from tiles and checks it.
func (l *logReader) prove(tree tlog.Tree, p promise) error {
	proof, err := tlog.ProveRecord(tree.N, p.index, l.hashes(tree))
	if err != nil {
		return fmt.Errorf("computing the inclusion proof of entry %d in %d: %w", p.index, tree.N, err)
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, p.index, p.leaf); err != nil {
		return fmt.Errorf("entry %d in %d is not the certificate: %w", p.index, tree.N, err)
	}
	return nil
}

// checkConsistent demands that the later tree contains the earlier one.
func (l *logReader) checkConsistent(t testing.TB, earlier, later tlog.Tree) {
	t.Helper()
	if earlier.N == 0 {
		return
	}
	proof, err := tlog.ProveTree(later.N, earlier.N, l.hashes(later))
	if err != nil {
		t.Errorf("computing the consistency proof of %d and %d: %v", earlier.N, later.N, err)
		return
	}
	if err := tlog.CheckTree(proof, later.N, later.Hash, earlier.N, earlier.Hash); err != nil {
		t.Errorf("tree of %d entries does not contain the tree of %d: %v", later.N, earlier.N, err)
	}
}

// issuing is the certificate that signs leaves.
func (w *world) issuing(t testing.TB) *x509.Certificate {
	t.Helper()
	cert, err := parsePEM(readFile(t, w.pki.file("corp.crt")))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// checkLogged demands that a certificate is in the log where its SCT says.
func (w *world) checkLogged(t testing.TB, leaf *x509.Certificate) promise {
	t.Helper()
	log := w.log(t)
	p, err := log.promised(leaf, w.issuing(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := log.prove(log.awaitCheckpoint(t, p.index+1), p); err != nil {
		t.Error(err)
	}
	return p
}

func TestEveryCertificateIsProvedFromTiles(t *testing.T) {
	w := newWorld(t, setting{limits: noLimits})
	const n = 300 // more than one tile
	log := w.log(t)
	var before tlog.Tree
	for i := range n {
		chain := w.mustIssue(t, alice)
		if i%97 != 0 && i != n-1 {
			continue
		}
		if p := w.checkLogged(t, chain[0]); p.index != int64(i) {
			t.Errorf("certificate %d has index %d", i, p.index)
		}
		tree := log.awaitCheckpoint(t, int64(i)+1)
		log.checkConsistent(t, before, tree)
		before = tree
	}
	// The test can fail: an entry is not at its neighbour's index, and a tree
	// does not contain another of the same size.
	p := w.checkLogged(t, w.mustIssue(t, alice)[0])
	tree := log.awaitCheckpoint(t, p.index+1)
	if err := log.prove(tree, promise{p.index - 1, p.leaf}); err == nil {
		t.Error("an entry was proved at an index where it is not")
	}
}
