package keys

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11/faultmodule"
)

// held is longer than opening a key takes.
const held = 20 * time.Second

// A start that hangs says nothing to anybody: it must end with the reason.
func TestKeyWhoseTokenHangsIsNotWaitedForAtAStart(t *testing.T) {
	private := newKey(t)
	for _, function := range []string{"FindObjects", "Sign"} {
		m, token := faultyToken(t, private)
		m.Hang(function, faultmodule.Forever)
		tokens := &Tokens{patience: time.Second}
		f := &config.File{Config: config.Config{Tokens: []config.Token{token}}}
		result := make(chan error, 1)
		go func() {
			// As serve does it, until somebody sends a TERM signal.
			key, err := tokens.Key(context.Background(), f, "chains[0].key", config.Key{Tokens: []string{"hsm-a"}, Object: "ca"}, private.Public())
			if err == nil {
				err = errors.Join(errors.New("it was opened"), key.Close())
			}
			result <- err
		}()
		select {
		case err := <-result:
			if err == nil || !strings.Contains(err.Error(), "did not return in time") {
				t.Errorf("C_%s hangs: %v, want that it did not return in time", function, err)
			}
		case <-time.After(held):
			t.Errorf("C_%s hangs, and so does opening the key", function)
		}
		m.Release(function)
	}
}
