package server

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// maxConnections bounds the memory that connections take, idle ones included.
const maxConnections = 16384

// connectionLimit leaves half of the process's descriptors to everything else.
// Journal and log open files as they work, and stop for good when they cannot;
// whoever only holds connections open must not get that far.
func connectionLimit() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return maxConnections / 16
	}
	return int(min(maxConnections, max(files.Cur/2, 1)))
}

// shares hands out slots for what clients can hold on to, such as connections,
// and to one address no more than its share.
type shares struct {
	slots chan struct{}
	// perAddress is how many one address may have, a quarter of all, unless it
	// is that of a trusted proxy.
	perAddress int
	trusts     func(netip.Addr) bool

	mu sync.Mutex
	// mu guards held.
	held map[netip.Prefix]int
}

func newShares(limit int, trusts func(netip.Addr) bool) *shares {
	return &shares{
		slots: make(chan struct{}, limit), perAddress: max(limit/4, 1), trusts: trusts, held: make(map[netip.Prefix]int),
	}
}

// take gives out a slot if there is one, for this address too. The slot is given
// back by what take returns, once.
func (s *shares) take(addr netip.Addr) (release func(), ok bool) {
	select {
	case s.slots <- struct{}{}:
		return s.assign(addr)
	default:
		return nil, false
	}
}

// assign gives a slot that was taken to an address, or back if the address has
// its share.
func (s *shares) assign(addr netip.Addr) (release func(), ok bool) {
	if addr.IsValid() && s.trusts(addr) {
		return sync.OnceFunc(func() { <-s.slots }), true
	}
	key := addressKey(addr)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] >= s.perAddress {
		<-s.slots
		return nil, false
	}
	s.held[key]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held[key]--; s.held[key] == 0 {
			delete(s.held, key)
		}
		<-s.slots
	}), true
}

// limit returns a listener that accepts no more connections than there are
// slots. Those beyond wait in the kernel's queue; those beyond the share of
// their address are closed.
func (s *shares) limit(ln net.Listener) net.Listener {
	return &limitedListener{Listener: ln, shares: s, done: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	shares *shares
	// done is closed by Close, for an Accept that waits for a slot.
	done chan struct{}
	once sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.shares.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.shares.slots
			return nil, err
		}
		addr, _ := parseHop(conn.RemoteAddr().String())
		if release, ok := l.shares.assign(addr); ok {
			return &limitedConn{Conn: conn, release: release}, nil
		}
		_ = conn.Close()
	}
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// limitedConn gives its slot back when it is closed.
type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
