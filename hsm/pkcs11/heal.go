package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/hsm"
)

const (
	// checkEvery is how often the keeper is asked whether it is still logged in.
	checkEvery = 10 * time.Second
	// checkFor bounds that question.
	checkFor = 5 * time.Second
	// minPause and maxPause bound the pause between attempts to connect. A token
	// shall sign within 5 s of being back, so the longest pause, with jitter,
	// leaves room for a slow login.
	minPause = 500 * time.Millisecond
	maxPause = 2 * time.Second
	// maxRenewPause is the pause between initialisations of a library in which
	// another token works: each ends that token's sessions.
	maxRenewPause = 30 * time.Second
	// connectFor bounds an attempt to connect, with its login.
	connectFor = 10 * time.Second
	// blockedFor is how long hung calls may keep a token from being healed before
	// the process is given up.
	blockedFor = 30 * time.Second
)

// loop keeps the token connected until ctx ends. Nobody else connects, so there
// is never more than one login under way.
func (t *Token) loop(ctx context.Context) {
	defer close(t.stopped)
	// OpenToken made the first attempt just now.
	h := healer{t: t, pause: minPause, notBefore: time.Now().Add(jitter(minPause)), checked: time.Now()}
	for {
		timer := time.NewTimer(h.next())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-t.kick:
			timer.Stop()
		case <-timer.C:
		}
		h.turn(ctx)
	}
}

// healer is what the loop remembers.
type healer struct {
	t *Token
	// pause is between attempts; it doubles while they fail.
	pause time.Duration
	// notBefore is when the next attempt may begin.
	notBefore time.Time
	// checked is when the connection was last made or asked for.
	checked time.Time
	// blocked is since when calls that hang prevent healing.
	blocked time.Time
	// last is the connection that was seen last.
	last *connection
}

// next returns how long there is nothing to do.
func (h *healer) next() time.Duration {
	conn, _, fatal := h.t.condition()
	switch {
	case fatal:
		return maxRenewPause
	case conn != nil:
		return max(0, checkEvery-time.Since(h.checked))
	default:
		return max(0, time.Until(h.notBefore))
	}
}

// turn does what is due.
func (h *healer) turn(ctx context.Context) {
	conn, whole, fatal := h.t.condition()
	if fatal {
		return
	}
	if conn != nil {
		h.last = conn
		if time.Since(h.checked) >= checkEvery {
			h.checked = time.Now()
			h.t.check(ctx, conn)
			// One of the same name that was closed has shown itself as away.
			h.t.showReady()
			if !whole {
				h.t.searchAll(ctx, conn)
			}
		}
		return
	}
	if h.last != nil && h.last.proven.Load() {
		// It worked until now: the first attempt to have it back is not kept
		// waiting. A connection that breaks at its first use is.
		h.pause, h.notBefore = minPause, time.Time{}
	}
	if time.Until(h.notBefore) > 0 {
		return
	}
	err := h.t.heal(ctx)
	h.checked = time.Now()
	h.last, _, _ = h.t.condition()
	h.notBefore = time.Now().Add(jitter(h.pause))
	h.pause = min(2*h.pause, maxPause)
	h.watch(err)
}

// watch gives the process up if calls that hang keep the token from being healed.
func (h *healer) watch(err error) {
	switch {
	case err == nil || classify(err) != classHung:
		h.blocked = time.Time{}
	case h.blocked.IsZero():
		h.blocked = time.Now()
	case time.Since(h.blocked) >= blockedFor:
		h.t.giveUp(err)
	}
}

// jitter keeps replicas that lost the same token from coming back together.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/4)) //nolint:gosec // no secret
}

// condition returns the connection, whether all keys were found in it, and
// whether the token refused the PIN.
func (t *Token) condition() (conn *connection, whole, fatal bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return nil, false, t.cause != nil && classify(t.cause) == classFatal
	}
	for _, k := range t.conn.keys {
		if k.err != nil {
			return t.conn, false, false
		}
	}
	return t.conn, true, false
}

// check asks the keeper whether it is still logged in.
func (t *Token) check(ctx context.Context, conn *connection) {
	ctx, cancel := context.WithTimeout(ctx, checkFor)
	defer cancel()
	t.slots.grow()
	err := t.module.enter(conn.epoch)
	if err == nil {
		returned := make(chan struct{})
		t.pending = returned
		_, err = run(ctx, &t.hangs, "asking for the state of the login", func() (struct{}, error) {
			defer close(returned)
			defer t.module.leave()
			return struct{}{}, checkSession(t.module.api, conn.keeper)
		}, nil, nil)
	}
	if err != nil {
		t.metrics.failed(err)
		t.broken(conn, err)
	}
}

// Session states of CK_SESSION_INFO in which private keys can be used.
const (
	stateROUser = 1
	stateRWUser = 3
)

func checkSession(a api, s p11.SessionHandle) error {
	info, err := a.GetSessionInfo(s)
	if err != nil {
		return &callError{"C_GetSessionInfo", err}
	}
	if info.State != stateROUser && info.State != stateRWUser {
		return fault(classLogin, "the token forgot the login: session state %d", info.State)
	}
	return nil
}

// heal connects anew, initialising the library anew if that is what it takes.
func (t *Token) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	conn, epoch, err := t.connect(ctx)
	if t.mayRenew(conn, err) {
		if conn != nil {
			t.discard(conn)
		}
		t.metrics.renewals.Inc()
		if _, err = t.module.renew(ctx, epoch); err == nil {
			conn, _, err = t.connect(ctx)
		}
	}
	if err == nil && conn.useless() {
		err = conn.firstError()
		t.discard(conn)
	}
	if err != nil && ctx.Err() == nil {
		t.metrics.failed(err)
	}
	t.publish(conn, err)
	if err == nil {
		t.searchAll(ctx, conn)
	}
	return err
}

