package e2e

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// Bounds of the crash test. Rounds are few in CI; MAYFLY_E2E_CRASH_ROUNDS
// raises them.
const (
	defaultCrashRounds = 5
	maxCrashRounds     = 1000
	crashClients       = 12
	maxBeforeCrash     = 200 // certificates received before the kill
)

func crashRounds(t testing.TB) int {
	t.Helper()
	text := os.Getenv("MAYFLY_E2E_CRASH_ROUNDS")
	if text == "" {
		return defaultCrashRounds
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxCrashRounds {
		t.Fatalf("MAYFLY_E2E_CRASH_ROUNDS is %q, want a number from 1 to %d", text, maxCrashRounds)
	}
	return n
}

// TestNothingIsLostByKill kills the service under load, at a moment that falls
// anywhere in the issuances under way, and starts it again. What a client
// received must be recorded and logged; what is recorded must be settled; the
// log must contain what it was before. What the kernel was given survives a
// kill, so this shows the order of things and the recovery; that files are
// synced is for the tests of the packages that write them.
func TestNothingIsLostByKill(t *testing.T) {
	w := newWorld(t, setting{limits: noLimits})
	rounds := crashRounds(t)
	var (
		held  []*x509.Certificate // by clients, of all rounds
		trees []tlog.Tree         // seen before kills
		cut   int                 // requests that a kill left without an answer
	)
	for round := range rounds {
		load := w.startLoad(t, crashClients)
		load.await(t, 1+rand.IntN(maxBeforeCrash))
		tree, err := w.log(t).checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		w.mayfly.kill()
		load.end()
		if len(load.refused) > 0 {
			t.Errorf("round %d: %d requests refused before the kill, the first with %v", round, len(load.refused), load.refused[0])
		}
		held, trees = append(held, load.leaves...), append(trees, tree)
		cut += len(load.broken)
		w.http.CloseIdleConnections()
		w.serve(t)
		w.checkAfterCrash(t, load.leaves, trees)
		if t.Failed() {
			t.Fatalf("round %d of %d failed", round, rounds)
		}
	}
	j, tree := w.journal(t), w.checkWholeLog(t, held)
	t.Logf("%d kills cut off %d requests; clients hold %d certificates; the log has %d entries; %d of %d intents were closed as unknown",
		rounds, cut, len(held), tree.N, j.checkClosed(t), len(j.intents))
	if cut == 0 {
		t.Error("no kill hit a request under way; nothing was tested")
	}
	if err := w.mayfly.terminate(t, startTime); err != nil {
		t.Errorf("stopping: %v, want exit code 0", err)
	}
}

// checkAfterCrash looks at what the last round left behind.
func (w *world) checkAfterCrash(t *testing.T, leaves []*x509.Certificate, trees []tlog.Tree) {
	t.Helper()
	j, log := w.journal(t), w.log(t)
	j.checkClosed(t)
	var last int64
	promises := make([]promise, 0, len(leaves))
	for _, leaf := range leaves {
		j.checkIssued(t, leaf)
		p, err := log.promised(leaf, w.issuing(t))
		if err != nil {
			t.Error(err)
			continue
		}
		promises, last = append(promises, p), max(last, p.index+1)
	}
	tree := log.awaitCheckpoint(t, max(last, trees[len(trees)-1].N))
	for _, earlier := range trees {
		log.checkConsistent(t, earlier, tree)
	}
	for _, p := range promises {
		if err := log.prove(tree, p); err != nil {
			t.Error(err)
		}
	}
}

// checkWholeLog reads every entry of the log: each must be one that the journal
// has an intent for, and no two certificates share one.
func (w *world) checkWholeLog(t *testing.T, held []*x509.Certificate) tlog.Tree {
	t.Helper()
	j, log := w.journal(t), w.log(t)
	tree := log.awaitCheckpoint(t, int64(len(held)))
	entries, err := log.entries(tree)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		hash := sha256.Sum256(e.tbs)
		if _, ok := j.byTBS[hex.EncodeToString(hash[:])]; !ok {
			t.Errorf("entry %d of the log has no intent in the journal", i)
		}
	}
	indexes := map[int64]bool{}
	for _, leaf := range held {
		p, err := log.promised(leaf, w.issuing(t))
		if err != nil {
			t.Fatal(err)
		}
		if indexes[p.index] {
			t.Errorf("two certificates were promised the index %d", p.index)
		}
		indexes[p.index] = true
	}
	return tree
}
