package ctlog

import "net/http"

// SetTransport replaces the network below a remote log.
func (r *Remote) SetTransport(t http.RoundTripper) { r.client.Transport = t }
