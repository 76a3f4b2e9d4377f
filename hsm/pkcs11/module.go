package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// api is the part of PKCS#11 that is used here, as *p11.Ctx has it. Tests put a
// fake in its place.
type api interface {
	Initialize(...p11.InitializeOption) error
	Finalize() error
	GetInfo() (p11.Info, error)
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetSlotInfo(slot uint) (p11.SlotInfo, error)
	GetTokenInfo(slot uint) (p11.TokenInfo, error)
	GetMechanismList(slot uint) ([]*p11.Mechanism, error)
	GetMechanismInfo(slot uint, m []*p11.Mechanism) (p11.MechanismInfo, error)
	OpenSession(slot, flags uint) (p11.SessionHandle, error)
	CloseSession(p11.SessionHandle) error
	GetSessionInfo(p11.SessionHandle) (p11.SessionInfo, error)
	Login(s p11.SessionHandle, user uint, pin string) error
	FindObjectsInit(p11.SessionHandle, []*p11.Attribute) error
	FindObjects(s p11.SessionHandle, limit int) ([]p11.ObjectHandle, bool, error)
	FindObjectsFinal(p11.SessionHandle) error
	GetAttributeValue(p11.SessionHandle, p11.ObjectHandle, []*p11.Attribute) ([]*p11.Attribute, error)
	SignInit(p11.SessionHandle, []*p11.Mechanism, p11.ObjectHandle) error
	Sign(s p11.SessionHandle, message []byte) ([]byte, error)
	GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error)
	GenerateRandom(s p11.SessionHandle, length int) ([]byte, error)
}

var _ api = (*p11.Ctx)(nil)

// errRenewed means that the library was initialised anew: handles from before
// mean nothing now, or something else.
var errRenewed = errors.New("the PKCS#11 library was initialised anew")

// errRenewing means that the library takes no calls while it is initialised.
var errRenewing = errors.New("the PKCS#11 library is being initialised")

// module is a loaded library. C_Initialize and C_Finalize count for the whole
// process, so there is one module for each library, however many tokens use it.
type module struct {
	path string
	api  api
	// pins outlives the tokens, as the module does.
	pins *pins

	// turn is held by whoever initialises.
	turn chan struct{}

	// mu guards what follows.
	mu sync.Mutex
	// epoch counts initialisations; 0 is before the first. Each call names the
	// epoch of its handles, because after C_Initialize the same numbers are
	// given out again, perhaps for somebody else's session.
	epoch uint64
	// open says that calls may enter.
	open bool
	// initialised says that C_Finalize is due before the next C_Initialize.
	initialised bool
	running     int
	// idle, if somebody waits for it, is closed when running gets to 0.
	idle chan struct{}
	// working counts the tokens that serve, for those who would initialise anew,
	// and stuck the calls that hang, for which nobody can.
	working, stuck int
	// renewed is when the library was last initialised.
	renewed time.Time
	// refs counts the tokens, guarded by the registry.
	refs int
}

// registry holds the libraries of the process by their real path.
var registry = struct {
	sync.Mutex
	modules map[string]*module
}{modules: make(map[string]*module)}

// openModule loads a library, or finds it loaded. It does not initialise it.
func openModule(path string) (*module, error) {
	found, err := checkModule(path)
	if err != nil {
		return nil, err
	}
	registry.Lock()
	defer registry.Unlock()
	if m := registry.modules[found]; m != nil {
		m.refs++
		return m, nil
	}
	ctx := p11.New(found)
	if ctx == nil {
		return nil, fmt.Errorf("loading PKCS#11 library %s: it is not a shared library for this machine that has C_GetFunctionList, or one that it needs is missing (ldd %s)", path, found)
	}
	m := newModule(found, ctx)
	m.refs = 1
	registry.modules[found] = m
	return m, nil
}

func newModule(path string, a api) *module {
	return &module{path: path, api: a, pins: newPINs(), turn: make(chan struct{}, 1)}
}

// current returns the epoch, initialising the library if nobody has yet.
func (m *module) current(ctx context.Context) (uint64, error) {
	m.mu.Lock()
	epoch, initialised := m.epoch, m.initialised
	m.mu.Unlock()
	if initialised {
		return epoch, nil
	}
	return m.renew(ctx, epoch)
}

// enter admits a call with handles of an epoch. Whoever enters leaves.
func (m *module) enter(epoch uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.open:
		return errRenewing
	case m.epoch != epoch:
		return errRenewed
	}
	m.running++
	return nil
}

