package ctlog

import (
	"context"
	"net"
	"net/http"
)

// SetTransport replaces the network below a remote log.
func (r *Remote) SetTransport(t http.RoundTripper) { r.client.Transport = t }

// SetDial replaces the connections below a remote log.
func (r *Remote) SetDial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	r.client.Transport.(*transport).own.DialContext = dial
}
