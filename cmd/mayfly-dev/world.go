package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/stack"
	"github.com/mayfly-ca/mayfly/cmd/mayfly-dev/provider"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// world is the running demonstration.
type world struct {
	settings settings
	provider *provider.Provider
	url      string // of the CA
	issuer   string // of the provider
	cancel   context.CancelFunc
	running  int        // how many parts have started and not been waited for
	ended    chan error // of provider and CA, one each
}

// readyTimeout bounds the wait for the CA to be ready, which takes the time of
// one key fetch on loopback.
const readyTimeout = 15 * time.Second

// startWorld makes what is missing in the state directory and starts provider
// and CA. It returns when the CA could issue.
func startWorld(ctx context.Context, s settings) (_ *world, err error) {
	state, err := filepath.Abs(s.state)
	if err != nil {
		return nil, fmt.Errorf("finding the state directory: %w", err)
	}
	s.state = state
	if err := preparePKI(state, time.Now()); err != nil {
		return nil, err
	}
	if dir := stack.LogDir(state, logName); !exists(dir) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return nil, fmt.Errorf("making the log's directory: %w", err)
		}
		if _, err := embedded.Init(ctx, embedded.InitConfig{Dir: dir, Origin: logOrigin}); err != nil {
			return nil, err
		}
	}
	w := &world{settings: s, ended: make(chan error, 2)}
	ctx, w.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	if err := w.startProvider(ctx); err != nil {
		return nil, err
	}
	if err := w.startCA(ctx); err != nil {
		return nil, err
	}
	return w, w.awaitReady(ctx)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// listenLoopback refuses every address from which others could come: the
// demonstration's passwords are public.
func listenLoopback(ctx context.Context, address string) (net.Listener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !addr.Addr().IsLoopback() {
		return nil, fmt.Errorf("%q is no loopback address with a port, such as 127.0.0.1:8450", address)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w; is another mayfly-dev running? give other ports with --listen and --provider", err)
	}
	return ln, nil
}

func (w *world) startProvider(ctx context.Context) error {
	ln, err := listenLoopback(ctx, w.settings.provider)
	if err != nil {
		return err
	}
	w.issuer = "http://" + ln.Addr().String()
	if w.provider, err = provider.New(provider.Config{Issuer: w.issuer, Logger: w.settings.logger()}); err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := &http.Server{Handler: w.provider.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	w.running++
	go func() { w.ended <- srv.Serve(ln) }()
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	return nil
}

func (w *world) startCA(ctx context.Context) error {
	ln, err := listenLoopback(ctx, w.settings.address)
	if err != nil {
		return err
	}
	w.url = "http://" + ln.Addr().String()
	path, err := writeConfig(w.settings.state, ln.Addr().String(), w.url, w.issuer)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	f, err := config.Load(path, nil)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	s, err := stack.Open(ctx, f, stack.Options{Demo: true, Listener: ln, Logger: w.settings.logger()})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	w.running++
	go func() { w.ended <- s.Run(ctx) }()
	return nil
}

func (w *world) awaitReady(interrupted context.Context) error {
	ctx, cancel := context.WithTimeout(interrupted, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, err := get(ctx, w.url+"/readyz", nil); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-w.ended:
			w.running--
			return fmt.Errorf("stopped while starting: %w", err)
		case <-ctx.Done():
			if interrupted.Err() != nil {
				return fmt.Errorf("stopped while starting: %w", context.Cause(interrupted))
			}
			return errors.New("not ready in time; run with --verbose to see why")
		}
	}
}

// wait returns when ctx has ended and all is stopped, or when a part fails.
func (w *world) wait(ctx context.Context) error {
	var errs []error
	for ; w.running > 0; w.running-- {
		select {
		case <-ctx.Done():
			w.cancel()
			errs = append(errs, ended(<-w.ended))
		case err := <-w.ended:
			w.cancel()
			errs = append(errs, ended(err))
		}
	}
	return errors.Join(errs...)
}

// stop stops everything and waits.
func (w *world) stop() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return w.wait(ctx)
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
