package rfc6962

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Rate is how often one client may ask: Count requests per Per on average, and
// Count at once.
type Rate struct {
	Count int
	Per   time.Duration
}

// maxClients bounds the memory of quotas. Whoever may issue client certificates
// without end can push out quotas, and is then held by the bound on requests in
// flight alone.
const maxClients = 4096

// client is what is counted of one client certificate's key.
type client struct {
	quota *rate.Limiter
	// flying has a place for each request under way.
	flying chan struct{}
}

// clients holds the quotas of the clients seen last. A client is its public key:
// a renewed certificate starts no new quota, and two services that share a key
// share one.
type clients struct {
	rate   Rate
	flying int

	mu    sync.Mutex // guards known, so that no client has two quotas
	known *lru.Cache[fingerprint, *client]
}

func newClients(r Rate, flying int) (*clients, error) {
	known, err := lru.New[fingerprint, *client](maxClients)
	if err != nil {
		return nil, err
	}
	return &clients{rate: r, flying: flying, known: known}, nil
}

func (c *clients) of(id fingerprint) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.known.Get(id); ok {
		return known
	}
	made := &client{
		quota:  rate.NewLimiter(rate.Every(c.rate.Per/time.Duration(c.rate.Count)), c.rate.Count),
		flying: make(chan struct{}, c.flying),
	}
	c.known.Add(id, made)
	return made
}

// take uses up one request. When there is none it returns how long to wait for
// the next; a refused request costs nothing.
func (c *client) take(now time.Time) (wait time.Duration, ok bool) {
	if c.quota.AllowN(now, 1) {
		return 0, true
	}
	missing := max(0, 1-c.quota.TokensAt(now))
	return time.Duration(missing / float64(c.quota.Limit()) * float64(time.Second)), false
}

// identify returns who asks. The listener has verified the certificate when the
// connection was made, which may be long ago: it must not have expired since.
func identify(r *http.Request, now time.Time) (fingerprint, bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return fingerprint{}, false
	}
	cert := r.TLS.PeerCertificates[0]
	if now.After(cert.NotAfter) {
		return fingerprint{}, false
	}
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo), true
}
