package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"
	"github.com/prometheus/client_golang/prometheus"
)

// DefaultMaxSessions is few, because tokens are shared: a YubiHSM has sixteen
// sessions for all programs together.
const DefaultMaxSessions = 8

// TokenConfig says which token, and how to log in to it.
type TokenConfig struct {
	// Name is what logs and metrics call the token.
	Name string
	// Module is the absolute path of the vendor's library. It and its
	// directories must belong to root and be writable by nobody else.
	Module string
	// URI is a PKCS#11 URI with attributes of the token, in place of the four
	// that follow. At least one of the five must be given.
	URI                                string
	Label, Serial, Manufacturer, Model string
	// PINFile names the file whose only line is the PIN of the user. It is read
	// at every login, so that a PIN can be changed without a restart.
	PINFile string
	// MaxSessions bounds the sessions, the one that keeps the login included;
	// at least 2, 0 means DefaultMaxSessions or fewer if the token says so.
	MaxSessions int
	// Logger receives changes of state; nil discards them.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
	// Clock is the time that errors tell; nil means time.Now.
	Clock func() time.Time
	// OnStuck is called once, in a goroutine of the token, when so many calls
	// hang that only the end of the process helps. A supervisor should start it
	// again. Nil means that nobody is told.
	OnStuck func(error)
}

// Token is a connection to a token that repairs itself. It is safe for
// concurrent use.
type Token struct {
	cfg     TokenConfig
	want    URI
	module  *module
	log     *slog.Logger
	metrics *metrics
	slots   *slots
	hangs   hangs

	// kick wakes the loop.
	kick    chan struct{}
	stop    context.CancelFunc
	stopped chan struct{}
	stuck   sync.Once
	// pending is closed when the last call made by the loop returned. It belongs
	// to the loop, which makes no other before: so at most one of them hangs.
	pending chan struct{}
	// generation counts connections.
	generation atomic.Uint64

	// mu guards what follows.
	mu sync.Mutex
	// conn is nil while there is no connection; cause then says why, and since
	// when.
	conn   *connection
	cause  error
	since  time.Time
	closed bool
	// refs are the keys to look for at each connection.
	refs map[*keyRef]bool
	// identity is what the last token said about itself.
	identity URI
	// found is the token that the last attempt to connect came upon.
	found string
	// leftovers are sessions of broken connections, to be closed.
	leftovers []leftover
	// healed is closed, and made anew, after each attempt to connect.
	healed chan struct{}
	open   int
}

// errClosed is what a closed token or key says.
var errClosed = fault(classCaller, "closed")

// awayError means that there is no connection, and that nothing was tried.
type awayError struct{ err error }

func (e *awayError) Error() string { return e.err.Error() }
func (e *awayError) Unwrap() error { return e.err }

type leftover struct {
	epoch   uint64
	session p11.SessionHandle
}

// OpenToken connects to a token. What is wrong with the configuration is an
// error: a library that is not root's, a token that is matched twice, a PIN that
// is refused. A token that is away is none: it is connected to when it comes
// back, and Ready tells. Close ends it.
func OpenToken(ctx context.Context, cfg TokenConfig) (*Token, error) {
	m, err := openModule(cfg.Module)
	if err != nil {
		return nil, fmt.Errorf("pkcs11: token %s: %w", cfg.Name, err)
	}
	t, err := openToken(ctx, cfg, m)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pkcs11: token %s: %w", cfg.Name, err), m.release(ctx))
	}
	return t, nil
}

