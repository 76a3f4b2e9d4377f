package pkcs11_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

const (
	// signers are as many as a busy authority has requests at once.
	signers = 50
	// requestFor is how long a request has for one signature.
	requestFor = 4 * time.Second
	// backWithin is how soon a token that is back must sign.
	backWithin = 5 * time.Second
)

// bench is a place with tokens that hold one key each, and another for the fault
// module to take instead.
type bench struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	pin string
	// soft has a SoftHSM for each token, by label, and directories where the
	// token is.
	soft        map[string]*faultmodule.SoftHSM
	directories map[string]string
}

func newBench(t testing.TB, labels ...string) *bench {
	t.Helper()
	b := &bench{
		t: t, key: newECDSA(t), pin: filepath.Join(t.TempDir(), "pin"),
		soft: make(map[string]*faultmodule.SoftHSM), directories: make(map[string]string),
	}
	b.writePIN(faultmodule.PIN)
	other := newECDSA(t)
	for _, label := range labels {
		soft := faultmodule.NewSoftHSM(t)
		b.soft[label], b.directories[label] = soft, soft.Token(label)
		soft.Import(label, "issuing", "a1", b.key)
		soft.Import(label, "other", "a2", other)
	}
	return b
}

func (b *bench) writePIN(pin string) {
	b.t.Helper()
	if err := os.WriteFile(b.pin, []byte(pin+"\n"), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// module puts a fault module over the SoftHSM with a token.
func (b *bench) module(label string) *faultmodule.Module {
	b.t.Helper()
	m := b.soft[label].Module()
	m.OtherKey("other")
	return m
}

func (b *bench) config(m *faultmodule.Module, label string) pkcs11.TokenConfig {
	return pkcs11.TokenConfig{Name: label, Module: m.Path, Label: label, PINFile: b.pin}
}

// token opens a token through m, and closes it when the test ends.
func (b *bench) token(cfg pkcs11.TokenConfig) *pkcs11.Token {
	b.t.Helper()
	token, err := pkcs11.OpenToken(b.t.Context(), cfg)
	if err != nil {
		b.t.Fatalf("OpenToken(%s) = %v", cfg.Label, err)
	}
	b.t.Cleanup(func() {
		if err := closeToken(token); err != nil {
			b.t.Errorf("closing token %s: %v", cfg.Label, err)
		}
	})
	return token
}

func closeToken(token *pkcs11.Token) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return token.Close(ctx)
}

func (b *bench) open(tokens ...*pkcs11.Token) *pkcs11.Key {
	b.t.Helper()
	key, err := pkcs11.NewKey(b.t.Context(), tokens, pkcs11.KeyConfig{Name: "issuing", Object: "issuing", Public: b.key.Public()})
	if err != nil {
		b.t.Fatalf("NewKey = %v", err)
	}
	b.t.Cleanup(func() {
		if err := key.Close(); err != nil {
			b.t.Errorf("closing the key: %v", err)
		}
	})
	return key
}

// storm signs with a key, with fifty at once and each again and again, and holds
// that every signature that it gets is a good one over what it asked for.
type storm struct {
	t    testing.TB
	key  *pkcs11.Key
	stop chan struct{}
	wg   sync.WaitGroup

	good, refused atomic.Int64

	mu sync.Mutex
	// last is when the last good signature came, gap the longest time without.
	last time.Time
	gap  time.Duration
	err  error
}

func (b *bench) storm(key *pkcs11.Key) *storm { return b.stormFor(key, requestFor) }

func (b *bench) stormFor(key *pkcs11.Key, each time.Duration) *storm {
	s := &storm{t: b.t, key: key, stop: make(chan struct{}), last: time.Now()}
	for i := range signers {
		s.wg.Go(func() { s.sign(&b.key.PublicKey, uint64(i)<<32, each) })
	}
	b.t.Cleanup(s.end)
	return s
}

func (s *storm) sign(public *ecdsa.PublicKey, n uint64, each time.Duration) {
	for ; ; n++ {
		select {
		case <-s.stop:
			return
		default:
		}
		digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, n))
		ctx, cancel := context.WithTimeout(context.Background(), each)
		sig, err := s.key.Sign(ctx, digest[:], crypto.SHA256)
		cancel()
		switch {
		case err == nil && ecdsa.VerifyASN1(public, digest[:], sig):
			s.noteGood()
			continue
		case err == nil:
			s.t.Errorf("Sign(%x) = %x, which does not verify", digest, sig)
		case sig != nil:
			s.t.Errorf("Sign(%x) = %x with error %v, want no signature", digest, sig, err)
		}
		s.refused.Add(1)
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		// As a client that is turned away, it does not come back at once.
		select {
		case <-s.stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *storm) noteGood() {
	s.good.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.gap = max(s.gap, now.Sub(s.last))
	s.last = now
}

// end stops the signers and waits for them.
func (s *storm) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.wg.Wait()
}

