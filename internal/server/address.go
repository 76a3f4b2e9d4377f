package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxHops bounds how much of X-Forwarded-For is looked at.
const maxHops = 32

// source returns the client's address: the rightmost hop that is not a trusted
// proxy. Everything further left was written by that hop or by whoever stands
// behind it, and may be anything.
func (s *Server) source(r *http.Request) netip.Addr {
	peer, ok := parsePeer(r.RemoteAddr)
	if !ok || !s.trusts(peer) {
		return peer
	}
	// RFC 9110, Section 5.3: a field that occurs several times means its values
	// joined by commas, in order.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	client := peer
	for i, hop := range slices.Backward(hops) {
		if len(hops)-i > maxHops {
			break
		}
		addr, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break // the proxy nearest to it is the last one that we know
		}
		client = addr
		if !s.trusts(addr) {
			break
		}
	}
	return client
}

func (s *Server) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parsePeer is parseHop of what nearly always has a port.
func parsePeer(s string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	return parseHop(s)
}

// parseHop reads an address with or without a port. Mapped IPv4 addresses
// become IPv4, and zones go: they mean nothing beyond this host.
func parseHop(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}
