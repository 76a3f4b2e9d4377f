package oidc

import (
	"strings"
	"sync"
)

// maxHeaders bounds the headers that are remembered for an issuer. A provider
// has one for each of its keys.
const maxHeaders = 64

// readHeaders remembers headers in which go-oidc has read the algorithm that we
// have read. All tokens of one key have the same header, byte for byte, and what
// a reader makes of the same bytes is the same; so go-oidc is not given them a
// second time. Only headers of verified tokens are remembered: nobody else can
// fill the memory.
type readHeaders struct {
	mu sync.RWMutex
	// known has headers as they were sent. mu guards it.
	known map[string]struct{}
}

// toRead is the token to give to go-oidc, with payload and signature detached,
// and the algorithm that it must find there: the one that we have found. A
// header that it has read before is left out, and then there is none to find.
func (r *readHeaders) toRead(t *token) (detached, alg string, known bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, known := r.known[t.headerText]; known {
		return "..", "", true
	}
	return t.headerText + "..", t.alg, false
}

// remember is told of a header under which go-oidc has verified a token.
func (r *readHeaders) remember(header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// What is full is mostly of keys that are gone.
	if r.known == nil || len(r.known) >= maxHeaders {
		r.known = make(map[string]struct{})
	}
	// It is a part of a token, which need not be kept for it.
	r.known[strings.Clone(header)] = struct{}{}
}
