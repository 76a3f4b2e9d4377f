package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/cmd/internal/files"
)

// liveInterval is how soon a changed file is noticed.
const liveInterval = 2 * time.Second

// live is a value that is made of files, and made again when what they hold
// changes. Content decides and not modification times, as everywhere. Files that
// no value can be made of leave the last one in use.
type live[T any] struct {
	what  string
	files []string
	build func(contents [][]byte) (T, error)
	// taken is told of each value after the first; it may be nil.
	taken  func(T)
	logger *slog.Logger

	current atomic.Pointer[T]
	// mu guards the rest.
	mu      sync.Mutex
	seen    [sha256.Size]byte
	failure string
}

// load makes the first value, without which there is nothing.
func (l *live[T]) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, seen, err := l.read()
	if err != nil {
		return err
	}
	l.seen = seen
	l.current.Store(&v)
	return nil
}

// value is the last good one.
func (l *live[T]) value() T { return *l.current.Load() }

// check looks at the files. A failure is told once for each reason, and returned
// each time.
func (l *live[T]) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, seen, err := l.read()
	if err != nil {
		if text := err.Error(); text != l.failure {
			l.failure = text
			l.logger.Error("changed files are not taken into use; what they held before stays", "what", l.what, "err", err)
		}
		return err
	}
	l.failure = ""
	if seen == l.seen {
		return nil
	}
	l.seen = seen
	l.current.Store(&v)
	if l.taken != nil {
		l.taken(v)
	}
	l.logger.Info("changed files are taken into use", "what", l.what)
	return nil
}

func (l *live[T]) read() (v T, seen [sha256.Size]byte, err error) {
	h := sha256.New()
	contents := make([][]byte, len(l.files))
	for i, name := range l.files {
		if contents[i], err = files.Read(name); err != nil {
			return v, seen, err
		}
		sum := sha256.Sum256(contents[i])
		h.Write(sum[:])
	}
	if v, err = l.build(contents); err != nil {
		return v, seen, err
	}
	return v, [sha256.Size]byte(h.Sum(nil)), nil
}

// checkLive looks at files until ctx ends.
func checkLive(ctx context.Context, checks ...func() error) {
	tick := time.NewTicker(liveInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, check := range checks {
				_ = check() // it has told
			}
		}
	}
}

// buildPair is for the files of a server certificate and its key.
func buildPair(contents [][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// buildPool is for a file of roots.
func buildPool(contents [][]byte) (*x509.CertPool, error) {
	certs, err := ca.ParseChain(contents[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if !c.IsCA {
			return nil, fmt.Errorf("%q is not the certificate of a certificate authority", c.Subject)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// buildChains is for files of chains, the issuing certificate first.
func buildChains(contents [][]byte) ([][]*x509.Certificate, error) {
	var chains [][]*x509.Certificate
	var errs []error
	for i, data := range contents {
		certs, err := ca.ParseChain(bytes.TrimSpace(data))
		if err != nil {
			errs = append(errs, fmt.Errorf("file %d: %w", i+1, err))
		}
		chains = append(chains, certs)
	}
	return chains, errors.Join(errs...)
}
