package server

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// listenTCP returns a limited listener on loopback, and what it accepts.
func listenTCP(t *testing.T, c *shares) (ln net.Listener, accepted chan net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, accepted = c.limit(inner), make(chan net.Conn, 8)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-ended
	})
	return ln, accepted
}

func dialTCP(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func nobody(netip.Addr) bool { return false }

// endlessListener has a client whenever it is asked, and counts.
type endlessListener struct {
	net.Listener
	asked atomic.Int64
}

func (l *endlessListener) Accept() (net.Conn, error) {
	l.asked.Add(1)
	conn, _ := net.Pipe()
	return conn, nil
}

func (l *endlessListener) Close() error { return nil }

func TestConnectionsOverTheLimitWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, c := new(endlessListener), newShares(8, nobody)
		c.perAddress = 8 // a pipe has no address
		ln := c.limit(inner)
		var conns []net.Conn
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conns = append(conns, conn)
			}
		}()
		synctest.Wait()
		if n := inner.asked.Load(); n != 8 || len(conns) != 8 {
			t.Fatalf("%d connections were accepted, want 8", n)
		}
		first := conns[0] // the next one is appended as soon as this one is closed
		_ = first.Close()
		_ = first.Close() // gives one slot back, not two
		synctest.Wait()
		if n := inner.asked.Load(); n != 9 || len(c.slots) != 8 {
			t.Errorf("after one has ended: %d accepted, %d slots taken; want 9 and 8", n, len(c.slots))
		}
		_ = ln.Close() // although it is full
		synctest.Wait()
	})
}

func TestOneAddressHasAShareOfTheConnections(t *testing.T) {
	c := newShares(8, nobody)
	ln, accepted := listenTCP(t, c)
	dialTCP(t, ln)
	dialTCP(t, ln)
	first := <-accepted
	<-accepted
	if _, err := dialTCP(t, ln).Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a third connection of one address: got %v, want it closed", err)
	}
	if release, ok := c.take(netip.MustParseAddr("192.0.2.1")); !ok {
		t.Error("another address is refused too")
	} else {
		release()
	}
	_ = first.Close()
	dialTCP(t, ln)
	<-accepted
	proxy := netip.MustParseAddr("192.0.2.2")
	c.trusts = func(a netip.Addr) bool { return a == proxy }
	for range c.perAddress + 1 {
		release, ok := c.take(proxy)
		if !ok {
			t.Fatal("a trusted proxy has no more than the share of one address")
		}
		defer release()
	}
}

func TestConnectionLimitLeavesDescriptors(t *testing.T) {
	if n := connectionLimit(); n < 1 || n > maxConnections {
		t.Errorf("limit %d is not between 1 and %d", n, maxConnections)
	}
}
