package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

const (
	// submissionRead bounds how long a submission may take to arrive.
	submissionRead = 5 * time.Second
	// submissionWrite bounds all of a submission, from its headers on.
	submissionWrite = 10 * time.Second
)

// submission lets others submit to the log in the state directory. Each shard has
// a submission URL of its own, below the path where it is read, since submitters
// know a log by its key: one that gets an SCT of another shard would refuse it.
type submission struct {
	stack   *Stack
	config  config.LogSubmission
	pair    live[*tls.Certificate]
	clients live[*x509.CertPool]
	issuers live[[][]*x509.Certificate]

	mu       sync.Mutex // guards handlers
	handlers map[string]*rfc6962.Handler
}

// submissionOf is the submission section of a configuration; nil when nobody may
// submit.
func submissionOf(f *config.File) *config.LogSubmission {
	for _, l := range f.Logs.List {
		if l.Embedded != nil && l.Embedded.Submission != nil {
			return l.Embedded.Submission
		}
	}
	return nil
}

// newSubmission reads every file.
func (s *Stack) newSubmission(c config.LogSubmission) (*submission, error) {
	u := &submission{
		stack: s, config: c, handlers: map[string]*rfc6962.Handler{},
		pair: live[*tls.Certificate]{
			what: "server certificate for submission", files: []string{c.TLS.Certificate, c.TLS.Key}, build: buildPair, logger: s.logger,
		},
		clients: live[*x509.CertPool]{
			what: "roots of submitters", files: []string{c.ClientCA}, build: buildPool, logger: s.logger,
		},
		issuers: live[[][]*x509.Certificate]{
			what: "issuing certificates for submission", files: c.Issuers, build: buildIssuers, logger: s.logger,
		},
	}
	u.issuers.taken = u.setIssuers
	for _, load := range []func() error{u.pair.load, u.clients.load, u.issuers.load} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// buildIssuers holds chains to what the log can take entries by.
func buildIssuers(contents [][]byte) ([][]*x509.Certificate, error) {
	chains, err := buildChains(contents)
	if err != nil {
		return nil, err
	}
	_, err = rfc6962.NewIssuers(chains)
	return chains, err
}

// setIssuers has the handlers take other issuing certificates. Each has a memory
// of its own.
func (u *submission) setIssuers(chains [][]*x509.Certificate) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, h := range u.handlers {
		is, err := rfc6962.NewIssuers(chains)
		if err != nil { // they were made of the same chains a moment ago
			u.stack.logger.Error("issuing certificates are not taken into use", "log", name, "err", err)
			continue
		}
		h.SetIssuers(is)
	}
}

// check looks at the files again.
func (u *submission) check() []error {
	return []error{u.pair.check(), u.clients.check(), u.issuers.check()}
}

// startSubmission serves submitters beside the service. Without a submission
// section it does nothing.
func (s *Stack) startSubmission(ctx context.Context, f *config.File) (io.Closer, error) {
	c := submissionOf(f)
	if c == nil {
		return io.NopCloser(nil), nil
	}
	u, err := s.newSubmission(*c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	d, err := u.open(ctx, f.Shutdown)
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		checkLive(ctx, func() error { return errors.Join(u.check()...) })
	}()
	return closerFunc(func() error {
		cancel()
		<-done
		return d.Close()
	}), nil
}

// open listens and serves submitters.
func (u *submission) open(ctx context.Context, drain time.Duration) (*door, error) {
	return openDoor(ctx, doorConfig{
		what: "submission to the log", address: u.config.Address, tls: u.tls(), handler: u, drain: drain,
		read: submissionRead, write: submissionWrite, logger: u.stack.logger,
	})
}

// tls demands a client certificate of each connection. Resumption is off, so that
// each is verified against the roots of its time.
func (u *submission) tls() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return u.pair.value(), nil
		},
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = u.clients.value()
		return c, nil
	}
	return outer
}

// ServeHTTP finds the shard that is meant: /log/<shard>/ct/v1/...
func (u *submission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, below := strings.CutPrefix(r.URL.Path, logRoot+"/")
	name, _, _ := strings.Cut(rest, "/")
	sh := u.stack.shard(name)
	if !below || sh == nil {
		http.Error(w, "Not Found\nno such log; the submission URL is that of this listener with "+logRoot+"/NAME", http.StatusNotFound)
		return
	}
	h, err := u.handler(sh)
	if err != nil {
		u.stack.logger.Error("submissions cannot be taken", "log", name, "err", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	http.StripPrefix(LogPath(name), h).ServeHTTP(w, r)
}

// handler is the one of a shard, made when it is first asked for: a reload brings
// shards.
func (u *submission) handler(sh *shard) (*rfc6962.Handler, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if h, ok := u.handlers[sh.Name]; ok {
		return h, nil
	}
	is, err := rfc6962.NewIssuers(u.issuers.value())
	if err != nil {
		return nil, err
	}
	h, err := rfc6962.New(rfc6962.Config{
		Name: sh.Name, Log: submittedShard{u.stack, sh}, Issuers: is,
		PerClient: rfc6962.Rate{Count: u.config.PerClient.Events, Per: u.config.PerClient.Per},
		Clock:     u.stack.options.Clock, Logger: u.stack.logger, Registerer: u.stack.registry,
	})
	if err != nil {
		return nil, err
	}
	u.handlers[sh.Name] = h
	return h, nil
}

// submittedShard takes entries while it is the shard's time, and not before or
// after: clients may not have heard of its key, or think that it is over.
type submittedShard struct {
	stack *Stack
	shard *shard
}

// writer returns the shard's log if it takes entries now.
func (l submittedShard) writer() (*embedded.Log, error) {
	all := l.stack.current.Load().shards
	if len(all) == 0 || all[CurrentShard(all, l.stack.options.Clock())].Name != l.shard.Name {
		return nil, fmt.Errorf("log %q: %w: another shard takes entries now", l.shard.Name, ctlog.ErrUnavailable)
	}
	return l.shard.writer()
}

func (l submittedShard) Ready() error {
	w, err := l.writer()
	if err != nil {
		return err
	}
	return w.Ready()
}

func (l submittedShard) Submit(ctx context.Context, s ctlog.Submission) (ctlog.SCT, error) {
	w, err := l.writer()
	if err != nil {
		return ctlog.SCT{}, err
	}
	return w.Submit(ctx, s)
}

func (l submittedShard) Add(ctx context.Context, e embedded.Entry) (ctlog.SCT, error) {
	w, err := l.writer()
	if err != nil {
		return ctlog.SCT{}, err
	}
	return w.Add(ctx, e)
}
