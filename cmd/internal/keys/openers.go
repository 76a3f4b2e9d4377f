package keys

import (
	"context"
	"crypto"
	"errors"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
)

// Opener opens the key that the configuration has at path, which must be that of a
// certificate with the given public key; nil if no certificate is known.
type Opener func(ctx context.Context, f *config.File, path string, k config.Key, public crypto.PublicKey) (hsm.Key, error)

func openFile(k config.Key) (hsm.Key, error) {
	return hsm.LoadFile(hsm.FileConfig{Path: k.File, PassphraseFile: k.PassphraseFile})
}

// OpenOffline opens keys in files and believes that a token holds what the
// configuration says: a check must not log in to an HSM that a service uses, nor
// spend an attempt at its PIN.
func OpenOffline(_ context.Context, _ *config.File, name string, k config.Key, public crypto.PublicKey) (hsm.Key, error) {
	if len(k.Tokens) == 0 {
		return openFile(k)
	}
	if _, err := KeyConfig(name, k, public); err != nil {
		return nil, err
	}
	return unopened{public}, nil
}

// OpenUnasked opens nothing: to tell when certificates end takes no key, and who
// asks may not be allowed to read one.
func OpenUnasked(_ context.Context, _ *config.File, _ string, _ config.Key, public crypto.PublicKey) (hsm.Key, error) {
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
