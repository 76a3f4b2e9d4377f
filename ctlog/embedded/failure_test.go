package embedded

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
)

// intercept stands between the committer and Tessera. It must be called before
// the first submission.
func intercept(l *Log, f func(next tessera.IndexFuture) tessera.IndexFuture) {
	add := l.engine.add
	l.engine.add = func(ctx context.Context, e *ctonly.Entry) tessera.IndexFuture { return f(add(ctx, e)) }
}

// Both faults of a write: it did not happen, and it happened but was reported as
// failed. Neither may yield an SCT, and both stop the log until it is opened again.
func TestAnErrorOfTesseraStopsTheLogUntilItIsReopened(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, fault := range map[string]struct {
		do   func(tessera.IndexFuture) tessera.IndexFuture
		size uint64 // after the log is opened again
	}{
		"did not happen": {func(tessera.IndexFuture) tessera.IndexFuture {
			return func() (tessera.Index, error) { return tessera.Index{}, broken }
		}, 0},
		"happened, but failed": {func(next tessera.IndexFuture) tessera.IndexFuture {
			return func() (tessera.Index, error) {
				_, err := next()
				return tessera.Index{}, errors.Join(broken, err)
			}
		}, 1},
		"another index": {func(next tessera.IndexFuture) tessera.IndexFuture {
			return func() (tessera.Index, error) {
				i, err := next()
				i.Index++
				return i, err
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ca := testca.New(t)
			dir, _ := initLog(t)
			l := openLog(t, testConfig(t, dir))
			intercept(l, fault.do)
			if name == "did not happen" {
				l.engine.add = func(context.Context, *ctonly.Entry) tessera.IndexFuture { return fault.do(nil) }
			}
			if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Fatalf("Submit: %+v, %v; want ErrUnavailable", sct, err)
			}
			<-l.Stopped()
			if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !strings.Contains(err.Error(), "stopped") {
				t.Fatalf("Ready: %v, want ErrUnavailable because it stopped", err)
			}
			if sct, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
				t.Fatalf("Submit to the stopped log: %+v, %v; want ErrUnavailable", sct, err)
			}
			closeLog(t, l)
			l = openLog(t, testConfig(t, dir))
			if sct := submit(t, l, ca.Precertificate(t)); sct.Index != int64(fault.size) {
				t.Fatalf("the first SCT after opening again has index %d, want %d", sct.Index, fault.size)
			}
		})
	}
}

func TestAFutureThatNeverResolvesHangsNobody(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.Queue = 2
	l := openLog(t, c)
	reached, resolve := make(chan struct{}), make(chan struct{})
	var once sync.Once
	intercept(l, func(next tessera.IndexFuture) tessera.IndexFuture {
		return func() (tessera.Index, error) {
			once.Do(func() { close(reached) })
			<-resolve
			return next()
		}
	})
	// One submission in Tessera's hands, two in the queue.
	ctx, leave := context.WithCancel(t.Context())
	results := make(chan error, 3)
	for i := range 3 {
		s := ca.Precertificate(t)
		go func() {
			_, err := l.Submit(ctx, s)
			results <- err
		}()
		if i == 0 {
			<-reached
		}
	}
	eventually(t, func() bool { return len(l.queue) == 2 })
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Errorf("Submit with a full queue: %v, want ErrOverloaded at once", err)
	}
	if err := l.Ready(); !errors.Is(err, ctlog.ErrOverloaded) {
		t.Errorf("Ready with a full queue: %v, want ErrOverloaded", err)
	}
	if !l.stalled(time.Now().Add(time.Minute)) || l.stalled(time.Now()) {
		t.Error("a batch outstanding for a minute does not count as stalled, or a new one does")
	}
	leave()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("Submit after its caller left: %v, want context.Canceled", err)
		}
	}
	expired, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(expired); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a batch outstanding: %v, want the deadline", err)
	}
	if _, err := l.Submit(t.Context(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Submit after Close: %v, want ErrUnavailable", err)
	}
	// The write may still land, so nobody else may have the directory.
	refused(t, testConfig(t, dir), "open already")
	close(resolve)
	closeLog(t, l)
	closeLog(t, openLog(t, testConfig(t, dir)))
}

func TestSubmitIsBoundedWithoutADeadline(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	c := testConfig(t, dir)
	c.StallAfter = 20 * time.Millisecond
	l := openLog(t, c)
	resolve := make(chan struct{})
	intercept(l, func(next tessera.IndexFuture) tessera.IndexFuture {
		return func() (tessera.Index, error) {
			<-resolve
			return next()
		}
	})
	if _, err := l.Submit(context.Background(), ca.Precertificate(t)); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("Submit: %v, want ErrUnavailable when the disk stalls", err)
	}
	close(resolve)
	closeLog(t, l)
}

func TestCloseAnswersThoseWhoWait(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	reached, resolve := make(chan struct{}), make(chan struct{})
	var once sync.Once
	intercept(l, func(next tessera.IndexFuture) tessera.IndexFuture {
		return func() (tessera.Index, error) {
			once.Do(func() { close(reached) })
			<-resolve
			return next()
		}
	})
	inHand, waiting := make(chan error, 1), make(chan error, 1)
	one, two := ca.Precertificate(t), ca.Precertificate(t)
	go func() {
		_, err := l.Submit(t.Context(), one)
		inHand <- err
	}()
	<-reached
	go func() {
		_, err := l.Submit(t.Context(), two)
		waiting <- err
	}()
	eventually(t, func() bool { return len(l.queue) == 1 })
	closed := make(chan error, 1)
	go func() { closed <- l.Close(t.Context()) }()
	<-l.quit
	close(resolve)
	if err := <-inHand; err != nil {
		t.Errorf("the batch in hand: %v, want an SCT", err)
	}
	if err := <-waiting; !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("the submission in the queue: %v, want ErrUnavailable", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A checkpoint that would deny an earlier one is not signed, and the log stops.
func TestPublisherNeverContradictsItself(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	for range 3 {
		submit(t, l, ca.Precertificate(t))
	}
	eventually(t, func() bool { return l.publisher.signed.Load() == 3 })
	for name, text := range map[string]string{
		"another origin": "evil.example\n9\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
		"junk":           "junk",
		"an extension":   testOrigin + "\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nx\n",
	} {
		if sig, err := l.publisher.Sign([]byte(text)); err == nil {
			t.Errorf("%s: signed %q: %x", name, text, sig)
		}
	}
	if err := l.Ready(); err != nil {
		t.Fatalf("Ready: %v", err)
	}
	fork := testOrigin + "\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
	if sig, err := l.publisher.Sign([]byte(fork)); err == nil {
		t.Fatalf("signed a second root for three entries: %x", sig)
	}
	<-l.Stopped()
}

func TestNoPublicationMakesTheLogUnready(t *testing.T) {
	ca := testca.New(t)
	dir, _ := initLog(t)
	l := openLog(t, testConfig(t, dir))
	l.publisher.close() // from now on no checkpoint is signed
	submit(t, l, ca.Precertificate(t))
	now := time.Now()
	l.observe(now)
	if err := l.Ready(); err != nil {
		t.Fatalf("Ready at once: %v", err)
	}
	l.observe(now.Add(31 * time.Second))
	if err := l.Ready(); !errors.Is(err, ctlog.ErrUnavailable) || !strings.Contains(err.Error(), "no checkpoint") {
		t.Fatalf("Ready after 31 s without a checkpoint: %v, want ErrUnavailable", err)
	}
}
