package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// refusedPIN is kept of a PIN that a token refused when the service started. A
// supervisor starts a service that ended again and again, within seconds, and
// three attempts lock most tokens for everybody. It says which file held the PIN
// and when that was written, and nothing about the PIN.
type refusedPIN struct {
	PINFile string    `json:"pin_file"`
	Written time.Time `json:"written"`
	Refused time.Time `json:"refused"`
}

// refusedPINFile keeps it for the token of that name.
func (t *Tokens) refusedPINFile(token string) string {
	return filepath.Join(t.State, "refused-pins", token+".json")
}

// spare refuses to open a token with a PIN that an earlier process spent an attempt
// on. A file that cannot be read says nothing: it is there to spare attempts and
// not to stop a service.
func (t *Tokens) spare(id tokenID) error {
	if t.State == "" {
		return nil
	}
	name := t.refusedPINFile(id.entry.Name)
	data, err := files.Read(name)
	var r refusedPIN
	if err != nil || json.Unmarshal(data, &r) != nil || r.PINFile != id.entry.PINFile || !r.Written.Equal(id.written) {
		return nil
	}
	return fmt.Errorf("token %s refused the PIN in %s at %s, and each attempt could be the one that locks it: correct the file, or touch it for another attempt with the same PIN",
		id.entry.Name, r.PINFile, r.Refused.UTC().Format(time.RFC3339))
}

func (t *Tokens) logger() *slog.Logger {
	if t.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.Logger
}

// remember keeps for the next process what became of the PIN of a token.
func (t *Tokens) remember(c config.Token, written time.Time, err error) {
	if t.State == "" {
		return
	}
	name := t.refusedPINFile(c.Name)
	if err == nil {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.logger().Warn("what is known of a token's PIN is out of date", "token", c.Name, "err", err)
		}
		return
	}
	if !errors.Is(err, pkcs11.ErrPINRefused) {
		return
	}
	now := time.Now
	if t.Clock != nil {
		now = t.Clock
	}
	data, err := json.Marshal(refusedPIN{PINFile: c.PINFile, Written: written, Refused: now()})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o700)
	}
	if err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.logger().Warn("the next start will try a PIN again that a token refused", "token", c.Name, "err", err)
	}
}
