package pkcs11

import (
	"context"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// List returns what a library says about itself and the tokens that it offers.
// It logs in nowhere.
func List(ctx context.Context, module string) (Library, []Entry, error) {
	type listing struct {
		library Library
		entries []Entry
	}
	l, err := inside(ctx, module, func(a api) (l listing, err error) {
		if l.library, err = describe(a, module); err != nil {
			return l, err
		}
		l.entries, err = entries(a)
		return l, err
	})
	if err != nil {
		return Library{}, nil, fmt.Errorf("pkcs11: listing the tokens of %s: %w", module, err)
	}
	return l.library, l.entries, nil
}

// ListKeys logs in to a token, once, and returns the private keys that it holds
// with what belongs to them.
func ListKeys(ctx context.Context, c TokenConfig) (Entry, []Object, error) {
	type listing struct {
		entry   Entry
		objects []Object
	}
	l, err := inToken(ctx, c, p11.CKF_SERIAL_SESSION, func(v *visitor) (l listing, err error) {
		l.entry = v.entry
		l.objects, err = v.keys()
		return l, err
	})
	if err != nil {
		return Entry{}, nil, fmt.Errorf("pkcs11: listing the keys of token %q: %w", c.Name, err)
	}
	return l.entry, l.objects, nil
}

// FindObject logs in to a token and returns the one private key that k names.
// It is for commands that need the public key before there is a certificate:
// k.Public may be nil.
func FindObject(ctx context.Context, c TokenConfig, k KeyConfig) (Object, error) {
	o, err := inToken(ctx, c, p11.CKF_SERIAL_SESSION, func(v *visitor) (Object, error) { return v.key(k) })
	if err != nil {
		return Object{}, fmt.Errorf("pkcs11: looking for key %q in token %q: %w", k.Name, c.Name, err)
	}
	return o, nil
}
