package pkcs11

import (
	"context"
	"fmt"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"
)

// connection is one login: what was true between it and the next. Its handles
// mean nothing in another.
type connection struct {
	// generation counts the connections of a token.
	generation uint64
	// epoch is the initialisation of the library that the handles belong to.
	epoch uint64
	slot  uint
	info  p11.TokenInfo
	// keeper is logged in and never signs: PKCS#11 v2.40, Section 5.6, has an
	// application log out when it closes its last session with a token.
	keeper p11.SessionHandle
	// keys are the private keys found, or why not. Token.mu guards it.
	keys map[*keyRef]foundKey
	// idle are sessions that nobody uses; the last one is taken first, so that
	// those not needed stay untouched. Token.mu guards it.
	idle []p11.SessionHandle
	// proven is set by the first good signature for somebody.
	proven atomic.Bool
}

// errNotSought is what a connection says of a key that came after it.
var errNotSought = fault(classDevice, "the key was not looked for yet")

// retireLocked ends the connection. Its sessions are closed by the next one, or
// by Close: not here, where a call might hang. The caller holds mu.
func (t *Token) retireLocked(cause error) {
	if t.conn != nil {
		t.leave(t.conn)
		t.conn = nil
		t.since = t.cfg.Clock()
		t.module.adjust(-1, 0)
	}
	t.cause = cause
}

// leave notes the sessions of a connection for closing. The caller holds mu.
func (t *Token) leave(c *connection) {
	for _, s := range append(c.idle, c.keeper) {
		t.leftovers = append(t.leftovers, leftover{c.epoch, s})
	}
	c.idle = nil
}

// broken ends conn because of an error, unless that has happened already.
func (t *Token) broken(conn *connection, cause error) {
	t.mu.Lock()
	mine := t.conn == conn
	if mine {
		t.retireLocked(cause)
	}
	t.mu.Unlock()
	if mine {
		t.log.Warn("connection to token lost", "err", cause, "class", classify(cause).String(), "generation", conn.generation)
		t.showReady()
	}
	t.wake()
}

// take returns the connection, the key in it if ref is not nil, and of its
// sessions an idle one if there is any. The caller holds a slot.
func (t *Token) take(ref *keyRef) (*connection, foundKey, p11.SessionHandle, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.availableLocked(); err != nil {
		return nil, foundKey{}, 0, false, err
	}
	var key foundKey
	if ref != nil {
		if key = t.conn.keys[ref]; key.err != nil {
			return nil, foundKey{}, 0, false, key.err
		}
		if key.handle == 0 {
			return nil, foundKey{}, 0, false, errNotSought
		}
	}
	n := len(t.conn.idle)
	if n == 0 {
		return t.conn, key, 0, false, nil
	}
	s := t.conn.idle[n-1]
	t.conn.idle = t.conn.idle[:n-1]
	return t.conn, key, s, true, nil
}

// putBack makes a session idle, if its connection still holds.
func (t *Token) putBack(conn *connection, s p11.SessionHandle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != conn {
		return false
	}
	conn.idle = append(conn.idle, s)
	return true
}

// forget takes all idle sessions of a connection from it. If the token lost one
// session, it is likely to have lost all.
func (t *Token) forget(conn *connection) []p11.SessionHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	idle := conn.idle
	conn.idle = nil
	return idle
}

// work is what is done in a session. After an error the session is closed.
type work func(a api, conn *connection, key foundKey, s p11.SessionHandle) ([]byte, error)

// inSession does work in a session, an idle one or a new one, in a goroutine that
// owns the session and its slot until the last call returned, however long the
// caller waits. conn tells where, also if there is an error.
func (t *Token) inSession(ctx context.Context, ref *keyRef, what string, do work) (result []byte, conn *connection, err error) {
	if err := t.slots.acquire(ctx); err != nil {
		return nil, nil, &classError{classCapacity, fmt.Errorf("waiting for a session: %w", err)}
	}
	conn, key, s, have, err := t.take(ref)
	if err != nil {
		t.slots.release()
		return nil, nil, err
	}
	if err := t.module.enter(conn.epoch); err != nil {
		// The session went with the library.
		t.slots.release()
		return nil, conn, err
	}
	result, err = run(ctx, &t.hangs, what, func() ([]byte, error) {
		defer t.module.leave()
		if !have {
			var err error
			if s, err = t.openSession(conn.slot); err != nil {
				return nil, err
			}
		}
		out, err := do(t.module.api, conn, key, s)
		if err != nil && classify(err) == classSession {
			for _, other := range t.forget(conn) {
				t.closeSession(other)
			}
		}
		if err != nil || !t.putBack(conn, s) {
			t.closeSession(s)
		}
		return out, err
	}, nil, t.slots.release)
	return result, conn, err
}

// openSession opens a session. The caller has entered the library.
func (t *Token) openSession(slot uint) (p11.SessionHandle, error) {
	s, err := t.module.api.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		err = &callError{"C_OpenSession", err}
		if classify(err) == classCapacity {
			t.slots.shrink()
		}
		return 0, err
	}
	t.count(1)
	return s, nil
}

// closeSession closes a session that is not used again, whatever C_CloseSession
// says. If it says that it could not, it is asked once more: a session that stays
// open is one less for all programs that share the token.
func (t *Token) closeSession(s p11.SessionHandle) {
	err := t.module.api.CloseSession(s)
	if err != nil && classify(err) != classSession {
		_ = t.module.api.CloseSession(s)
	}
	t.count(-1)
}

func (t *Token) count(delta int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open += delta
	t.metrics.set(t.metrics.sessions, float64(t.open))
}

// drop closes the sessions of connections that are no more. The caller has
// entered the library at epoch; sessions of another went with it.
func (t *Token) drop(epoch uint64) {
	t.mu.Lock()
	old := t.leftovers
	t.leftovers = nil
	t.mu.Unlock()
	for _, l := range old {
		if l.epoch == epoch {
			t.closeSession(l.session)
		} else {
			t.count(-1)
		}
	}
}

// closeLeftovers closes what the last connection left, for Close.
func (t *Token) closeLeftovers(ctx context.Context) error {
	t.mu.Lock()
	var epoch uint64
	for _, l := range t.leftovers {
		epoch = max(epoch, l.epoch)
	}
	t.mu.Unlock()
	if t.module.enter(epoch) != nil {
		return nil
	}
	_, err := run(ctx, &t.hangs, "closing sessions", func() (struct{}, error) {
		defer t.module.leave()
		t.drop(epoch)
		return struct{}{}, nil
	}, nil, nil)
	return err
}
