package site

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// remote is where a log is.
type remote struct{ submit, read, publicKey string }

// remoteLog is the stub log, or a real one that is started for this server
// alone: what another authority logs would be an alarm to Mayfly's auditor.
func (s *Site) remoteLog(ctx context.Context, setup Setup, server *Server) (remote, error) {
	if setup.Log == StubLog {
		return remote{submit: "http://" + s.address + stubPath, publicKey: s.logPub}, nil
	}
	dir, err := s.newDir("log")
	if err != nil {
		return remote{}, err
	}
	var addresses [3]string
	for i := range addresses {
		if addresses[i], err = s.freeAddress(); err != nil {
			return remote{}, err
		}
	}
	read, submit, forward := addresses[0], addresses[1], addresses[2]
	config := filepath.Join(dir, "log.yaml")
	cert, key := s.Server()
	if err := os.WriteFile(config, fmt.Appendf(nil, `listen: {address: %q, plaintext: true}
public_url: http://%s
state: state
logging: {level: warn}
logs:
  - name: shared
    embedded:
      submission:
        address: %q
        tls: {certificate: %s, key: %s}
        client_ca: %s
        issuers: [%s]
        per_client: 1000000/s
`, read, read, submit, cert, key, s.Root(), setup.CA.Chain), 0o600); err != nil {
		return remote{}, fmt.Errorf("writing the log's configuration: %w", err)
	}
	public, err := s.initLog(ctx, dir, config)
	if err != nil {
		return remote{}, err
	}
	log, err := Start(dir, s.Mayfly, "log", "serve", "--config", config)
	if err != nil {
		return remote{}, err
	}
	server.behind = append(server.behind, log)
	if err := s.awaitReady(ctx, log, read, false); err != nil {
		return remote{}, err
	}
	// Fulcio cannot show a certificate to a log, so both go through a forwarder that
	// does.
	forwarder, err := s.startBackend(ctx, forward, "https://"+submit)
	if err != nil {
		return remote{}, err
	}
	server.behind = append(server.behind, forwarder)
	return remote{
		submit: "http://" + forward + realPath + "/log/shared", read: "http://" + read + "/log/shared", publicKey: public,
	}, nil
}
