package site

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// StartFulcio starts Fulcio with the CA key in a file, as production would log,
// and with the log's public key, so that it verifies SCTs as Mayfly does.
func (s *Site) StartFulcio(ctx context.Context, setup Setup) (*Server, error) {
	dir, err := s.newDir("fulcio")
	if err != nil {
		return nil, err
	}
	server := &Server{}
	if err := s.startFulcio(ctx, dir, setup, server); err != nil {
		server.Stop()
		return nil, err
	}
	return server, nil
}

func (s *Site) startFulcio(ctx context.Context, dir string, setup Setup, server *Server) error {
	logs := []string{"--ct-log-url", ""}
	if setup.Log != NoLog {
		at, err := s.remoteLog(ctx, setup, server)
		if err != nil {
			return err
		}
		logs = []string{"--ct-log-url", at.submit, "--ct-log-public-key-path", at.publicKey}
	}
	config := filepath.Join(dir, "config.json")
	text, err := json.Marshal(map[string]any{"OIDCIssuers": map[string]any{
		s.Provider.URL: map[string]any{"IssuerURL": s.Provider.URL, "ClientID": audience, "Type": "email"},
	}})
	if err != nil {
		return fmt.Errorf("encoding Fulcio's configuration: %w", err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return fmt.Errorf("writing Fulcio's configuration: %w", err)
	}
	var ports [3]string
	for i := range ports {
		address, err := s.freeAddress()
		if err != nil {
			return err
		}
		if _, ports[i], err = net.SplitHostPort(address); err != nil {
			return fmt.Errorf("reading an address: %w", err)
		}
	}
	server.REST, server.GRPC = "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	args := append([]string{
		"serve", "--log_type", "prod", "--config-path", config,
		"--host", "127.0.0.1", "--port", ports[0], "--grpc-host", "127.0.0.1", "--grpc-port", ports[1], "--metrics-port", ports[2],
		// Its default is one name for the whole machine, which any other Fulcio has taken.
		"--legacy-unix-domain-socket", "@mayfly-compare-" + ports[1],
		// The key is not encrypted, but the option must be there.
		"--ca", "fileca", "--fileca-cert", setup.CA.Chain, "--fileca-key", setup.CA.Key, "--fileca-key-passwd", "none",
	}, logs...)
	if setup.TLS {
		cert, key := s.Server()
		args = append(args, "--grpc-tls-certificate", cert, "--grpc-tls-key", key)
	}
	if server.Process, err = Start(dir, s.Fulcio, args...); err != nil {
		return err
	}
	return server.Await(ctx, func() error { return s.get(ctx, "http://"+server.REST+"/healthz") })
}
