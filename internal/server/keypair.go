package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// checkInterval is how old what we know of the files may be.
const checkInterval = time.Second

// maxPEMFile bounds what is read; a chain has a few KiB.
const maxPEMFile = 1 << 20

// keyPair is a TLS certificate that follows its files. It reads them itself, at
// most once a second and only when someone connects, and compares what they
// hold: modification times and inodes say little about a Kubernetes Secret,
// whose files are symbolic links into a directory that is swapped whole.
type keyPair struct {
	certFile, keyFile string
	clock             func() time.Time
	logger            *slog.Logger
	metrics           *metrics

	current atomic.Pointer[tls.Certificate]

	// mu guards what follows. It is only ever tried: a handshake that finds
	// another one reading uses the certificate at hand.
	mu      sync.Mutex
	checked time.Time
	// seen is the digest of the files as last read, good or not, so that a bad
	// pair is reported once; failure is the last error's text.
	seen    [sha256.Size]byte
	failure string
}

// loadKeyPair reads the files for the first time, when nothing else is at hand
// and an error must be returned.
func loadKeyPair(certFile, keyFile string, clock func() time.Time, logger *slog.Logger, m *metrics) (*keyPair, error) {
	p := &keyPair{certFile: certFile, keyFile: keyFile, clock: clock, logger: logger, metrics: m, checked: clock()}
	cert, key, err := p.read()
	if err != nil {
		return nil, err
	}
	if err := p.use(cert, key); err != nil {
		return nil, err
	}
	return p, nil
}

// certificate is for tls.Config.GetCertificate.
func (p *keyPair) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p.mu.TryLock() {
		p.check()
		p.mu.Unlock()
	}
	return p.current.Load(), nil
}

func (p *keyPair) check() {
	now := p.clock()
	if age := now.Sub(p.checked); age >= 0 && age < checkInterval {
		return
	}
	p.checked = now
	cert, key, err := p.read()
	if err == nil && digestOf(cert, key) == p.seen {
		return
	}
	if err == nil {
		err = p.use(cert, key)
	}
	switch {
	case err == nil:
		p.failure = ""
		p.metrics.reloads.WithLabelValues("ok").Inc()
		p.logger.Info("TLS certificate reloaded", "not_after", p.current.Load().Leaf.NotAfter)
	case err.Error() != p.failure:
		p.failure = err.Error()
		p.metrics.reloads.WithLabelValues("error").Inc()
		p.logger.Error("TLS certificate not reloaded; the last good one stays in use", "err", err)
	}
}

// use takes the pair into use. One whose halves do not match is refused, as is
// met when the files are changed one after the other.
func (p *keyPair) use(cert, key []byte) error {
	p.seen = digestOf(cert, key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", p.certFile, p.keyFile, err)
	}
	p.current.Store(&pair)
	p.metrics.notAfter.Set(float64(pair.Leaf.NotAfter.Unix()))
	return nil
}

func (p *keyPair) read() (cert, key []byte, err error) {
	if cert, err = readPEM(p.certFile); err != nil {
		return nil, nil, err
	}
	if key, err = readPEM(p.keyFile); err != nil {
		return nil, nil, err
	}
	return cert, key, nil
}

func readPEM(name string) ([]byte, error) {
	// Nobody waits for a pipe that has no writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEMFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxPEMFile)
	}
	return data, nil
}

func digestOf(cert, key []byte) [sha256.Size]byte {
	c, k := sha256.Sum256(cert), sha256.Sum256(key)
	return sha256.Sum256(bytes.Join([][]byte{c[:], k[:]}, nil))
}
