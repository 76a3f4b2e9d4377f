package oidc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// blocklist holds thumbprints of keys that verify nothing. Readers take the map
// as it is; writers replace it whole.
type blocklist struct {
	// mu is held by writers.
	mu     sync.Mutex
	prints atomic.Pointer[map[string]struct{}]
}

func newBlocklist(thumbprints []string) *blocklist {
	b := &blocklist{}
	set := make(map[string]struct{}, len(thumbprints))
	for _, p := range thumbprints {
		set[p] = struct{}{}
	}
	b.prints.Store(&set)
	return b
}

func (b *blocklist) blocked(k *key) bool {
	_, ok := (*b.prints.Load())[k.thumbprint]
	return ok
}

// change replaces the set by what f made of a copy.
func (b *blocklist) change(f func(set map[string]struct{})) {
	b.mu.Lock()
	defer b.mu.Unlock()
	set := maps.Clone(*b.prints.Load())
	f(set)
	b.prints.Store(&set)
}

// Block makes the key of an RFC 7638 SHA-256 thumbprint, in base64url, verify
// nothing from now on, whoever publishes it: a provider whose key was stolen may
// take its time to withdraw it. Blocks are not kept across restarts; those of
// the configuration are.
func (v *Verifier) Block(thumbprint string) error {
	if err := checkThumbprint(thumbprint); err != nil {
		return fmt.Errorf("oidc: blocking key: %w", err)
	}
	v.blocks.change(func(set map[string]struct{}) { set[thumbprint] = struct{}{} })
	return nil
}

// Unblock takes back a block, also one of the configuration. It is an error if
// the key is not blocked: whoever mistypes a thumbprint must learn of it.
func (v *Verifier) Unblock(thumbprint string) error {
	found := false
	v.blocks.change(func(set map[string]struct{}) {
		_, found = set[thumbprint]
		delete(set, thumbprint)
	})
	if !found {
		return fmt.Errorf("oidc: key %.80q is not blocked", thumbprint)
	}
	return nil
}

// Blocked returns the thumbprints of blocked keys, sorted.
func (v *Verifier) Blocked() []string { return slices.Sorted(maps.Keys(*v.blocks.prints.Load())) }

// Disable refuses all tokens of the named issuer from now on. Its keys are kept
// fresh, so that [Verifier.Enable] has an effect at once.
func (v *Verifier) Disable(name string) error { return v.setDisabled(name, true) }

// Enable takes back [Verifier.Disable].
func (v *Verifier) Enable(name string) error { return v.setDisabled(name, false) }

func (v *Verifier) setDisabled(name string, disabled bool) error {
	for _, is := range v.issuers {
		if is.Name == name {
			is.disabled.Store(disabled)
			return nil
		}
	}
	return fmt.Errorf("oidc: issuer %.64q: %w", name, errNoIssuer)
}

var errNoIssuer = errors.New("not configured")
