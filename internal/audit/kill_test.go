package audit

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// childVariable makes this test binary a process that records until it is killed.
const childVariable = "MAYFLY_AUDIT_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		fmt.Fprintln(os.Stderr, recordForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// recordForEver says on standard output what was acknowledged, a line each,
// after the acknowledgement.
func recordForEver(dir string) error {
	c := config(dir)
	c.SegmentBytes = 100_000
	c.Clock = time.Now
	j, err := Open(context.Background(), c)
	if err != nil {
		return err
	}
	base := uint64(os.Getpid()) << 32
	var mu sync.Mutex // guards standard output
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	failed := make(chan error)
	for w := range uint64(8) {
		go func() {
			for i := uint64(0); ; i++ {
				n := base + w<<24 + i
				seq, err := j.Intent(context.Background(), childIntent(n))
				if err != nil {
					failed <- err
					return
				}
				say("intent %d %x", seq, serial(n))
				if err := j.Outcome(context.Background(), issued(seq, n)); err != nil {
					failed <- err
					return
				}
				say("outcome %d %x", seq, serial(n))
			}
		}()
	}
	return <-failed
}

// childIntent has no proven key: making one is not what is tested here.
func childIntent(n uint64) ca.Intent {
	return ca.Intent{Serial: serial(n), Chain: "2026", NotBefore: testTime, NotAfter: testTime}
}

func TestKillNineLosesNothingThatWasAcknowledged(t *testing.T) {
	dir := newDir(t)
	acknowledged := map[string]bool{} // "intent 12 40…": true
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged[lines.Text()] = true
			if n == 150+37*round {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("round %d: the child failed: %s", round, stderr.String())
		}
		checkAcknowledged(t, dir, acknowledged)
	}
	if len(acknowledged) < 900 {
		t.Errorf("only %d acknowledgements in all rounds, want at least 900", len(acknowledged))
	}
	closeJournal(t, openJournal(t, config(dir)))
	if r := mustVerify(t, dir); len(r.Open) != 0 || r.Segments < 3 {
		t.Errorf("report %+v, want no open intent and several segments", r)
	}
	checkAcknowledged(t, dir, acknowledged)
}

func checkAcknowledged(t *testing.T, dir string, acknowledged map[string]bool) {
	t.Helper()
	mustVerify(t, dir)
	found := map[string]bool{}
	for _, r := range records(t, dir) {
		switch {
		case r.Type == typeIntent:
			found[fmt.Sprintf("intent %d %v", r.Seq, at(r.Body, "certificate.serial"))] = true
		case r.Type == typeOutcome && r.Body["result"] == resultIssued:
			found[fmt.Sprintf("outcome %v %v", r.Body["intent"], r.Body["serial"])] = true
		}
	}
	for line := range acknowledged {
		if !found[line] {
			t.Errorf("%q was acknowledged and is not in the journal", line)
		}
	}
}
