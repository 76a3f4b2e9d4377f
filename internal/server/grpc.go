package server

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// newGRPC makes the gRPC server with its two services and nothing else. It is
// only ever used through ServeHTTP, so net/http owns connections, TLS, HTTP/2
// and their limits, and the middleware is the same as for REST.
func (s *Server) newGRPC() (*grpc.Server, *health.Server) {
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxBody),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	fulciov2.RegisterCAServer(g, caService{server: s})
	h := health.NewServer()
	h.SetServingStatus(fulciov2.CA_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(g, h)
	return g, h
}

func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// grpcRoutes are the methods that exist: others share one label.
var grpcRoutes = map[string]route{
	fulciov2.CA_CreateSigningCertificate_FullMethodName: {api: "grpc"},
	fulciov2.CA_GetTrustBundle_FullMethodName:           {},
	fulciov2.CA_GetConfiguration_FullMethodName:         {},
	healthpb.Health_Check_FullMethodName:                {quiet: true},
	healthpb.Health_List_FullMethodName:                 {quiet: true},
	healthpb.Health_Watch_FullMethodName:                {quiet: true},
}

// serveGRPC hands a request to the gRPC library. The call's deadline is put on
// the context in the interceptor and not here: the library drops a request
// whose HTTP context ends, and the client would get no status at all.
func (s *Server) serveGRPC(w http.ResponseWriter, r *http.Request, c *call) {
	rt, found := grpcRoutes[r.URL.Path]
	c.quiet, c.api, c.route = rt.quiet, rt.api, "other"
	if found {
		c.route = r.URL.Path
	}
	if r.URL.Path == healthpb.Health_Watch_FullMethodName {
		release, ok := s.watches.take(c.source)
		if !ok {
			c.refuseGRPC(w, ca.Refuse(ca.KindUnavailable, ca.ReasonOverloaded, "%d health watches, or %d of one address", maxWatches, maxWatches/4))
			return
		}
		defer release()
		// A watch lasts, and needs nothing of the configuration it began under.
		c.release()
		withoutDeadlines(w)
	}
	if c.api != "" {
		if err := s.limitAddress(c); err != nil {
			s.cfg.CountRefusal(ca.ReasonRateLimited)
			c.refuseGRPC(w, err)
			return
		}
		// Fulcio's own name for a token in gRPC metadata, without a scheme.
		c.tokens = append(c.tokens, r.Header.Values("Oidcidentitytoken")...)
	}
	s.grpc.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	c.turn.Lock()
	defer c.turn.Unlock()
	c.over = true
	s.explainGRPC(w, c)
}

// withoutDeadlines takes off the deadlines of listen.go.
func withoutDeadlines(w http.ResponseWriter) {
	rc := http.NewResponseController(w)
	// Not supported outside of net/http's own servers, which is what tests use.
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Time{})
}

// explainGRPC names the reason of a refusal that the gRPC library made by
// itself, so that log and metrics know it.
func (s *Server) explainGRPC(w http.ResponseWriter, c *call) {
	code := w.Header().Get("Grpc-Status")
	if c.refusal != nil || code == "" || code == "0" || c.route == healthpb.Health_Watch_FullMethodName {
		return
	}
	reason := ca.ReasonRequestMalformed
	switch code {
	case "8": // RESOURCE_EXHAUSTED: the message is larger than MaxRecvMsgSize
		reason = ca.ReasonRequestTooLarge
	case "12": // UNIMPLEMENTED: no such method
		reason = ca.ReasonNotFound
	case "5": // NOT_FOUND: a health check for a service that we do not have
		reason = ca.ReasonNotFound
	}
	c.refused(ca.Refuse(ca.KindInvalid, reason, "refused by the gRPC library with %s", w.Header().Get("Grpc-Message")))
	if c.api != "" {
		s.cfg.CountRefusal(reason)
	}
}

// unary recovers, because the library runs methods on goroutines of its own,
// sets the deadline, and turns errors into statuses.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	c := callOf(ctx)
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.over {
		return nil, errGone
	}
	ctx, cancel := context.WithDeadline(ctx, s.deadline(c))
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, c.statusError(s.panicked(c, v, debug.Stack()))
		}
	}()
	resp, err = handler(ctx, req)
	if _, ours := info.Server.(caService); err != nil && ours {
		return nil, c.statusError(err)
	}
	return resp, err
}

// errGone goes to nobody: the client left before its method began.
var errGone = status.Error(codes.Canceled, "client has gone")

// caService is the CA as gRPC sees it.
type caService struct {
	fulciov2.UnimplementedCAServer
	server *Server
}

func (g caService) CreateSigningCertificate(ctx context.Context, req *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	cert, err := g.server.issue(ctx, callOf(ctx), inputV2(req))
	if err != nil {
		return nil, err
	}
	return signingCertificate(cert.PEM(), cert.HasSCT()), nil
}

func (g caService) GetTrustBundle(ctx context.Context, _ *fulciov2.GetTrustBundleRequest) (*fulciov2.TrustBundle, error) {
	return trustBundle(callOf(ctx).snapshot), nil
}

func (g caService) GetConfiguration(ctx context.Context, _ *fulciov2.GetConfigurationRequest) (*fulciov2.Configuration, error) {
	return configuration(callOf(ctx).snapshot), nil
}
