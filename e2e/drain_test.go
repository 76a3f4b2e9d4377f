package e2e

import (
	"testing"
	"time"
)

// TestTermDrainsUnderLoad stops the service as a supervisor does, while clients
// go on asking.
func TestTermDrainsUnderLoad(t *testing.T) {
	const bound = 3 * time.Second
	w := newWorld(t, setting{limits: noLimits, shutdown: bound})
	load := w.startLoad(t, crashClients)
	load.await(t, 100)
	start := time.Now()
	// Log and journal are closed after the drain, which takes a moment more.
	if err := w.mayfly.terminate(t, bound+5*time.Second); err != nil {
		t.Errorf("stopping under load: %v, want exit code 0", err)
	}
	t.Logf("stopped after %v", time.Since(start))
	load.end()
	for _, got := range load.refused {
		t.Errorf("refused while draining: %v; want an answer or no connection", got)
	}
	j := w.journal(t)
	if n := j.checkClosed(t); n != 0 {
		t.Errorf("%d intents were left open by an orderly stop", n)
	}
	for _, leaf := range load.leaves {
		j.checkIssued(t, leaf)
	}
	// Every certificate reached its client: one that did not would be an
	// issuance that was cut off.
	issued := 0
	for _, o := range j.outcomes {
		if o.Result == "issued" {
			issued++
		}
	}
	if issued != len(load.leaves) {
		t.Errorf("%d certificates were issued, clients received %d; the others: %v", issued, len(load.leaves), load.broken)
	}
	w.http.CloseIdleConnections()
	w.serve(t)
	for _, leaf := range load.leaves[max(0, len(load.leaves)-20):] {
		w.checkLogged(t, leaf)
	}
}
