package server

import (
	"net"
	"net/http"
	"strings"
)

// pin takes the configuration in force for one call, and finds the one of the
// host that the client asked.
//
// The Host header decides and not the name in the TLS handshake: RFC 9113,
// Section 9.1.1, lets a client use one connection for every host that the
// certificate holds.
func (c *call) pin(snapshot *Snapshot, r *http.Request) {
	c.snapshot = snapshot
	c.held = snapshot.Release
	if len(snapshot.Hosts) == 0 {
		return
	}
	if other := snapshot.Hosts[hostOf(r)]; other != nil {
		c.snapshot = other
	}
}

// hostOf is the host that a client asked, as a key of Hosts.
func hostOf(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// within takes the first segment off a path when a configuration of its own is
// served there.
func (c *call) within(clean string) (rest string, found bool) {
	first, rest, more := strings.Cut(clean[1:], "/")
	other := c.snapshot.Prefixes["/"+first]
	if !more || other == nil {
		return clean, false
	}
	c.snapshot = other
	return "/" + rest, true
}
