package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/mayfly-ca/mayfly/ca"
)

// Snapshot is everything that a request needs to know about one configuration.
// It is immutable: a reload makes a new one, and requests under way keep theirs.
type Snapshot struct {
	// Verify turns a token into an identity. It must not reach the network for
	// a token that turns out bad.
	Verify func(ctx context.Context, token string) (ca.Identity, error)
	// Issue makes the certificate.
	Issue func(ctx context.Context, r ca.Request) (ca.Certificate, error)
	// Refuse records that a verified identity was refused before Issue was
	// called, and returns the refusal.
	Refuse func(ctx context.Context, r ca.Request, why error) *ca.Refusal
	// Chains returns the published chains as PEM, issuing certificate first and
	// root last. The first chain is the one that signs now.
	Chains func() [][]string
	// TrustedRoot and SigningConfig return the JSON documents that clients
	// verify and sign with. They may change with time; nil or empty is answered
	// as not found.
	TrustedRoot, SigningConfig func() []byte
	// Issuers are shown by GetConfiguration, in this order.
	Issuers []Issuer
	// ConfigDigest is SHA-256 of the configuration.
	ConfigDigest [32]byte
	// Hosts and Prefixes are what is served at addresses of its own in place of
	// this snapshot: by the name in the Host header (or :authority), in lower case
	// without port, and by the first segment of the path, such as "/team". They
	// have no Hosts and Prefixes themselves. A prefix hides no route and no mount,
	// and serves no mount; gRPC knows hosts only.
	Hosts, Prefixes map[string]*Snapshot
	// Release is called once for each time that Config.Snapshot returned this
	// snapshot, when the request does not need it any more. It may be nil.
	Release func()
}

// Issuer is what clients may know about one accepted identity provider. One
// with several audiences is listed once for each.
type Issuer struct {
	URL, Audience string
	// Type is "email" or "uri".
	Type string
	// SubjectDomain is where URIs must lie; empty for other types.
	SubjectDomain string
	// ChallengeClaim is the claim that the proof of possession signs.
	ChallengeClaim string
	// SPIFFETrustDomain is set for issuers of SPIFFE IDs.
	SPIFFETrustDomain string
}

// Rate is a token bucket: Count requests per Per on average, and Burst at once.
type Rate struct {
	Count int
	// Per defaults to one minute.
	Per time.Duration
	// Burst defaults to Count.
	Burst int
}

// Limits bounds what callers may ask of the CA. Only issuance is limited by
// identity and address; everything else is answered from memory.
type Limits struct {
	// PerIdentity defaults to 60 a minute. It counts verified identities, so
	// nobody can use up another's share.
	PerIdentity Rate
	// PerAddress defaults to 600 a minute. IPv6 addresses count by their /64,
	// which is the least that one customer is given.
	PerAddress Rate
	// InFlight is how many issuances run at once; further ones are turned away
	// once their token is verified, which waits for nothing but the processor.
	// It defaults to 256.
	InFlight int
	// TokenBytes is the longest token accepted, 16 KiB by default and at most
	// 64 KiB.
	TokenBytes int
}

// Mount is a handler of someone else's under a prefix of this server: the
// log's read path. It gets GET and HEAD requests with the prefix stripped.
type Mount struct {
	// Prefix begins with a slash, ends without one, and overlaps no route.
	Prefix  string
	Handler http.Handler
}

// Config is what a Server is made of.
type Config struct {
	// Snapshot returns the configuration in force; it is called once per
	// request and must not block.
	Snapshot func() *Snapshot
	// Ready returns what /readyz shows: the names of components and whether
	// each is ready. All of them are required. Nil means none.
	Ready func() map[string]bool
	// Shown returns what /readyz shows beside that and what takes nothing out of
	// service: what a person should look at while the service works. Nil means
	// none.
	Shown  func() map[string]bool
	Limits Limits
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Deadline is for a whole request and defaults to 4 s, because npm's client
	// gives up at 5 and would never read why.
	Deadline time.Duration
	// Clock defaults to time.Now. Deadlines run on real time regardless.
	Clock func() time.Time
	// Logger defaults to discarding.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
	// CountRefusal is told the reason of every issuance that was refused before
	// its identity was verified; Refuse and Issue record the others. It may be
	// nil and must not block.
	CountRefusal func(ca.Reason)
	// Mounts are further handlers.
	Mounts []Mount
}

