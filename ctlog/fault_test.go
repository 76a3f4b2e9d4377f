package ctlog_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
	"github.com/prometheus/client_golang/prometheus"
)

// pipes is a network inside of a bubble, in which waiting takes no time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// remote is a log that a real server serves to a real client.
type remote struct {
	*logtest.Log
	*ctlog.Remote
	stop func()
}

// newServedLog is to be called in a bubble. The bubble ends only when all
// goroutines of client and server have, so nothing can leak unseen.
func newServedLog(t testing.TB, name string) remote {
	t.Helper()
	l := logtest.New(t, nil)
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: l, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(p) }()
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: name, URL: "http://127.0.0.1:1", PublicKey: l.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	r.SetDial(p.dial)
	stop := sync.OnceFunc(func() {
		_ = server.Close()
		<-served
	})
	t.Cleanup(stop)
	t.Cleanup(r.CloseIdleConnections)
	return remote{l, r, stop}
}

// checkSCT verifies an SCT with nothing of ours.
func checkSCT(t testing.TB, l *logtest.Log, s ctlog.Submission, sct ctlog.SCT) {
	t.Helper()
	var chain []ct.ASN1Cert
	for _, der := range append([][]byte{s.Precertificate}, s.Issuers...) {
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, uint64(sct.Timestamp.UnixMilli()))
	if err != nil {
		t.Fatal(err)
	}
	leaf.TimestampedEntry.Extensions = sct.Extensions
	raw, err := sct.MarshalTLS()
	if err != nil {
		t.Fatal(err)
	}
	var parsed ct.SignedCertificateTimestamp
	if rest, err := cttls.Unmarshal(raw, &parsed); err != nil || len(rest) != 0 {
		t.Fatalf("SCT %x: %v, rest %x", raw, err, rest)
	}
	public, err := x509.ParsePKIXPublicKey(l.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := ct.NewSignatureVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.VerifySCTSignature(parsed, ct.LogEntry{Leaf: *leaf}); err != nil {
		t.Errorf("an SCT of %q that does not verify got through: %v", sct.Log, err)
	}
}

func TestPoolPassesOverEveryOutage(t *testing.T) {
	ca := testca.New(t)
	for _, fault := range logtest.Outages {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := ca.Precertificate(t)
				a, b := newServedLog(t, "a"), newServedLog(t, "b")
				a.Set(fault)
				p := newPool(t, a.Remote, b.Remote)
				for i := range 8 {
					start, asked := time.Now(), a.Submissions()
					sct, err := p.Submit(t.Context(), s)
					took := time.Since(start)
					if err != nil || sct.Log != "b" || took > 1250*time.Millisecond {
						t.Fatalf("submission %d: SCT of %q, %v after %s; want one of b within 1.25s", i, sct.Log, err, took)
					}
					checkSCT(t, b.Log, s, sct)
					if i >= 5 && (took != 0 || a.Submissions() != asked) {
						t.Errorf("submission %d took %s and asked the resting log %d times", i, took, a.Submissions()-asked)
					}
				}
				a.Set(logtest.None)
				time.Sleep(time.Minute)
				sct, err := p.Submit(t.Context(), s)
				if err != nil || sct.Log != "a" {
					t.Fatalf("after it healed: SCT of %q, %v; want one of a", sct.Log, err)
				}
				checkSCT(t, a.Log, s, sct)
			})
		})
	}
}

func TestPoolRefusesWhenItsOnlyLogIsOut(t *testing.T) {
	ca := testca.New(t)
	for _, fault := range logtest.Outages {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := ca.Precertificate(t)
				a := newServedLog(t, "a")
				a.Set(fault)
				p := newPool(t, a.Remote)
				for i := range 8 {
					start, asked := time.Now(), a.Submissions()
					_, err := p.Submit(t.Context(), s)
					took := time.Since(start)
					if _, ok := errors.AsType[*ctlog.Outage](err); !ok || !errors.Is(err, ctlog.ErrUnavailable) || took > 2500*time.Millisecond {
						t.Fatalf("submission %d: %v after %s; want an Outage, ErrUnavailable, within 2.5s", i, err, took)
					}
					if i >= 5 && (rests(t, p) == 0 || took != 0 || a.Submissions() != asked) {
						t.Errorf("submission %d took %s and asked the resting log %d times", i, took, a.Submissions()-asked)
					}
				}
				a.Set(logtest.None)
				time.Sleep(time.Minute)
				if err := p.Ready(); err != nil {
					t.Fatalf("Ready after it healed: %v", err)
				}
				if _, err := p.Submit(t.Context(), s); err != nil {
					t.Fatalf("Submit after it healed: %v", err)
				}
			})
		})
	}
}

