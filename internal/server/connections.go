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

// connections counts the connections of all clients and of each.
type connections struct {
	slots chan struct{}
	// perAddress is how many one address may have, a quarter of all, unless it
	// is that of a trusted proxy.
	perAddress int
	trusts     func(netip.Addr) bool

	mu sync.Mutex
	// mu guards held.
	held map[netip.Prefix]int
}

func newConnections(limit int, trusts func(netip.Addr) bool) *connections {
	return &connections{
		slots: make(chan struct{}, limit), perAddress: max(limit/4, 1), trusts: trusts, held: make(map[netip.Prefix]int),
	}
}

// enter counts a connection, or refuses it as one too many of its address. What
// it returns takes the connection off again, once.
func (c *connections) enter(remote net.Addr) (leave func(), ok bool) {
	addr, known := parseHop(remote.String())
	if known && c.trusts(addr) {
		return func() {}, true
	}
	key := addressKey(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key] >= c.perAddress {
		return nil, false
	}
	c.held[key]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held[key]--; c.held[key] == 0 {
			delete(c.held, key)
		}
	}), true
}

// limit returns a listener that accepts no more connections than there are
// slots. Those beyond wait in the kernel's queue; those beyond the share of
// their address are closed.
func (c *connections) limit(ln net.Listener) net.Listener {
	return &limitedListener{Listener: ln, connections: c, done: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	connections *connections
	// done is closed by Close, for an Accept that waits for a slot.
	done chan struct{}
	once sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.connections.slots <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.connections.slots
			return nil, err
		}
		leave, ok := l.connections.enter(conn.RemoteAddr())
		if !ok {
			_ = conn.Close()
			<-l.connections.slots
			continue
		}
		return &limitedConn{Conn: conn, release: sync.OnceFunc(func() {
			leave()
			<-l.connections.slots
		})}, nil
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