// Server answers REST and gRPC requests. Make one with New.
type Server struct {
	cfg       Config
	routes    map[string]route
	grpc      *grpc.Server
	health    *health.Server
	watches   *watches
	metrics   *metrics
	addresses *keyedLimiter[netip.Prefix]
	// identities is keyed by issuer name and subject.
	identities *keyedLimiter[[2]string]
	inFlight   chan struct{}
	anonymous  *lineLimit
	// connections limits those of Serve.
	connections *shares

	// mu guards serving and closed.
	mu      sync.Mutex
	serving bool
	closed  bool
	// calls counts requests under way.
	calls sync.WaitGroup
}

const (
	// maxBody is the longest request body: a token, a key and its proof in
	// base64 fit many times over.
	maxBody = 128 << 10
	// maxKey is the longest public key or signing request; an RSA 4096 CSR in
	// PEM has less than 2 KiB.
	maxKey = 16 << 10

	maxTokenBytes = 64 << 10
)

// New returns a server that is serving as far as its health is concerned.
func New(cfg Config) (*Server, error) {
	if cfg.Snapshot == nil {
		return nil, errors.New("server: no snapshot")
	}
	cfg.Deadline = cmp.Or(cfg.Deadline, 4*time.Second)
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CountRefusal == nil {
		cfg.CountRefusal = func(ca.Reason) {}
	}
	nothing := func() map[string]bool { return nil }
	if cfg.Ready == nil {
		cfg.Ready = nothing
	}
	if cfg.Shown == nil {
		cfg.Shown = nothing
	}
	if err := cfg.Limits.complete(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if cfg.Deadline < 0 {
		return nil, fmt.Errorf("server: deadline %s is negative", cfg.Deadline)
	}
	s := &Server{
		cfg:        cfg,
		addresses:  newKeyedLimiter[netip.Prefix](cfg.Limits.PerAddress, maxKeys),
		identities: newKeyedLimiter[[2]string](cfg.Limits.PerIdentity, maxKeys),
		inFlight:   make(chan struct{}, cfg.Limits.InFlight),
		anonymous:  newLineLimit(),
		serving:    true,
	}
	s.watches = newWatches(s.trusts)
	s.connections = newShares(connectionLimit(), s.trusts)
	s.routes = s.restRoutes()
	if err := s.checkMounts(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, s.inFlight, s.connections.slots); err != nil {
		return nil, fmt.Errorf("server: registering metrics: %w", err)
	}
	s.grpc, s.health = s.newGRPC()
	return s, nil
}

func (s *Server) checkMounts() error {
	for i, m := range s.cfg.Mounts {
		if m.Handler == nil || !strings.HasPrefix(m.Prefix, "/") || strings.HasSuffix(m.Prefix, "/") {
			return fmt.Errorf("mount %q needs a handler and a prefix that begins with a slash and ends without one", m.Prefix)
		}
		for path := range s.routes {
			if under(path, m.Prefix) {
				return fmt.Errorf("mount %q hides route %s", m.Prefix, path)
			}
		}
		for _, other := range s.cfg.Mounts[:i] {
			if under(other.Prefix, m.Prefix) || under(m.Prefix, other.Prefix) {
				return fmt.Errorf("mounts %q and %q overlap", other.Prefix, m.Prefix)
			}
		}
	}
	return nil
}

// under reports whether path is prefix or lies below it.
func under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// SetServing says whether health checks report the server as serving. A server
// that drains is told false first, so that balancers look elsewhere while it
// still answers.
func (s *Server) SetServing(serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.serving = serving
	if serving {
		s.health.Resume()
	} else {
		s.health.Shutdown()
	}
}

func (s *Server) isServing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving
}

// Close ends health watches and gRPC calls. It is for servers whose Handler is
// used without Serve, which does the same in its proper order.
func (s *Server) Close() {
	s.SetServing(false)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.watches.end()
	s.grpc.Stop()
}