// mayRenew reports whether the library should be initialised anew, now that a
// connection was tried. Observed with SoftHSM: after its token was away, objects
// are not found, logins give CKR_GENERAL_ERROR, and nothing but C_Finalize and
// C_Initialize helps. So a key that is still not found is a reason as well.
func (t *Token) mayRenew(conn *connection, err error) bool {
	switch {
	case err == nil && !conn.useless():
		return false
	case err != nil:
		switch classify(err) {
		case classFatal, classConfig, classHung, classCapacity:
			return false
		}
	}
	t.mu.Lock()
	first := t.identity.String() == URI{}.String()
	t.mu.Unlock()
	t.module.mu.Lock()
	defer t.module.mu.Unlock()
	if first && time.Since(t.module.renewed) < minPause {
		return false // it was initialised for this very attempt
	}
	return t.module.working == 0 || time.Since(t.module.renewed) >= maxRenewPause
}

// publish makes conn the connection, or says why there is none, and tells those
// who wait.
func (t *Token) publish(conn *connection, err error) {
	t.mu.Lock()
	before := t.cause
	if err == nil && t.closed {
		t.leave(conn)
		err = errClosed
	}
	if err == nil {
		t.conn, t.cause = conn, nil
		t.identity = present{conn.slot, conn.info}.uri()
		t.module.adjust(1, 0)
		// A key may have come while the connection was made, or gone.
		for ref := range t.refs {
			if _, ok := conn.keys[ref]; !ok {
				conn.keys[ref] = foundKey{err: errNotSought}
			}
		}
		maps.DeleteFunc(conn.keys, func(ref *keyRef, _ foundKey) bool { return !t.refs[ref] })
	} else {
		if t.since.IsZero() {
			t.since = t.cfg.Clock()
		}
		t.cause = err
	}
	close(t.healed)
	t.healed = make(chan struct{})
	t.mu.Unlock()
	t.showReady()
	if err == nil {
		t.log.Info("connected to token", "uri", t.identity.String(), "slot", conn.slot, "generation", conn.generation,
			"max_sessions", conn.info.MaxSessionCount)
	} else if before == nil || classify(before) != classify(err) || codeName(before) != codeName(err) {
		// Not at each attempt: a token may be away for days.
		t.log.Warn("token is away", "err", err, "class", classify(err).String())
	}
}

// connect makes a connection. It returns the epoch that it tried, for renew.
func (t *Token) connect(ctx context.Context) (*connection, uint64, error) {
	if t.pending != nil {
		select {
		case <-t.pending:
		default:
			return nil, 0, fault(classHung, "an earlier attempt hangs in the library")
		}
	}
	epoch, err := t.module.current(ctx)
	if err != nil {
		return nil, epoch, err
	}
	if err := t.slots.acquire(ctx); err != nil {
		return nil, epoch, &classError{classCapacity, fmt.Errorf("waiting for a session: %w", err)}
	}
	if err := t.module.enter(epoch); err != nil {
		t.slots.release()
		return nil, epoch, err
	}
	t.mu.Lock()
	refs := make([]*keyRef, 0, len(t.refs))
	for r := range t.refs {
		refs = append(refs, r)
	}
	t.mu.Unlock()
	returned := make(chan struct{})
	t.pending = returned
	conn, err := run(ctx, &t.hangs, "connecting", func() (*connection, error) {
		defer close(returned)
		defer t.slots.release()
		defer t.module.leave()
		t.drop(epoch)
		return t.establish(epoch, refs)
	}, func(conn *connection, err error) {
		if err == nil {
			t.late(conn)
		}
	}, nil)
	return conn, epoch, err
}

// discard leaves a connection that was never published.
func (t *Token) discard(conn *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(conn)
}

// late is given a connection that nobody waits for any more. The next attempt to
// connect closes its sessions; if there is none to come, it is done here.
func (t *Token) late(conn *connection) {
	t.discard(conn)
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		ctx, cancel := context.WithTimeout(context.Background(), checkFor)
		defer cancel()
		_ = t.closeLeftovers(ctx)
	}
}

// readPIN returns the PIN, which the caller clears.
func (t *Token) readPIN() ([]byte, error) {
	pin, err := hsm.ReadSecretLine("PIN file", t.cfg.PINFile)
	if err != nil {
		return nil, &classError{classConfig, err}
	}
	if bytes.IndexByte(pin, 0) >= 0 {
		clear(pin)
		return nil, fault(classConfig, "PIN file %s has a zero byte, which no token would see", t.cfg.PINFile)
	}
	return pin, nil
}

// login logs a user in. The PIN is in memory for the time of the call: as bytes
// that are cleared, seen as a string without a copy. The library's own copy is
// beyond reach.
func (t *Token) login(s p11.SessionHandle, user uint) error {
	pin, err := t.readPIN()
	if err != nil {
		return err
	}
	defer clear(pin)
	return t.module.pins.try(t.located(), t.cfg.PINFile, pin, func() error {
		err := t.module.api.Login(s, user, unsafe.String(&pin[0], len(pin))) //nolint:gosec // see above: it cannot be cleared as a string
		if err != nil && !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
			return fmt.Errorf("logging in: %w", &callError{"C_Login", err})
		}
		return nil
	})
}
