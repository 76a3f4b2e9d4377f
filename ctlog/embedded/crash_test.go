package embedded

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
)

// The test binary runs itself for what must happen in another process.
const (
	childVariable  = "MAYFLY_EMBEDDED_CHILD"
	roundsVariable = "MAYFLY_EMBEDDED_CRASH_ROUNDS"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "writer":
		writerChild(os.Args[1], os.Args[2])
	case "opener":
		openerChild(os.Args[1])
	case "starved":
		starvedChild(os.Args[1])
	case "tessera":
		tesseraChild(os.Args[1], os.Args[2])
	case "fulldisk":
		fullDiskChild(os.Args[1])
	case "fsck":
		fsckChild(os.Args[1])
	default:
		os.Exit(m.Run())
	}
}

func child(ctx context.Context, role string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"="+role)
	return cmd
}

// childTB lets a child use helpers that want a test.
type childTB struct{ testing.TB }

func (childTB) Helper() {}
func (childTB) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(2)
}

// ackSize is small enough that the pipe takes an acknowledgement whole or not.
const ackSize = 8 + 32

// writerChild logs until it is killed, and says on standard output which leaf it
// has an SCT for at which index.
func writerChild(dir, record string) {
	t := childTB{}
	l, err := Open(context.Background(), Config{
		Dir: dir, CheckpointRecord: record, MinFreeBytes: 1, PublishInterval: 100 * time.Millisecond, segmentBytes: 5 << 20,
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	ca := testca.New(t)
	for range 64 {
		go func() {
			for {
				s := ca.Precertificate(t)
				sct, err := l.Submit(context.Background(), s)
				if err != nil {
					t.Fatalf("Submit: %v", err)
				}
				hash, err := ctlog.LeafHash(s, sct)
				if err != nil {
					t.Fatalf("LeafHash: %v", err)
				}
				ack := binary.BigEndian.AppendUint64(nil, uint64(sct.Index))
				if _, err := os.Stdout.Write(append(ack, hash[:]...)); err != nil {
					t.Fatalf("acknowledging: %v", err)
				}
			}
		}()
	}
	select {}
}

// runAndKill reads acknowledgements until there are enough, kills the child
// there and then, and reads the rest from the pipe.
func runAndKill(t *testing.T, dir, record string, enough int, acked map[uint64][32]byte) {
	t.Helper()
	cmd := child(t.Context(), "writer", dir, record)
	var complaint limitedBuffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n == enough {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		var ack [ackSize]byte
		if _, err := io.ReadFull(in, ack[:]); err != nil {
			if n < enough {
				_ = cmd.Wait()
				t.Fatalf("the child ended after %d acknowledgements: %v\n%s", n, err, complaint)
			}
			break
		}
		index, hash := binary.BigEndian.Uint64(ack[:8]), [32]byte(ack[8:])
		if other, ok := acked[index]; ok {
			t.Fatalf("index %d was given to two entries: %x and %x", index, other, hash)
		}
		acked[index] = hash
	}
	_ = cmd.Wait() // killed
}

type limitedBuffer []byte

func (b *limitedBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), max(0, 4096-len(*b)))]...)
	return len(p), nil
}

func TestKillNineLosesNothingThatWasAcknowledged(t *testing.T) {
	rounds := 20
	if s := os.Getenv(roundsVariable); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s=%q: %v", roundsVariable, s, err)
		}
	}
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.CheckpointRecord = filepath.Join(t.TempDir(), "record.json")
	tree := filepath.Join(dir, treeDir)
	acked := make(map[uint64][32]byte)
	var published []checkpoint
	for round := range rounds {
		enough := 1 + rand.IntN(250)
		if round%4 == 3 {
			enough *= 4 // past publications, tiles and segments
		}
		runAndKill(t, dir, c.CheckpointRecord, enough, acked)
		l := openLog(t, c)
		// What the killed process had published, then what this one publishes.
		raw, err := l.readPublished()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		published = append(published, raw)
		submit(t, l, testca.New(t).Precertificate(t))
		closeLog(t, l)
		if raw, err = l.readPublished(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		published = append(published, raw)
		hashes, err := client.FetchLeafHashes(t.Context(), client.FileFetcher{Root: tree}.ReadTile, 0, raw.size, raw.size)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for index, want := range acked {
			if index >= raw.size {
				t.Fatalf("round %d: entry %d was acknowledged, but the tree has %d", round, index, raw.size)
			}
			if got := [32]byte(hashes[index]); got != want {
				t.Fatalf("round %d: entry %d is %x, but %x was acknowledged", round, index, got, want)
			}
		}
	}
	for i := 1; i < len(published); i++ {
		err := proveConsistency(t.Context(), client.FileFetcher{Root: tree}.ReadTile, published[i-1], published[i])
		if err != nil {
			t.Errorf("checkpoint %d: %v", i, err)
		}
	}
	t.Logf("%d rounds, %d acknowledged, tree of %d", rounds, len(acked), published[len(published)-1].size)
	checkWithFsck(t, dir)
}

