package stack

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
)

func openFile(k config.Key) (hsm.Key, error) {
	return hsm.LoadFile(hsm.FileConfig{Path: k.File, PassphraseFile: k.PassphraseFile})
}

// openOffline opens keys in files and believes that a token holds what the
// configuration says: a check must not log in to an HSM that a service uses, nor
// spend an attempt at its PIN.
func openOffline(_ context.Context, _ *config.File, name string, k config.Key, public crypto.PublicKey) (hsm.Key, error) {
	if len(k.Tokens) == 0 {
		return openFile(k)
	}
	if _, err := KeyConfig(name, k, public); err != nil {
		return nil, err
	}
	return unopened{public}, nil
}

// openUnasked opens nothing: to tell when certificates end takes no key, and who
// asks may not be allowed to read one.
func openUnasked(_ context.Context, _ *config.File, _ string, _ config.Key, public crypto.PublicKey) (hsm.Key, error) {
	return unopened{public}, nil
}

// unopened stands for a key on a token that nobody has asked.
type unopened struct{ public crypto.PublicKey }

var errUnopened = errors.New("the key's token was not opened")

func (u unopened) Public() crypto.PublicKey { return u.public }

func (u unopened) Sign(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errUnopened
}

func (u unopened) Ready() error { return errUnopened }

func (u unopened) Close() error { return nil }

// maxReferenced bounds a file that the configuration names.
const maxReferenced = 4 << 20

// readBounded reads a file that the configuration names. It is a file and no
// pipe, whose opening alone could hold a reload for ever.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxReferenced+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) > maxReferenced {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxReferenced)
	}
	return data, nil
}
