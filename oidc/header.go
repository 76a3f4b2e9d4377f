package oidc

import (
	"encoding/base64"
	"sync"
)

// maxHeaders bounds the headers that are remembered for an issuer. A provider
// has one for each of its keys.
const maxHeaders = 64

// bareHeaders are headers with nothing but an algorithm in them, detached as
// [token].detached is.
var bareHeaders = func() map[string]string {
	all := make(map[string]string, len(algorithms))
	for alg := range algorithms {
		all[alg] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+alg+`"}`)) + ".."
	}
	return all
}()

// readHeaders remembers headers in which go-oidc has read the algorithm that we
// have read. All tokens of one key have the same header, byte for byte, and what
// a reader makes of the same bytes is the same; so go-oidc is given a bare header
// of the algorithm the next time, which is cheaper to read. Only headers of
// verified tokens are remembered: nobody else can fill the memory.
type readHeaders struct {
	mu sync.RWMutex
	// known has detached headers. mu guards it.
	known map[string]struct{}
}

// text is the detached token to give to go-oidc.
func (r *readHeaders) text(t *token) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, ok := r.known[t.detached]; ok {
		return bareHeaders[t.alg]
	}
	return t.detached
}

// remember is told of a token that go-oidc has verified.
func (r *readHeaders) remember(t *token, read string) {
	if read != t.detached {
		return // it was given a bare header
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// What is full is mostly of keys that are gone.
	if r.known == nil || len(r.known) >= maxHeaders {
		r.known = make(map[string]struct{})
	}
	r.known[t.detached] = struct{}{}
}
