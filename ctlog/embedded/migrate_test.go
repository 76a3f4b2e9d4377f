package embedded

import (
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	f_log "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
)

// tesseraSigner signs what Tessera wants to publish, as version 1 did.
type tesseraSigner struct {
	*verifier
	key Signer
}

func (s tesseraSigner) Sign(msg []byte) ([]byte, error) {
	var text f_log.Checkpoint
	if _, err := text.Unmarshal(msg); err != nil {
		return nil, err
	}
	ms := uint64(time.Now().UnixMilli())
	signed, err := digitallySign(context.Background(), s.key, treeHead(ms, text.Size, [32]byte(text.Hash)))
	return append(binary.BigEndian.AppendUint64(nil, ms), signed...), err
}

// tesseraLog makes a log of version 1 with n entries, written by Tessera, of
// which the published checkpoint may lack the last.
func tesseraLog(t *testing.T, n int) string {
	t.Helper()
	dir, _ := initLog(t)
	in, err := readInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{sequenceDir, treeDir} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	in.Version = tesseraVersion
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, instanceFile), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := child(t.Context(), "tessera", dir, strconv.Itoa(n)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// tesseraChild has a process of its own because Tessera's goroutines cannot be
// waited for.
func tesseraChild(dir, count string) {
	t, ctx := childTB{}, context.Background()
	check := func(err error) {
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	n, err := strconv.Atoi(count)
	check(err)
	in, key, err := loadInstance(dir, nil)
	check(err)
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(dir, treeDir)})
	check(err)
	id, err := hex.DecodeString(in.LogID)
	check(err)
	v := newVerifier(in.Origin, [32]byte(id), key.Public().(*ecdsa.PublicKey))
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(tesseraSigner{v, key}).WithCTLayout().WithBatching(256, 20*time.Millisecond).
		WithCheckpointInterval(100*time.Millisecond))
	check(err)
	add := tessera.NewCertificateTransparencyAppender(appender)
	ca := testca.New(t)
	futures := make([]tessera.IndexFuture, n)
	for i := range n {
		s := ca.Precertificate(t)
		futures[i] = add(ctx, &ctonly.Entry{
			Timestamp: uint64(time.Now().UnixMilli()), IsPrecert: true, Certificate: s.TBS, Precertificate: s.Precertificate,
			IssuerKeyHash: s.IssuerKeyHash[:], FingerprintsChain: fingerprints(s.Issuers),
		})
	}
	for _, f := range futures {
		_, err := f()
		check(err)
	}
	check(shutdown(ctx))
	os.Exit(0)
}

func TestOpenTakesOverWhatTesseraWrote(t *testing.T) {
	for _, n := range []int{0, 256, 300} {
		dir := tesseraLog(t, n)
		tree := filepath.Join(dir, treeDir)
		// What an interrupted batch left behind.
		for _, name := range []string{"tile/data/000.p/5123456789", "tile/0/001.p/99", "checkpoint99", ".state/treeState77"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(tree, name), []byte("half"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		l := openLog(t, testConfig(t, dir))
		if sct := submit(t, l, testca.New(t).Precertificate(t)); sct.Index != int64(n) {
			t.Errorf("after %d entries: the next has index %d", n, sct.Index)
		}
		closeLog(t, l)
		for _, name := range []string{"tile/data/000.p/5123456789", "tile/0/001.p/99", "checkpoint99", ".state"} {
			if _, err := os.Stat(filepath.Join(tree, name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after %d entries: %s is still there: %v", n, name, err)
			}
		}
		checkWithFsck(t, dir)
		closeLog(t, openLog(t, testConfig(t, dir)))
	}
}

// Tessera's state may be ahead of the checkpoint by entries that have SCTs.
func TestTakingOverPublishesWhatWasPromised(t *testing.T) {
	dir := tesseraLog(t, 3)
	early, err := os.ReadFile(filepath.Join(dir, treeDir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(early), testOrigin+"\n3\n") {
		t.Fatalf("checkpoint %q, want three entries", early)
	}
	_, key, err := loadInstance(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{tree: filepath.Join(dir, treeDir)}
	in, err := readInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := hex.DecodeString(in.LogID)
	if err != nil {
		t.Fatal(err)
	}
	l.verifier = newVerifier(in.Origin, [32]byte(id), key.Public().(*ecdsa.PublicKey))
	empty, err := l.verifier.sign(t.Context(), key, checkpoint{root: emptyRoot, time: in.Created})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.tree, "checkpoint"), empty, 0o644); err != nil {
		t.Fatal(err)
	}
	closeLog(t, openLog(t, testConfig(t, dir)))
	if head, err := l.readPublished(); err != nil || head.size != 3 {
		t.Fatalf("published after taking over: %+v, %v; want three entries", head, err)
	}
	checkWithFsck(t, dir)
}

func TestTakingOverRefuses(t *testing.T) {
	good := tesseraLog(t, 3)
	for name, c := range map[string]struct {
		change func(tree string) error
		want   string
	}{
		"no state": {func(tree string) error { return os.RemoveAll(filepath.Join(tree, stateDir)) }, "the tree is gone"},
		"old state": {func(tree string) error {
			return os.WriteFile(filepath.Join(tree, stateDir, "treeState"),
				[]byte(`{"size":2,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`), 0o644)
		}, "the tree has shrunk"},
		"a state that is a lie": {func(tree string) error {
			return os.WriteFile(filepath.Join(tree, stateDir, "treeState"),
				[]byte(`{"size":3,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`), 0o644)
		}, "two roots for 3 entries"},
		"tiles far ahead": {func(tree string) error {
			return os.WriteFile(filepath.Join(tree, "tile/data/009"), nil, 0o644)
		}, "the state is an old copy"},
		"a later version": {func(tree string) error {
			path := filepath.Join(filepath.Dir(tree), instanceFile)
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(strings.Replace(string(raw), `"version":1`, `"version":3`, 1)), 0o644)
		}, "by a later Mayfly"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			copyTree(t, good, dir)
			if err := c.change(filepath.Join(dir, treeDir)); err != nil {
				t.Fatal(err)
			}
			refused(t, testConfig(t, dir), c.want)
		})
	}
}