func (m *module) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
	if m.running == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}

// renew finalises and initialises, unless somebody did since epoch, and returns
// the epoch that holds now. It waits for running calls to end, and gives up with
// ctx: PKCS#11 leaves undefined what C_Finalize does under a running call, and
// libraries take that as leave to crash.
func (m *module) renew(ctx context.Context, epoch uint64) (uint64, error) {
	err := m.alone(ctx, func() bool { return m.epoch != epoch && m.initialised }, m.initialise)
	if err != nil {
		return 0, fmt.Errorf("initialising the PKCS#11 library %s: %w", m.path, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch, nil
}

// alone calls work when no call runs and none can enter, unless done says, with
// mu held, that it is not needed any more. If ctx ends while work runs, the
// library stays shut until work returns.
func (m *module) alone(ctx context.Context, done func() bool, work func(finalise bool) error) error {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for somebody else who does: %w", ctx.Err())
	}
	m.mu.Lock()
	if done() {
		m.mu.Unlock()
		<-m.turn
		return nil
	}
	if m.stuck > 0 {
		n := m.stuck
		m.mu.Unlock()
		<-m.turn
		return fault(classHung, "%d calls hang in it, and it must not be finalised under them", n)
	}
	m.open = false
	finalise := m.initialised
	m.mu.Unlock()
	if err := m.drain(ctx); err != nil {
		m.mu.Lock()
		m.open = m.initialised
		m.mu.Unlock()
		<-m.turn
		return err
	}
	result := make(chan error, 1)
	go func() {
		// The turn goes back when the calls return, whenever that is.
		defer func() { <-m.turn }()
		result <- work(finalise)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// initialise is work for alone.
func (m *module) initialise(finalise bool) error {
	// Either there was nothing to finalise, or it could not be: C_Initialize tells.
	_ = m.finalise(finalise)
	err := m.api.Initialize()
	if err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return &callError{"C_Initialize", err}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.initialised, m.open, m.renewed = true, true, time.Now()
	return nil
}

// finalise is work for alone. Whatever it returns, no handle lives on.
func (m *module) finalise(due bool) (err error) {
	if due {
		err = m.api.Finalize()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.initialised = false
	m.epoch++
	if err != nil {
		return &callError{"C_Finalize", err}
	}
	return nil
}

// drainFor is how long calls may still run before somebody gives up wanting to
// be alone: longer than any signature takes, shorter than clients wait, because
// nobody else can enter meanwhile.
const drainFor = 2 * time.Second

// drain waits until no call runs.
func (m *module) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainFor)
	defer cancel()
	m.mu.Lock()
	if m.running == 0 {
		m.mu.Unlock()
		return nil
	}
	if m.idle == nil {
		m.idle = make(chan struct{})
	}
	idle, running := m.idle, m.running
	m.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fault(classHung, "%d calls in it do not end: %w", running, ctx.Err())
	}
}

// release gives the library back. The last one out finalises it, unless calls
// hang in it: then it stays initialised, which harms nobody. It is never
// unloaded: libraries leave threads behind that would run into nothing.
func (m *module) release(ctx context.Context) error {
	registry.Lock()
	m.refs--
	last := m.refs == 0
	registry.Unlock()
	if !last {
		return nil
	}
	if err := m.alone(ctx, func() bool { return !m.initialised }, m.finalise); err != nil {
		return fmt.Errorf("finalising the PKCS#11 library %s: %w", m.path, err)
	}
	return nil
}

// adjust changes how many tokens work and how many calls hang.
func (m *module) adjust(working, stuck int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.working += working
	m.stuck += stuck
}

// visit calls do with a library that takes calls, for those who only look at what
// it has or make a key in it: no connection is kept. do may outlive ctx, then in
// a goroutine that nobody waits for.
func visit(ctx context.Context, path string, do func(a api) error) error {
	m, err := openModule(path)
	if err != nil {
		return err
	}
	err = m.visit(ctx, do)
	return errors.Join(err, m.release(ctx))
}

func (m *module) visit(ctx context.Context, do func(a api) error) error {
	epoch, err := m.current(ctx)
	if err != nil {
		return err
	}
	if err := m.enter(epoch); err != nil {
		return err
	}
	h := hangs{changed: func(delta int) { m.adjust(0, delta) }}
	_, err = run(ctx, &h, "using the PKCS#11 library", func() (struct{}, error) {
		defer m.leave()
		return struct{}{}, do(m.api)
	}, nil, nil)
	return err
}
