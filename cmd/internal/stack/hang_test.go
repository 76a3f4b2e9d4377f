package stack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// onToken runs the service with its CA key on a token that goes wrong on command.
func (s *site) onToken(t *testing.T) (*running, *faultmodule.Module) {
	t.Helper()
	block, _ := pem.Decode(s.read("ca.key"))
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	s.must(err)
	m, token := faultyToken(t, private.(*ecdsa.PrivateKey))
	ln := listen(t)
	f := s.configure(ln.Addr().String(), "")
	s.edit("key: {file: ca.key}", "key: {tokens: [hsm-a], object: ca}",
		"chains:", fmt.Sprintf("tokens:\n  - {name: hsm-a, module: %s, label: corp, pin_file: %s, max_sessions: 4}\nchains:", token.Module, token.PINFile))
	f, err = config.Load(f.Path, nil)
	s.must(err)
	return s.start(f, Options{Listener: ln, Load: func() (*config.File, error) { return config.Load(f.Path, nil) }}), m
}

// faultyToken is a token with a key, behind a library that counts and goes wrong on
// command.
func faultyToken(t *testing.T, key crypto.Signer) (*faultmodule.Module, config.Token) {
	t.Helper()
	soft := faultmodule.NewSoftHSM(t)
	soft.Token("corp")
	soft.Import("corp", "ca", "01", key)
	m := soft.Module()
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(faultmodule.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return m, config.Token{Name: "hsm-a", Module: m.Path, Label: "corp", PINFile: pin, MaxSessions: 4}
}

// A supervisor that changes its mind while the service starts gets an orderly end
// and not a failure, which it would count.
func TestStopDuringTheStartIsOrderly(t *testing.T) {
	s := newSite(t)
	s.initLog()
	ctx, cancel := context.WithCancel(t.Context())
	var armed atomic.Bool
	ln := listen(t)
	stack, err := Open(t.Context(), s.configure(ln.Addr().String(), ""), Options{Listener: ln, Clock: func() time.Time {
		if armed.Load() {
			cancel()
		}
		return time.Now()
	}})
	s.must(err)
	armed.Store(true) // the next reading is that of the record of the start
	if err := stack.Run(ctx); err != nil {
		t.Errorf("Run = %v, want an orderly end", err)
	}
	if journal := s.journal(); !strings.Contains(journal, `"kind":"start"`) || !strings.Contains(journal, `"kind":"stop"`) {
		t.Errorf("want start and stop in the journal:\n%s", journal)
	}
}

// A reload whose token hangs holds a lock. Who stops the service must not wait for
// it: a supervisor that loses patience kills, and the journal's end is not written.
func TestStopDoesNotWaitForAReloadThatHangs(t *testing.T) {
	s := newSite(t)
	s.initLog()
	r, m := s.onToken(t)
	if a := ask(t, r.url, s.token(nil)); a.status != 200 {
		t.Fatalf("a certificate from the token: %d %s", a.status, a.body)
	}
	m.Hang("FindObjects", faultmodule.Forever)
	reloaded := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), reloadTimeout) // as an administrator's
		defer cancel()
		_, err := r.Reload(ctx, "test")
		reloaded <- err
	}()
	eventually(t, "the reload hangs", func() bool { return m.Hanging("FindObjects") > 0 })
	began := time.Now()
	_ = r.stop() // the token cannot be closed in order
	if took := time.Since(began); took > 2*closeTimeout+5*time.Second {
		t.Errorf("the service took %v to stop while a reload hung", took.Round(time.Second))
	}
	if err := <-reloaded; err == nil {
		t.Error("a reload with a token that hangs was accepted")
	}
}
