package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// maxRefusal is how long the refusal of a request may take when its log fails:
// less than the five seconds after which npm's client gives up.
const maxRefusal = 4 * time.Second

// TestLogOutageIsAFast503 has the only log fail in every way. No failure may
// become a certificate, a hang or a 4xx, after which clients would not try
// again; and none may outlast itself.
func TestLogOutageIsAFast503(t *testing.T) {
	remote := newRemoteLog(t)
	w := newWorld(t, setting{limits: noLimits, logs: fmt.Sprintf("  - {name: far, remote: {url: %s, public_key: %s}}\n", remote.url, remote.publicKey)})
	w.mustIssue(t, alice)
	for _, mode := range []string{hangs, trickles, breaksOff, overloads, fails5, refuses4, isGarbage, isForeign} {
		t.Run(mode, func(t *testing.T) {
			remote.mode.Store(mode)
			w.refusedBy(t, remote)
			// As soon as the log works, so does the CA, though it may rest the
			// log for a moment.
			remote.mode.Store(works)
			w.mayfly.await(t, "certificate once the log works", 10*time.Second, func() error {
				got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
				if err == nil && got.chain == nil {
					err = fmt.Errorf("refused with %v", got)
				}
				return err
			})
		})
	}
	w.journal(t).checkClosed(t)
}

// refusedBy asks until the log itself was asked and failed, which a rest after
// an earlier failure may delay.
func (w *world) refusedBy(t *testing.T, remote *remoteLog) {
	t.Helper()
	before := remote.asked.Load()
	w.mayfly.await(t, "request at the log", 10*time.Second, func() error {
		got, err := w.request(newApplicant(t, alice), w.issuer.token(t, alice, nil))
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" || got.chain != nil {
			t.Fatalf("answer is %v with Retry-After %q; want 503 and a time", got, got.header.Get("Retry-After"))
		}
		if got.took > maxRefusal {
			t.Errorf("the refusal took %v, want at most %v", got.took, maxRefusal)
		}
		t.Logf("%s after %v", got.reason(), got.took.Round(time.Millisecond))
		if remote.asked.Load() == before {
			return fmt.Errorf("the log was not asked")
		}
		return nil
	})
}