func openToken(ctx context.Context, cfg TokenConfig, m *module) (*Token, error) {
	want, err := cfg.want()
	if err != nil {
		return nil, err
	}
	if cfg.PINFile == "" {
		return nil, errors.New("no PIN file given")
	}
	if cfg.MaxSessions != 0 && (cfg.MaxSessions < 2 || cfg.MaxSessions > 1024) {
		return nil, fmt.Errorf("at most %d sessions given: one keeps the login and one signs, so write 2 to 1024", cfg.MaxSessions)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	mt, err := newMetrics(cfg.Registerer, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	t := &Token{
		cfg: cfg, want: want, module: m, metrics: mt,
		log:   cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)).With("token", cfg.Name),
		slots: newSlots(cmp.Or(cfg.MaxSessions, DefaultMaxSessions) - 1),
		kick:  make(chan struct{}, 1), stopped: make(chan struct{}),
		refs: make(map[*keyRef]bool), healed: make(chan struct{}),
	}
	t.hangs.changed = t.hangsChanged
	if err := t.heal(ctx); err != nil {
		if c := classify(err); c == classFatal || c == classConfig || ctx.Err() != nil {
			mt.close()
			return nil, err
		}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.stop = stop
	go t.loop(background)
	return t, nil
}

// want returns what the token must say about itself.
func (c TokenConfig) want() (URI, error) {
	u := URI{Token: c.Label, Serial: c.Serial, Manufacturer: c.Manufacturer, Model: c.Model}
	described := u.String() != URI{}.String()
	if c.URI == "" {
		if !described {
			return URI{}, errors.New("nothing says which token: give its label and serial, or its URI")
		}
		return u, nil
	}
	if described {
		return URI{}, errors.New("the URI takes the place of label, serial, manufacturer and model: give one or the other")
	}
	got, err := ParseURI(c.URI)
	if err != nil {
		return URI{}, fmt.Errorf("reading the URI of the token: %w", err)
	}
	u = URI{Token: got.Token, Serial: got.Serial, Manufacturer: got.Manufacturer, Model: got.Model}
	if u.String() != got.String() {
		return URI{}, fmt.Errorf("of the URI of a token only token, serial, manufacturer and model are used, but it says more than %s: slots move, and the rest has its own place", u)
	}
	if u.String() == (URI{}).String() {
		return URI{}, errors.New("the URI says nothing about the token: give its token and serial attributes")
	}
	return u, nil
}

// located names the token that was found last, for what is remembered of its PIN.
func (t *Token) located() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.found
}

// Ready reports, without I/O, why the token would sign nothing now.
func (t *Token) Ready() error {
	if err := t.available(); err != nil {
		return fmt.Errorf("pkcs11: token %s: %w", t.cfg.Name, err)
	}
	return nil
}

func (t *Token) available() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.availableLocked()
}

func (t *Token) availableLocked() error {
	switch {
	case t.closed:
		return errClosed
	case t.conn == nil:
		return &awayError{fmt.Errorf("not connected since %s: %w", t.since.UTC().Format(time.RFC3339), t.cause)}
	}
	_, stuck := t.hangs.figures()
	if _, size := t.slots.figures(); 2*stuck > size {
		return fault(classHung, "%d calls hang in its library, of at most %d sessions", stuck, size)
	}
	return nil
}

// hangsChanged is told by hangs.
func (t *Token) hangsChanged(delta int) {
	abandoned, stuck := t.hangs.figures()
	t.module.adjust(0, delta)
	t.metrics.set(t.metrics.lost, float64(abandoned))
	t.metrics.set(t.metrics.stuck, float64(stuck))
	_, size := t.slots.figures()
	if delta > 0 && stuck >= size {
		go t.giveUp(fmt.Errorf("all %d sessions are in calls that hang", stuck))
	}
	t.showReady()
}

// giveUp tells the owner of the process that nothing in it helps any more.
func (t *Token) giveUp(err error) {
	t.stuck.Do(func() {
		t.log.Error("token hangs and only a restart helps", "err", err)
		if t.cfg.OnStuck != nil {
			t.cfg.OnStuck(fmt.Errorf("pkcs11: token %s: %w", t.cfg.Name, err))
		}
	})
}

func (t *Token) showReady() {
	if t.available() == nil {
		t.metrics.set(t.metrics.ready, 1)
	} else {
		t.metrics.set(t.metrics.ready, 0)
	}
}

// wake has the loop look at the token now.
func (t *Token) wake() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Close ends the sessions and gives the library back, waiting for signatures
// under way as long as ctx allows. Calls that hang are left behind.
func (t *Token) Close(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	t.stop()
	<-t.stopped
	t.mu.Lock()
	t.retireLocked(errClosed)
	t.mu.Unlock()
	t.metrics.close()
	size := t.slots.restore()
	var err error
	taken := 0
	for ; taken < size; taken++ {
		// Who holds all slots knows that nobody signs.
		if err = t.slots.acquire(ctx); err != nil {
			err = fmt.Errorf("waiting for signatures under way: %w", err)
			break
		}
	}
	for range taken {
		// Those who wait get their turn, to be told that the token is closed.
		t.slots.release()
	}
	if closing := t.closeSessions(ctx); err == nil {
		err = closing
	}
	if err = errors.Join(err, t.module.release(ctx)); err != nil {
		return fmt.Errorf("pkcs11: closing token %s: %w", t.cfg.Name, err)
	}
	return nil
}

// closeSessions closes what is left when the loop has ended, unless its last call
// hangs: that may be in the keeper, and a session is never in two calls.
func (t *Token) closeSessions(ctx context.Context) error {
	if t.pending != nil {
		select {
		case <-t.pending:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a call that hangs: %w", ctx.Err())
		}
	}
	return t.closeLeftovers(ctx)
}
