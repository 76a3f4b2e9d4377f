package ctlog_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/internal/testca"
	"github.com/mayfly-ca/mayfly/ctlog/logtest"
)

// tlsCA issues certificates for the TLS of tests.
type tlsCA struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	next int64
}

func newTLSCA(t testing.TB) *tlsCA {
	t.Helper()
	c := &tlsCA{t: t, next: 1}
	c.cert, c.key = c.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "TLS CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(time.Hour),
	})
	return c
}

func (c *tlsCA) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(c.next), time.Now().Add(-time.Hour)
	c.next++
	parent, parentKey := c.cert, c.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert, key
}

func (c *tlsCA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// server is a certificate for a host, until a time.
func (c *tlsCA) server(until time.Time, host string) tls.Certificate {
	template := &x509.Certificate{NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	cert, key := c.issue(template)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// client writes a client certificate and its key, and returns its serial number.
func (c *tlsCA) client(certFile, keyFile string) string {
	c.t.Helper()
	cert, key := c.issue(&x509.Certificate{NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	write(c.t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	write(c.t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return cert.SerialNumber.String()
}

// write makes a file whose time of modification is never that of the one before.
func write(t testing.TB, name string, data []byte) {
	t.Helper()
	at := time.Now()
	if before, err := os.Stat(name); err == nil {
		at = before.ModTime().Add(time.Second)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

// serveTLS serves a log and notes what it saw of each request.
func serveTLS(t testing.TB, l *logtest.Log, config *tls.Config) (url string, seen func() []http.Request) {
	t.Helper()
	var mu sync.Mutex // guards requests
	var requests []http.Request
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests = append(requests, *r)
		mu.Unlock()
		l.ServeHTTP(w, r)
	}))
	s.TLS, s.EnableHTTP2 = config, true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, func() []http.Request {
		mu.Lock()
		defer mu.Unlock()
		return append([]http.Request(nil), requests...)
	}
}

func TestRemotePresentsTheClientCertificateOfTheMoment(t *testing.T) {
	l, s, authority := logtest.New(t, nil), testca.New(t).Precertificate(t), newTLSCA(t)
	url, seen := serveTLS(t, l, &tls.Config{
		Certificates: []tls.Certificate{authority.server(time.Now().Add(time.Hour), "127.0.0.1")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: authority.pool(),
	})
	certFile, keyFile := filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	c := ctlog.RemoteConfig{Name: "a", URL: url, PublicKey: l.PublicKey(), RootCAs: authority.pool()}
	without, err := ctlog.NewRemote(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := without.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("without a certificate: %v, want ErrUnavailable", err)
	}
	c.ClientCertFile, c.ClientKeyFile = certFile, keyFile
	r, err := ctlog.NewRemote(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.CloseIdleConnections)
	if err := r.CheckCredentials(); err == nil {
		t.Error("CheckCredentials finds nothing wrong with files that do not exist")
	}
	var want []string
	for range 3 {
		serial := authority.client(certFile, keyFile)
		if err := r.CheckCredentials(); err != nil {
			t.Errorf("CheckCredentials: %v", err)
		}
		for range 2 { // the second goes through the connection of the first
			want = append(want, serial)
			if _, err := r.Submit(t.Context(), s); err != nil {
				t.Fatalf("Submit: %v", err)
			}
		}
	}
	var got []string
	for _, q := range seen() {
		got = append(got, q.TLS.PeerCertificates[0].SerialNumber.String())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the log saw certificates %v, want %v", got, want)
	}
}

func TestRemoteSendsTheTokenOfTheMoment(t *testing.T) {
	l, s := logtest.New(t, nil), testca.New(t).Precertificate(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen", r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") != "Bearer good-2" {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		l.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "token")
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: server.URL, PublicKey: l.PublicKey(), TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token     string
		sct, fine bool
	}{
		{"good-1\n", false, true}, {"good-2\n", true, true}, {"", false, false}, {"good-2 x", false, false},
		{"good-2\ngood-3\n", false, false}, {strings.Repeat("x", 17<<10), false, false}, {"good-2", true, true},
	} {
		write(t, file, []byte(c.token))
		err := r.CheckCredentials()
		if (err == nil) != c.fine {
			t.Errorf("token %.20q: CheckCredentials: %v", c.token, err)
		}
		_, submitted := r.Submit(t.Context(), s)
		if (submitted == nil) != c.sct || submitted != nil && !errors.Is(submitted, ctlog.ErrUnavailable) {
			t.Errorf("token %.20q: Submit: %v, want an SCT: %v", c.token, submitted, c.sct)
		}
		if text := errors.Join(err, submitted); text != nil && strings.Contains(text.Error(), "good-") {
			t.Errorf("an error tells the token: %v", text)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) || r.CheckCredentials() == nil {
		t.Errorf("no file: %v, %v; want ErrUnavailable, and a problem", err, r.CheckCredentials())
	}
}

func TestRemoteTLSFaults(t *testing.T) {
	l, s, authority, other := logtest.New(t, nil), testca.New(t).Precertificate(t), newTLSCA(t), newTLSCA(t)
	hour := time.Now().Add(time.Hour)
	for name, config := range map[string]*tls.Config{
		"unknown authority": {Certificates: []tls.Certificate{other.server(hour, "127.0.0.1")}},
		"expired":           {Certificates: []tls.Certificate{authority.server(time.Now().Add(-time.Minute), "127.0.0.1")}},
		"another host":      {Certificates: []tls.Certificate{authority.server(hour, "log.example")}},
		"TLS 1.1":           {Certificates: []tls.Certificate{authority.server(hour, "127.0.0.1")}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
	} {
		url, seen := serveTLS(t, l, config)
		r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: url, PublicKey: l.PublicKey(), RootCAs: authority.pool()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) || len(seen()) != 0 {
			t.Errorf("%s: got %v and %d requests, want ErrUnavailable and none", name, err, len(seen()))
		}
	}
}

// A server that speaks HTTP/2 is spoken to in HTTP/1.1, so that one connection
// carries one submission; and one that ends an HTTP/2 connection unasked is no
// log.
func TestRemoteSpeaksHTTP1(t *testing.T) {
	l, s, authority := logtest.New(t, nil), testca.New(t).Precertificate(t), newTLSCA(t)
	url, seen := serveTLS(t, l, &tls.Config{Certificates: []tls.Certificate{authority.server(time.Now().Add(time.Hour), "127.0.0.1")}})
	r, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: url, PublicKey: l.PublicKey(), RootCAs: authority.pool()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.CloseIdleConnections)
	if _, err := r.Submit(t.Context(), s); err != nil || seen()[0].Proto != "HTTP/1.1" {
		t.Errorf("got %v by %s, want an SCT by HTTP/1.1", err, seen()[0].Proto)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			// SETTINGS, and GOAWAY with INTERNAL_ERROR (RFC 9113, Section 6.8).
			_, _ = c.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	goaway, err := ctlog.NewRemote(ctlog.RemoteConfig{Name: "a", URL: "http://" + ln.Addr().String(), PublicKey: l.PublicKey()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := goaway.Submit(t.Context(), s); !errors.Is(err, ctlog.ErrUnavailable) {
		t.Errorf("GOAWAY: %v, want ErrUnavailable", err)
	}
}
