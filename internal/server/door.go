package server

import (
	"net"
	"net/netip"
)

// LimitConnections is what Serve does to its own listener, for others: at most
// limit connections are accepted at once, and a quarter of them from one address.
// Half of the process's descriptors stay free in any case.
func LimitConnections(ln net.Listener, limit int) net.Listener {
	nobody := func(netip.Addr) bool { return false }
	return newShares(min(limit, connectionLimit()), nobody).limit(ln)
}