// answered waits until every signer has had some answer since now.
func (s *storm) answered(within time.Duration, what string) {
	s.t.Helper()
	from := s.good.Load() + s.refused.Load()
	until(s.t, "answers to all requests "+what, within, func() bool {
		return s.good.Load()+s.refused.Load() >= from+2*signers
	})
}

// resetGap forgets gaps so far; longestGap has that since then, the one under
// way included.
func (s *storm) resetGap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap, s.last = 0, time.Now()
}

func (s *storm) longestGap() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.gap, time.Since(s.last))
}

func (s *storm) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// rig is a token under fire, of several side by side.
type rig struct {
	*storm
	m     *faultmodule.Module
	token *pkcs11.Token
}

// pace keeps tests in which many tokens sign from needing more than the CPU has.
const pace = 40 * time.Millisecond

// rig opens a token through a module of its own and signs with it.
func (b *bench) rig(label string, each time.Duration) *rig {
	b.t.Helper()
	m := b.module(label)
	token, err := pkcs11.OpenToken(b.t.Context(), b.config(m, label))
	if err != nil {
		b.t.Fatalf("OpenToken(%s) = %v", label, err)
	}
	key := b.open(token)
	m.Delay("Sign", pace)
	return &rig{storm: b.stormFor(key, each), m: m, token: token}
}

// close ends a rig and holds that it had no more than most sessions, and has
// none.
func (r *rig) close(after string, most int) {
	r.end()
	if err := closeToken(r.token); err != nil {
		r.t.Errorf("closing the token after %s: %v", after, err)
	}
	if n := r.m.OpenSessions(); n != 0 {
		r.t.Errorf("%d sessions are open after %s; %s", n, after, r.m)
	}
	if n := r.m.PeakSessions(); n > most {
		r.t.Errorf("%d sessions were open during %s, want at most %d", n, after, most)
	}
}

// enough good signatures show that a token signs: more than can have been under
// way already.
const enough = 2 * pkcs11.DefaultMaxSessions

// flows waits for enough good signatures, and fails the test if they are not
// there in time.
func (s *storm) flows(within time.Duration, format string, args ...any) {
	s.t.Helper()
	from := s.good.Load()
	start := time.Now()
	for s.good.Load() < from+enough {
		if time.Since(start) > within {
			s.t.Errorf(format+": %d good signatures in %v, want %d; the key says %v, the last refusal was %v",
				slices.Concat(args, []any{s.good.Load() - from, within, enough, s.key.Ready(), s.lastError()})...)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// until waits for something to happen.
func until(t testing.TB, what string, within time.Duration, done func() bool) bool {
	t.Helper()
	for end := time.Now().Add(within); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited %v in vain for %s", within, what)
			return false
		}
	}
	return true
}

// pass lets a time go by in which something must not happen, or may.
func pass(d time.Duration) { <-time.After(d) }

// leaksNothing makes sure, when all else in the test has ended, that it left no
// goroutine and no session. It must be called first.
func leaksNothing(t testing.TB, modules ...func() *faultmodule.Module) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		ok := until(t, "the goroutines of the test to end", 5*time.Second, func() bool { return runtime.NumGoroutine() <= before })
		if !ok {
			stacks := make([]byte, 1<<16)
			t.Logf("goroutines:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
		for _, m := range modules {
			if n := m().OpenSessions(); n != 0 {
				t.Errorf("%d sessions are open after the token was closed; %s", n, m())
			}
		}
	})
}
