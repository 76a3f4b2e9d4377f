package e2e

import (
	"crypto/x509"
	"sync"
	"testing"
	"time"
)

// load is clients that ask for certificates as fast as they get them.
type load struct {
	stop     chan struct{}
	clients  sync.WaitGroup
	received chan struct{} // one for each certificate

	mu sync.Mutex
	// mu guards what follows.
	leaves  []*x509.Certificate
	refused []answer
	broken  []error // requests without an answer
}

// startLoad starts so many clients. Each waits for its answer before it asks
// again, and stops at its first failure of the transport.
func (w *world) startLoad(t testing.TB, clients int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{}), received: make(chan struct{}, 1<<16)}
	for range clients {
		a, token := newApplicant(t, alice), w.issuer.token(t, alice, nil)
		l.clients.Go(func() { l.run(w, a, token) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) run(w *world, a applicant, token string) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		got, err := w.request(a, token)
		l.mu.Lock()
		switch {
		case err != nil:
			l.broken = append(l.broken, err)
		case got.chain == nil:
			l.refused = append(l.refused, got)
		default:
			l.leaves = append(l.leaves, got.chain[0])
			l.received <- struct{}{}
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await returns once so many more certificates were received.
func (l *load) await(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for i := range n {
		select {
		case <-l.received:
		case <-deadline:
			t.Fatalf("clients received %d certificates in thirty seconds, want %d", i, n)
		}
	}
}

// end stops the clients and waits for them. It may be called again.
func (l *load) end() {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.clients.Wait()
}
