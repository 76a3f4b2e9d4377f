package stack

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// onToken is the configuration of a log alone whose key is on a token.
func (s *logSite) onToken(token config.Token) *config.File {
	s.t.Helper()
	return s.load(strings.Replace(s.logConfig(), "embedded:\n", "embedded:\n      key: {tokens: [hsm-a], object: ca}\n", 1) +
		fmt.Sprintf("tokens: [{name: hsm-a, module: %s, label: %s, pin_file: %s, max_sessions: 4}]\n", token.Module, token.Label, token.PINFile))
}

// TestALogAloneTriesARefusedPINOnce: its supervisor starts it again within seconds,
// and three attempts lock most tokens.
func TestALogAloneTriesARefusedPINOnce(t *testing.T) {
	s := newLogSite(t)
	soft := faultmodule.NewSoftHSM(t)
	soft.Token("corp")
	soft.Import("corp", "ca", "01", newKey(t))
	token := config.Token{Label: "corp", PINFile: s.write("pin", []byte(faultmodule.PIN+"\n"))}
	// Each start has a library of its own, as each process has.
	start := func() (*config.File, *faultmodule.Module) {
		m := soft.Module()
		token.Module = m.Path
		return s.onToken(token), m
	}
	f, _ := start()
	_, err := MakeShard(t.Context(), f, "", time.Time{})
	s.must(err)
	s.write("pin", []byte("0000\n"))
	for i := range 3 {
		f, m := start()
		if l, err := OpenLogServer(t.Context(), f, Options{}); err == nil {
			t.Fatalf("start %d with a wrong PIN: got a log (%v), want an error", i+1, l.Close())
		}
		if got, want := m.Calls("Login"), max(0, 1-i); got != want {
			t.Errorf("start %d with a wrong PIN: %d logins, want %d", i+1, got, want)
		}
	}
	s.write("pin", []byte(faultmodule.PIN+"\n"))
	f, _ = start()
	l, err := OpenLogServer(t.Context(), f, Options{})
	s.must(err)
	s.must(l.Close())
}

// TestALogAloneDoesNotWaitForAReloadThatHangs: a supervisor that loses patience
// kills.
func TestALogAloneDoesNotWaitForAReloadThatHangs(t *testing.T) {
	s := newLogSite(t)
	s.initShared("shared", time.Time{})
	m, token := faultyToken(t, newKey(t))
	f := s.onToken(token)
	l, err := OpenLogServer(t.Context(), f, Options{Load: func() (*config.File, error) { return config.Load(f.Path, nil) }})
	s.must(err)
	// A shard that somebody has made since, with its key on a token that hangs.
	_, err = MakeShard(t.Context(), f, "next", time.Now().Add(time.Hour))
	s.must(err)
	m.Hang("FindObjects", faultmodule.Forever)
	reloaded := make(chan error, 1)
	go func() { reloaded <- l.Reload(context.Background()) }() // as a HUP signal's, with no bound
	eventually(t, "the reload hangs", func() bool { return m.Hanging("FindObjects") > 0 })
	began := time.Now()
	s.must(l.Close())
	if took := time.Since(began); took > closeTimeout+5*time.Second {
		t.Errorf("the log took %v to close while a reload hung", took.Round(time.Second))
	}
	if err := <-reloaded; err == nil {
		t.Error("a reload with a token that hangs was accepted")
	}
}