func TestPoolDistrustsEveryLie(t *testing.T) {
	ca := testca.New(t)
	reasons := map[logtest.Fault]string{
		logtest.Floods: "oversized", logtest.Mumbles: "malformed", logtest.WrongKey: "signature", logtest.WrongID: "log_id",
		logtest.Future: "timestamp", logtest.Past: "timestamp", logtest.ForeignIndex: "signature", logtest.ForeignLeaf: "signature",
		logtest.UnknownExtension: "extensions", logtest.NextVersion: "version",
	}
	for _, fault := range logtest.Lies {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := ca.Precertificate(t)
				a, b := newServedLog(t, "a"), newServedLog(t, "b")
				registry := prometheus.NewPedanticRegistry()
				p, err := ctlog.NewPool(ctlog.PoolConfig{Logs: []ctlog.Log{a.Remote, b.Remote}, Registerer: registry})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(p.Close)
				a.Set(fault)
				for i := range 3 {
					sct, err := p.Submit(t.Context(), s)
					if err != nil || sct.Log != "b" || a.Submissions() != 1 {
						t.Fatalf("submission %d: SCT of %q, %v, a asked %d times; want one of b, a asked once", i, sct.Log, err, a.Submissions())
					}
					checkSCT(t, b.Log, s, sct)
				}
				want := `mayfly_ctlog_bad_sct_total{log="a",reason="` + reasons[fault] + "\"} 1\n"
				if got := series(t, registry, "mayfly_ctlog_bad_sct_total"); got != want {
					t.Errorf("got %swant %s", got, want)
				}
			})
		})
	}
}

func TestPoolPassesOverOverloadAndRefusalForOneSubmission(t *testing.T) {
	ca := testca.New(t)
	for fault, want := range map[logtest.Fault]error{
		logtest.Rejects: ctlog.ErrRejected, logtest.Overloaded: ctlog.ErrOverloaded, logtest.OverloadedLong: ctlog.ErrOverloaded,
	} {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := ca.Precertificate(t)
				a, b := newServedLog(t, "a"), newServedLog(t, "b")
				a.Set(fault)
				p := newPool(t, a.Remote, b.Remote)
				for i := range 20 {
					start := time.Now()
					sct, err := p.Submit(t.Context(), s)
					if err != nil || sct.Log != "b" || time.Since(start) != 0 || a.Submissions() != i+1 {
						t.Fatalf("submission %d: SCT of %q, %v after %s, a asked %d times; want one of b at once, a asked each time",
							i, sct.Log, err, time.Since(start), a.Submissions())
					}
				}
				alone := newPool(t, a.Remote)
				for range 20 {
					_, err := alone.Submit(t.Context(), s)
					outage, ok := errors.AsType[*ctlog.Outage](err)
					if !ok || !errors.Is(err, want) || alone.Ready() != nil {
						t.Fatalf("alone: %v, then Ready: %v; want an Outage, %v, and nil", err, alone.Ready(), want)
					}
					if wait := (fault == logtest.OverloadedLong); wait != (outage.RetryAfter == 30*time.Second) {
						t.Fatalf("alone: retry after %s", outage.RetryAfter)
					}
				}
			})
		})
	}
}

func TestPoolFailsOverWhenALogIsGone(t *testing.T) {
	ca := testca.New(t)
	synctest.Test(t, func(t *testing.T) {
		s := ca.Precertificate(t)
		a, b := newServedLog(t, "a"), newServedLog(t, "b")
		p := newPool(t, a.Remote, b.Remote)
		if sct, err := p.Submit(t.Context(), s); err != nil || sct.Log != "a" {
			t.Fatalf("SCT of %q, %v; want one of a", sct.Log, err)
		}
		a.stop() // with a connection that the client keeps for later
		if sct, err := p.Submit(t.Context(), s); err != nil || sct.Log != "b" {
			t.Fatalf("SCT of %q, %v; want one of b", sct.Log, err)
		}
		b.stop()
		if _, err := p.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) {
			t.Fatalf("both gone: %v, want ErrUnavailable", err)
		}
	})
}

