package ctlog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// maxTokenBytes is more than a service account token of Kubernetes has.
const maxTokenBytes = 16 << 10

// credentials are what a remote log knows us by. They are read when they are
// used, because whoever renews them does not restart us.
type credentials struct {
	certFile, keyFile, tokenFile string

	mu   sync.Mutex // guards seen
	seen [2]fileStamp
}

// fileStamp tells one version of a file from another.
type fileStamp struct {
	modified time.Time
	size     int64
}

func stampOf(name string) fileStamp {
	info, err := os.Stat(name)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{info.ModTime(), info.Size()}
}

// renewed tells, once, that the files of the client certificate have changed.
func (c *credentials) renewed() bool {
	if c.certFile == "" {
		return false
	}
	now := [2]fileStamp{stampOf(c.certFile), stampOf(c.keyFile)}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.seen
	c.seen = now
	return before != now && before != [2]fileStamp{}
}

func (c *credentials) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading client certificate: %w", err)
	}
	return &pair, nil
}

// token reads the bearer token. No error contains any of it.
func (c *credentials) token() (string, error) {
	file, err := os.Open(c.tokenFile)
	if err != nil {
		return "", fmt.Errorf("reading bearer token: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(file, maxTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading bearer token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(text) > maxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s holds no bearer token in its only line", c.tokenFile)
	}
	return token, nil
}

func (c *credentials) check() error {
	var errs []error
	if c.certFile != "" {
		_, err := c.certificate(nil)
		errs = append(errs, err)
	}
	if c.tokenFile != "" {
		_, err := c.token()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
