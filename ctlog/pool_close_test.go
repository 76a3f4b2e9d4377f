package ctlog_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
)

// TestPoolMayBeClosedTwiceUnderASubmission: two configurations that shared a pool end
// in any order after a third one has taken another, while requests of both go on.
func TestPoolMayBeClosedTwiceUnderASubmission(t *testing.T) {
	l, s := logtest.New(t, nil), testca.New(t).Precertificate(t)
	arrived, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case arrived <- struct{}{}:
			<-answer
		case <-answer: // the second time
		}
		l.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: server.URL, PublicKey: l.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	p := newPool(t, r)
	underWay := make(chan error, 1)
	go func() {
		_, err := p.Submit(t.Context(), s)
		underWay <- err
	}()
	<-arrived
	var closing sync.WaitGroup
	for range 2 {
		closing.Go(p.Close)
	}
	closing.Wait()
	close(answer)
	if err := <-underWay; err != nil {
		t.Errorf("the submission that was under way: %v, want an SCT", err)
	}
	p.Close()
	if _, err := p.Submit(t.Context(), s); err != nil {
		t.Errorf("a submission after that: %v, want an SCT", err)
	}
	if got := l.Submissions(); got != 2 {
		t.Errorf("the log saw %d submissions, want 2: none was cut off and sent again", got)
	}
}