// Whatever two logs do, every answer is an SCT that verifies or a clear refusal,
// in bounded time.
func TestPoolSoak(t *testing.T) {
	ca := testca.New(t)
	var submissions []ctlog.Submission
	for range 64 {
		submissions = append(submissions, ca.Precertificate(t))
	}
	all := append(append([]logtest.Fault{logtest.Rejects, logtest.Overloaded, logtest.OverloadedLong}, logtest.Outages...), logtest.Lies...)
	synctest.Test(t, func(t *testing.T) {
		logs := map[string]remote{"a": newServedLog(t, "a"), "b": newServedLog(t, "b")}
		for _, l := range logs {
			random, bad, turns := rand.New(rand.NewPCG(1, uint64(l.ID()[0]))), true, time.Now()
			l.SetEach(func() logtest.Fault {
				for !time.Now().Before(turns) {
					bad, turns = !bad, turns.Add(time.Duration(random.IntN(20_000))*time.Millisecond)
				}
				if bad {
					return all[random.IntN(len(all))]
				}
				return logtest.None
			})
		}
		p := newPool(t, logs["a"].Remote, logs["b"].Remote)
		var mu sync.Mutex // guards counts
		counts := map[string]int{}
		var group sync.WaitGroup
		for i, s := range submissions {
			group.Go(func() {
				for range 40 {
					start := time.Now()
					sct, err := p.Submit(t.Context(), s)
					if took := time.Since(start); took > 2500*time.Millisecond {
						t.Errorf("submitter %d waited %s", i, took)
					}
					outcome := sct.Log
					if err != nil {
						outcome = "refused"
						_, ok := errors.AsType[*ctlog.Outage](err)
						if !ok || sct.Log != "" || !errors.Is(err, ctlog.ErrUnavailable) && !errors.Is(err, ctlog.ErrOverloaded) &&
							!errors.Is(err, ctlog.ErrRejected) && !errors.Is(err, ctlog.ErrBadSCT) {
							t.Errorf("submitter %d: SCT of %q, %v; want an Outage with a sentinel", i, sct.Log, err)
						}
					} else {
						checkSCT(t, logs[sct.Log].Log, s, sct)
					}
					mu.Lock()
					counts[outcome]++
					mu.Unlock()
					time.Sleep(time.Duration(rand.IntN(10_000)) * time.Millisecond)
				}
			})
		}
		group.Wait()
		if counts["a"] == 0 || counts["b"] == 0 || counts["refused"] == 0 {
			t.Errorf("%v: nothing is shown unless each happens", counts)
		}
		t.Logf("%v", counts)
		for _, l := range logs {
			l.Set(logtest.None)
		}
		time.Sleep(time.Minute)
		if sct, err := p.Submit(t.Context(), submissions[0]); err != nil || sct.Log != "a" {
			t.Errorf("after all: SCT of %q, %v; want one of a", sct.Log, err)
		}
	})
}

// A connection that went dead unnoticed costs time, and neither the SCT nor the
// part of the next log.
func TestPoolSurvivesADeadConnection(t *testing.T) {
	ca := testca.New(t)
	synctest.Test(t, func(t *testing.T) {
		s := ca.Precertificate(t)
		a, b := newServedLog(t, "a"), newServedLog(t, "b")
		p := newPool(t, a.Remote, b.Remote)
		faults := []logtest.Fault{logtest.None, logtest.Hangs, logtest.None}
		a.SetEach(func() logtest.Fault {
			f := faults[0]
			faults = faults[1:]
			return f
		})
		for range 2 {
			start := time.Now()
			sct, err := p.Submit(t.Context(), s)
			if took := time.Since(start); err != nil || sct.Log != "a" || took > 1250*time.Millisecond {
				t.Errorf("SCT of %q, %v after %s; want one of a within its part", sct.Log, err, took)
			}
		}
	})
}
