package pkcs11

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// pins remembers which PINs the tokens of a library refused. Three wrong attempts
// lock a token for everybody, and whoever opens tokens cannot be trusted to count:
// three chains with keys on one token, a reload that is tried again at every poll,
// and eight signatures that each want a PIN of their own would each try once.
//
// A PIN is tried again when its file has been written since: that is how a person
// says that it is right now, be it for a token that was unlocked.
type pins struct {
	// key makes the digests useless outside of this process.
	key [32]byte

	// mu guards tokens.
	mu sync.Mutex
	// tokens are by what they say about themselves, not by what a configuration
	// calls them, which may have two names for one.
	tokens map[string]*refusedPINs
}

// ErrPINRefused is part of every error that means that an attempt was spent on a
// PIN which the token refused, now or before.
var ErrPINRefused = errors.New("it is not tried again")

// refusedPINs are those of one token.
type refusedPINs struct {
	// turn is held while a PIN is tried, so that who comes second learns from it.
	// It guards tried.
	turn chan struct{}
	// tried are the digests of those that were refused, with when their files
	// were written. Each cost an attempt, so there are few.
	tried map[[sha256.Size]byte]time.Time
}

func newPINs() *pins {
	p := &pins{tokens: make(map[string]*refusedPINs)}
	_, _ = rand.Read(p.key[:]) // it never fails
	return p
}

func (p *pins) of(token string) *refusedPINs {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.tokens[token]
	if r == nil {
		r = &refusedPINs{turn: make(chan struct{}, 1), tried: make(map[[sha256.Size]byte]time.Time)}
		p.tokens[token] = r
	}
	return r
}

func (p *pins) digest(pin []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write(pin)
	return [sha256.Size]byte(h.Sum(nil))
}

// try has login give a PIN to a token, unless the token refused it before, and
// remembers when it does. file is where the PIN was read.
func (p *pins) try(token, file string, pin []byte, login func() error) error {
	r := p.of(token)
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	var written time.Time
	if st, err := os.Stat(file); err == nil {
		written = st.ModTime()
	}
	digest := p.digest(pin)
	if at, refused := r.tried[digest]; refused && at.Equal(written) {
		return fault(classFatal, "the token refused this PIN before; %w until %s is written again: each attempt could be the one that locks the token", ErrPINRefused, file)
	}
	err := login()
	if err != nil && classify(err) == classFatal {
		r.tried[digest] = written
		return fmt.Errorf("%w; %w until %s is written again", err, ErrPINRefused, file)
	}
	return err
}
