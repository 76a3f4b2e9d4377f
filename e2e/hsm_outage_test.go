package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// maxReturn is how long after its token is back Mayfly may take for the first
// certificate.
const maxReturn = 5 * time.Second

// TestTokenGoesAndComesBackWhileServing takes the token's files away from a
// service under load and puts them back. SoftHSM finds them again only after it
// was initialised anew, so nothing of this heals by waiting.
func TestTokenGoesAndComesBackWhileServing(t *testing.T) {
	w := newHSMWorld(t, "ecdsa-p256")
	tokens := w.dir + "/tokens"
	load := w.startLoad(t, 4)
	load.await(t, 20)
	for round := range 3 {
		move(t, tokens, tokens+".away")
		w.mayfly.await(t, "refusal while the token is away", 10*time.Second, func() error {
			got := w.ask(t)
			if got.chain != nil {
				return fmt.Errorf("a certificate was issued")
			}
			return unavailable(got)
		})
		for range 5 {
			if err := unavailable(w.ask(t)); err != nil {
				t.Errorf("round %d, while the token is away: %v", round, err)
			}
		}
		if body, err := w.get("/readyz"); err == nil || !strings.Contains(err.Error(), `"signer":false`) {
			t.Errorf("round %d: /readyz says %s, %v; want signer false", round, body, err)
		}
		move(t, tokens+".away", tokens)
		back := time.Now()
		var first answer
		w.mayfly.await(t, "certificate after the token is back", 2*maxReturn, func() error {
			first = w.ask(t)
			if first.chain == nil {
				return fmt.Errorf("refused with %v", first)
			}
			return nil
		})
		took := time.Since(back)
		t.Logf("round %d: first certificate %v after the token was back", round, took.Round(time.Millisecond))
		if took > maxReturn {
			t.Errorf("round %d: the first certificate took %v, want at most %v", round, took, maxReturn)
		}
		w.checkLeaf(t, first.chain[0])
		w.mustGet(t, "/readyz")
	}
	load.end()
	for _, err := range load.broken {
		t.Errorf("a request had no answer: %v", err)
	}
	for _, got := range load.refused {
		if err := unavailable(got); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d certificates, %d refusals", len(load.leaves), len(load.refused))
	w.stopsInOrder(t)
}

// ask asks for a certificate once.
func (w *world) ask(t testing.TB) answer {
	t.Helper()
	got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	return got
}

// unavailable demands the answer after which clients try again, in time.
func unavailable(got answer) error {
	if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || got.took > maxRefusal {
		return fmt.Errorf("answer is %v with Retry-After %q; want 503 and a time within %v", got, got.header.Get("Retry-After"), maxRefusal)
	}
	return nil
}

// stopsInOrder shows that the process is the one that was started, for only that
// one can be terminated, and that everything which was issued is recorded.
func (w *world) stopsInOrder(t testing.TB) {
	t.Helper()
	if err := w.mayfly.terminate(t, 10*time.Second); err != nil {
		t.Errorf("stopping: %v, want exit code 0", err)
	}
	w.journal(t).checkClosed(t)
}

func move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
