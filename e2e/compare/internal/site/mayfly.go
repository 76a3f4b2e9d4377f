package site

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// noLimit is a rate that nobody reaches.
const noLimit = "1000000/s"

// StartMayfly starts Mayfly. The limits per identity and address are out of the
// way, unless the setup says otherwise: 64 people at one address ask for more
// than they allow, and Fulcio has none. Everything else is as it comes.
func (s *Site) StartMayfly(ctx context.Context, setup Setup) (*Server, error) {
	dir, err := s.newDir("mayfly")
	if err != nil {
		return nil, err
	}
	server := &Server{}
	if err := s.startMayfly(ctx, dir, setup, server); err != nil {
		server.Stop()
		return nil, err
	}
	return server, nil
}

func (s *Site) startMayfly(ctx context.Context, dir string, setup Setup, server *Server) error {
	logs, err := s.logOf(ctx, setup, server)
	if err != nil {
		return err
	}
	listen, metrics, err := s.listen(server, setup.TLS)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "mayfly.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `%smetrics: %q
state: state
logging: {level: warn}
limits: {per_identity: %s, per_address: %s}
issuers:
  - name: keycloak
    url: %s
    insecure_http: true
    audiences: [%s]
    algorithms: [%s, %s]
    allow: all
    san: email
    may_issue: {email_domains: [corp.example]}
chains:
  - name: corp
    certificates: %s
    key: {file: %s}
%s`, listen, metrics, noLimit, cmp.Or(setup.PerAddress, noLimit), s.Provider.URL, audience, RS256, ES256, setup.CA.Chain, setup.CA.Key, logs), 0o600); err != nil {
		return fmt.Errorf("writing Mayfly's configuration: %w", err)
	}
	if setup.Log == EmbeddedLog {
		if _, err := s.initLog(ctx, dir, config); err != nil {
			return err
		}
	}
	if server.Process, err = Start(dir, s.Mayfly, "serve", "--config", config); err != nil {
		return err
	}
	return s.awaitReady(ctx, server.Process, server.REST, setup.TLS)
}

// listen chooses addresses, and writes the sections of the configuration.
func (s *Site) listen(server *Server, secure bool) (section, metrics string, err error) {
	if server.REST, err = s.freeAddress(); err != nil {
		return "", "", err
	}
	server.GRPC = server.REST
	if metrics, err = s.freeAddress(); err != nil {
		return "", "", err
	}
	if secure {
		cert, key := s.Server()
		return fmt.Sprintf("listen: {address: %q, tls: {certificate: %s, key: %s}}\npublic_url: https://%s\n", server.REST, cert, key, server.REST), metrics, nil
	}
	return fmt.Sprintf("listen: {address: %q, plaintext: true}\npublic_url: http://%s\n", server.REST, server.REST), metrics, nil
}

// awaitReady waits until a Mayfly could issue, or its log could take entries.
func (s *Site) awaitReady(ctx context.Context, p *Process, address string, secure bool) error {
	client, url := &http.Client{Timeout: 5 * time.Second}, "http://"+address+"/readyz"
	if secure {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Roots(), MinVersion: tls.VersionTLS12}}
		defer transport.CloseIdleConnections()
		client.Transport, url = transport, strings.Replace(url, "http:", "https:", 1)
	}
	return p.Await(ctx, func() error {
		_, err := fetch(ctx, client, url)
		return err
	})
}

// logOf writes the section of the configuration, and starts the server's real
// log if there is to be one.
func (s *Site) logOf(ctx context.Context, setup Setup, server *Server) (string, error) {
	switch setup.Log {
	case NoLog:
		return "logs: disabled\n", nil
	case EmbeddedLog:
		return "logs:\n  - {name: local, embedded: {}}\n", nil
	}
	at, err := s.remoteLog(ctx, setup, server)
	if err != nil {
		return "", err
	}
	section := fmt.Sprintf("logs:\n  - name: remote\n    remote: {url: %q, public_key: %s", at.submit, at.publicKey)
	if at.read != "" {
		section += fmt.Sprintf(", monitoring_url: %q", at.read)
	}
	return section + "}\n", nil
}
