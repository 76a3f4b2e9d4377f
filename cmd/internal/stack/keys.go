package stack

import (
	"context"
	"crypto"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/files"
	"github.com/mayfly-ca/mayfly/cmd/internal/keys"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/hsm"
	"github.com/mayfly-ca/mayfly/hsm/pkcs11"
)

// IssuingKey returns the public key that a chain's key must have: that of the
// first certificate in its file.
func IssuingKey(c config.Chain) (crypto.PublicKey, error) {
	data, err := files.Read(c.Certificates)
	if err != nil {
		return nil, err
	}
	certs, err := ca.ParseChain(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Certificates, err)
	}
	return certs[0].PublicKey, nil
}

// checkTokens checks what can be known of tokens without their libraries: loading
// one runs its code, and the PIN is not tried.
func (p *plan) checkTokens() {
	for i, t := range p.file.Tokens {
		at := fmt.Sprintf("tokens[%d]", i)
		if err := pkcs11.CheckModule(t.Module); err != nil {
			p.bad(at+".module", "%v", err)
		}
		if err := keys.TokenConfig(t).CheckURI(); err != nil {
			p.bad(at+".uri", "%v", err)
		}
		pin, err := hsm.ReadSecretLine("PIN file", t.PINFile)
		if err != nil {
			p.bad(at+".pin_file", "%v", err)
		}
		clear(pin)
	}
}

// CheckOnline opens every key that chains have on tokens, which logs in once to
// each of their tokens and signs once with each key. f has passed Check.
func CheckOnline(ctx context.Context, f *config.File, now time.Time) config.Problems {
	var problems config.Problems
	var tokens keys.Tokens
	for i, c := range f.Chains {
		if len(c.Key.Tokens) == 0 || c.Retired(now) {
			continue
		}
		path := fmt.Sprintf("chains[%d].key", i)
		if err := askKey(ctx, &tokens, f, path, c); err != nil {
			problems = append(problems, f.Problem(path, "%v", err))
		}
	}
	return append(problems, askLogKeys(ctx, &tokens, f)...)
}

func askKey(ctx context.Context, tokens *keys.Tokens, f *config.File, path string, c config.Chain) error {
	public, err := IssuingKey(c)
	if err != nil {
		return err
	}
	key, err := tokens.Key(ctx, f, path, c.Key, public)
	if err != nil {
		return err
	}
	return key.Close()
}
