package oidc

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

const (
	// maxUses bounds the tokens of each issuer that are remembered, at about 100
	// bytes each. One bound for all would let one provider stop the others.
	maxUses = 1 << 17
	// usesSweep is how often tokens that cannot come back are forgotten.
	usesSweep = time.Minute
)

// uses counts how often tokens were used, for as long as they can be. It is the
// memory of one process: with two replicas a token is good for twice as many
// certificates.
type uses struct {
	limit int
	// mu guards the fields below.
	mu     sync.Mutex
	tokens map[[32]byte]use
	// held is how many of tokens are of an issuer, by its name.
	held  map[string]int
	swept time.Time
}

type use struct {
	issuer string
	count  int
	until  time.Time
}

func newUses(limit int) *uses {
	return &uses{limit: limit, tokens: make(map[[32]byte]use), held: make(map[string]int)}
}

// tokenKey names a token. A name that the provider gave it is better than its
// text, which a provider that signs with ECDSA could make anew each time; but
// not all give names.
func tokenKey(id *ca.Identity) [32]byte {
	name := id.Token.ID
	if name == "" {
		name, _ = id.Claims["uti"].(string) // Entra ID
	}
	if name == "" {
		return id.Token.Digest
	}
	iss, _ := id.Claims["iss"].(string)
	// iss has no zero byte: it equals one of the configuration.
	return sha256.Sum256([]byte(iss + "\x00" + name))
}

// take counts a use of id's token, or refuses it. A memory that is full refuses
// too: forgetting a token early would let it be used again.
func (u *uses) take(is *Issuer, id *ca.Identity, now time.Time) *ca.Refusal {
	limit := is.MaxCertificatesPerToken
	if is.OneTime {
		limit = 1
	}
	if limit == 0 {
		return nil
	}
	// A token cannot be used after it has expired nor after it is too old.
	until := id.Token.UsableUntil
	if old := id.Token.IssuedAt.Add(is.MaxTokenAge + time.Second); old.Before(until) {
		until = old
	}
	key := tokenKey(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sweep(now)
	seen, known := u.tokens[key]
	switch {
	case seen.count >= limit && is.OneTime:
		return invalid(ca.ReasonTokenReused, "token was used before")
	case seen.count >= limit:
		return ca.Refuse(ca.KindExhausted, ca.ReasonTokenQuota, "token was used %d times", seen.count)
	case !known && u.held[is.Name] >= u.limit:
		return ca.Refuse(ca.KindUnavailable, ca.ReasonOverloaded, "%d tokens of issuer %s are in use, limit %d", u.held[is.Name], is.Name, u.limit)
	case !known:
		u.held[is.Name]++
	}
	u.tokens[key] = use{issuer: is.Name, count: seen.count + 1, until: until}
	return nil
}

// sweep forgets what cannot come back. The caller holds mu.
func (u *uses) sweep(now time.Time) {
	// A clock that was set back sweeps now rather than in a day.
	if age := now.Sub(u.swept); age >= 0 && age < usesSweep {
		return
	}
	u.swept = now
	for key, seen := range u.tokens {
		if !now.Before(seen.until) {
			u.forget(key, seen)
		}
	}
}

// forget takes a token out of the memory. The caller holds mu.
func (u *uses) forget(key [32]byte, seen use) {
	delete(u.tokens, key)
	u.held[seen.issuer]--
}

func (u *uses) refund(id *ca.Identity) {
	key := tokenKey(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	seen, known := u.tokens[key]
	switch {
	case !known:
	case seen.count <= 1:
		u.forget(key, seen)
	default:
		seen.count--
		u.tokens[key] = seen
	}
}

// Refund takes back one use of the token that id came from, because no
// certificate came of it: the client is going to try again with the same token.
// It is called at most once for each success of [Verifier.Verify], and not when
// a certificate may exist.
func (v *Verifier) Refund(id ca.Identity) { v.uses.refund(&id) }
