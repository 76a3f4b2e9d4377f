package server

import (
	"context"
	"net/netip"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// maxWatches is how many health watches may be open. They are the only requests
// that last, and every balancer needs one.
const maxWatches = 256

// watches ends health watches when the server drains. A watch lasts as long as
// its client wants, and http.Server.Shutdown would wait for it in vain.
type watches struct {
	*shares
	// ended is closed by end.
	ended chan struct{}
	once  sync.Once
}

func newWatches(trusts func(netip.Addr) bool) *watches {
	return &watches{shares: newShares(maxWatches, trusts), ended: make(chan struct{})}
}

// end makes every watch return once it has told its client that the server is
// no longer serving.
func (w *watches) end() { w.once.Do(func() { close(w.ended) }) }

// stream is the interceptor of the one streaming method there is, Watch.
func (s *Server) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	c := callOf(ss.Context())
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.over {
		return errGone
	}
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = c.statusError(s.panicked(c, v, debug.Stack()))
		}
	}()
	watch := &watchStream{ServerStream: ss, ctx: ctx, cancel: cancel, ended: s.watches.ended}
	stop := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() {
		select {
		case <-s.watches.ended:
			watch.end()
		case <-stop:
		}
	})
	defer waiter.Wait()
	defer close(stop)
	return handler(srv, watch)
}

// watchStream is a watch that can be ended without losing its last word.
type watchStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	ended  <-chan struct{}

	// mu guards serving.
	mu sync.Mutex
	// serving is whether the client was last told SERVING.
	serving bool
}

// Context ends with the watch.
func (w *watchStream) Context() context.Context { return w.ctx }

// SendMsg sends a status, and ends the watch when it was the last.
func (w *watchStream) SendMsg(m any) error {
	if err := w.ServerStream.SendMsg(m); err != nil {
		return err
	}
	reply, ok := m.(*healthpb.HealthCheckResponse)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.serving = ok && reply.Status == healthpb.HealthCheckResponse_SERVING
	select {
	case <-w.ended:
		if !w.serving {
			w.cancel()
		}
	default:
	}
	return nil
}

// end ends the watch at once if its client has nothing more to learn. Otherwise
// NOT_SERVING is on its way, and SendMsg ends the watch.
func (w *watchStream) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.serving {
		w.cancel()
	}
}