func openerChild(dir string) {
	if _, err := Open(context.Background(), Config{Dir: dir, MinFreeBytes: 1}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestASecondProcessIsRefused(t *testing.T) {
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	out, err := child(t.Context(), "opener", dir).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Fatalf("the second process ended with %v, want exit code 1: %s", err, out)
	}
	closeLog(t, l)
	if out, err := child(t.Context(), "opener", dir).CombinedOutput(); err != nil {
		t.Fatalf("after Close another process is refused: %v: %s", err, out)
	}
}

// starvedChild takes the process's file descriptors away while the log is open.
func starvedChild(dir string) {
	t := childTB{}
	l, err := Open(context.Background(), Config{Dir: dir, MinFreeBytes: 1})
	if err != nil {
		t.Fatalf("%v", err)
	}
	ca := testca.New(t)
	submit := func() error {
		_, err := l.Submit(context.Background(), ca.Precertificate(t))
		return err
	}
	if err := submit(); err != nil {
		t.Fatalf("with descriptors: %v", err)
	}
	var held []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		held = append(held, f)
	}
	// What is in hand is sequenced without any. The watcher then stops the rest.
	for errors.Is(submit(), nil) {
	}
	if err := submit(); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Fatalf("without descriptors: %v, want ErrOverloaded", err)
	}
	for _, f := range held {
		_ = f.Close()
	}
	l.observe(time.Now())
	if err := submit(); err != nil {
		t.Fatalf("with descriptors again: %v", err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatalf("Close: %v", err)
	}
	os.Exit(0)
}

func TestWantOfDescriptorsIsSurvived(t *testing.T) {
	dir, _ := initLog(t)
	// The limit is the shell's to set: Go's runtime raises it at its start, but
	// not over the hard limit.
	cmd := child(t.Context(), "starved", dir)
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -n 128; exec "$0" "$1"`, os.Args[0], dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// bundleFetcher is a client.FileFetcher for the layout of static-ct-api.
type bundleFetcher struct{ client.FileFetcher }

func (f bundleFetcher) ReadEntryBundle(_ context.Context, index uint64, p uint8) ([]byte, error) {
	return readBundle(f.Root, index, p)
}

// fsckChild checks the whole log with Tessera's own checker. It lives in a
// process of its own because it hangs, or exits, on a corrupt log.
func fsckChild(dir string) {
	t := childTB{}
	in, key, err := loadInstance(dir, nil)
	if err != nil {
		t.Fatalf("%v", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatalf("%v", err)
	}
	public, err := ctlog.ParseKey(spki)
	if err != nil {
		t.Fatalf("%v", err)
	}
	hasher := func(bundle []byte) ([][]byte, error) {
		leaves, err := parseBundle(bundle)
		hashes := make([][]byte, len(leaves))
		for i := range leaves {
			hashes[i] = leaves[i].hash[:]
		}
		return hashes, err
	}
	v := newVerifier(in.Origin, public.ID(), key.Public().(*ecdsa.PublicKey))
	files := bundleFetcher{client.FileFetcher{Root: filepath.Join(dir, treeDir)}}
	if err := fsck.New(in.Origin, v, files, hasher, fsck.Opts{N: 2}).Check(context.Background()); err != nil {
		t.Fatalf("fsck: %v", err)
	}
	os.Exit(0)
}

func checkWithFsck(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if out, err := child(ctx, "fsck", dir).CombinedOutput(); err != nil {
		t.Errorf("fsck: %v\n%s", err, out)
	}
}
