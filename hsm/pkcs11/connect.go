package pkcs11

import (
	"context"
	"fmt"
	"math"

	p11 "github.com/miekg/pkcs11"
)

// establish finds the token, logs in and finds the keys. The caller has entered
// the library and holds a slot for the session that looks for the keys.
func (t *Token) establish(epoch uint64, refs []*keyRef) (*connection, error) {
	a := t.module.api
	p, err := t.locate(a)
	if err != nil {
		return nil, err
	}
	if err := checkPINState(p.info.Flags); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.found = p.uri().String()
	t.mu.Unlock()
	if p.info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0 {
		t.log.Warn("somebody gave a wrong PIN to the token since the last login")
	}
	t.slots.resize(sessionsFor(t.cfg.MaxSessions, p.info.MaxSessionCount))
	conn := &connection{
		generation: t.generation.Add(1), epoch: epoch, slot: p.slot, info: p.info,
		keys: make(map[*keyRef]foundKey, len(refs)),
	}
	if conn.keeper, err = t.openSession(p.slot); err != nil {
		return nil, err
	}
	if err := t.login(conn.keeper, p11.CKU_USER); err != nil {
		t.closeSession(conn.keeper)
		return nil, err
	}
	t.metrics.logins.Inc()
	if err := t.findKeys(conn, refs); err != nil {
		t.closeSession(conn.keeper)
		return nil, err
	}
	return conn, nil
}

// locate finds the token. If several match, the one of the last connection is
// meant, should it be among them.
func (t *Token) locate(a api) (present, error) {
	p, err := findToken(a, t.want)
	if err == nil || classify(err) != classConfig {
		return p, err
	}
	t.mu.Lock()
	last := t.identity
	t.mu.Unlock()
	if last.String() == (URI{}).String() {
		return p, err
	}
	if p, again := findToken(a, last); again == nil {
		return p, nil
	}
	return p, err
}

// checkPINState refuses to log in where that could do harm.
func checkPINState(flags uint) error {
	switch {
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return fault(classFatal, "the token has no user PIN yet: set one with the vendor's tool")
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fault(classFatal, "the user PIN is locked after too many wrong attempts: have the security officer unlock it, then reload")
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fault(classFatal, "one wrong attempt would lock the user PIN, so none is made: log in once with the vendor's tool and the right PIN, then reload")
	case flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return fault(classFatal, "the token wants its user PIN changed first: change it with the vendor's tool, then reload")
	}
	return nil
}

// sessionsFor returns how many sessions may sign at once, the keeper not
// counted. Tokens report 0 for no limit and all ones for not known (PKCS#11
// v2.40, Section 3.2, CK_EFFECTIVELY_INFINITE and CK_UNAVAILABLE_INFORMATION),
// and some report nonsense: a limit that was met counts more than one that was
// reported.
func sessionsFor(configured int, reported uint) int {
	known := reported != 0 && reported < math.MaxUint32
	n := configured
	switch {
	case configured == 0 && known:
		n = min(DefaultMaxSessions, int(reported)-1)
	case configured == 0:
		n = DefaultMaxSessions
	case known:
		n = min(configured, int(reported))
	}
	return max(n, 2) - 1
}

// findKeys looks for keys in a session of its own, which it leaves idle.
func (t *Token) findKeys(conn *connection, refs []*keyRef) error {
	s, err := t.openSession(conn.slot)
	if err != nil {
		if classify(err) == classCapacity && conn.info.MaxSessionCount == 1 {
			return fault(classConfig, "the token allows one session, but one keeps the login and another signs: %w", err)
		}
		return err
	}
	for _, ref := range refs {
		key, err := ref.lookup(t, s)
		if err != nil {
			t.closeSession(s)
			return fmt.Errorf("checking key %s: %w", ref.name, err)
		}
		conn.keys[ref] = key
		if key.err == nil {
			continue
		}
		// An operation may still be active in it.
		t.closeSession(s)
		if s, err = t.openSession(conn.slot); err != nil {
			return err
		}
	}
	conn.idle = append(conn.idle, s)
	return nil
}

// useless reports whether none of the keys that were looked for can be used.
func (c *connection) useless() bool {
	for _, k := range c.keys {
		if k.err == nil {
			return false
		}
	}
	return len(c.keys) > 0
}

func (c *connection) firstError() error {
	for ref, k := range c.keys {
		if k.err != nil {
			return fmt.Errorf("key %s: %w", ref.name, k.err)
		}
	}
	return nil
}

// search looks for a key in a connection that holds, and remembers it.
func (t *Token) search(ctx context.Context, ref *keyRef) (*connection, error) {
	var problem error
	_, conn, err := t.inSession(ctx, nil, "looking for a key", func(_ api, conn *connection, _ foundKey, s p11.SessionHandle) ([]byte, error) {
		key, err := ref.lookup(t, s)
		if err != nil {
			return nil, err
		}
		t.mu.Lock()
		if t.refs[ref] {
			conn.keys[ref] = key
		}
		t.mu.Unlock()
		return nil, key.err
	})
	if err != nil {
		problem = fmt.Errorf("checking key %s: %w", ref.name, err)
	}
	return conn, problem
}

// searchAll looks again for the keys of a connection that cannot be used.
func (t *Token) searchAll(ctx context.Context, conn *connection) {
	ctx, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	t.mu.Lock()
	var missing []*keyRef
	for ref, k := range conn.keys {
		if k.err != nil {
			missing = append(missing, ref)
		}
	}
	t.mu.Unlock()
	for _, ref := range missing {
		if _, err := t.search(ctx, ref); err == nil {
			t.log.Info("key of token can be used", "key", ref.name)
		} else {
			t.log.Error("key of token cannot be used", "key", ref.name, "err", err)
		}
	}
}
