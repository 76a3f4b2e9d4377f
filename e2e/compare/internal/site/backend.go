package site

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

// BackendConfig is what the backend's process is told, in a file.
type BackendConfig struct {
	// Address that it listens on, and the issuer's URL, which leads there.
	Address, Issuer string
	Keys            json.RawMessage
	// LogKey is the file with the stub log's key.
	LogKey string
	// Target is a log that wants client certificates, for which Fulcio has no
	// option: what comes to /real/ is passed on with one. Empty for none.
	Target, Certificate, Key, Roots string
}

// Paths of the backend's logs.
const (
	stubPath = "/stub"
	realPath = "/real"
)

// Backend serves the provider and the log until the context ends.
func Backend(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the backend's configuration: %w", err)
	}
	var config BackendConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	mux := http.NewServeMux()
	if err := config.provide(mux); err != nil {
		return err
	}
	log, err := loadStubLog(config.LogKey)
	if err != nil {
		return err
	}
	mux.HandleFunc("POST "+stubPath+"/ct/v1/add-pre-chain", log.add)
	if config.Target != "" {
		forward, err := config.forwarder()
		if err != nil {
			return err
		}
		mux.Handle(realPath+"/", http.StripPrefix(realPath, forward))
	}
	server := &http.Server{Addr: config.Address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the backend: %w", err)
	}
	return nil
}

func (c BackendConfig) provide(mux *http.ServeMux) error {
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return fmt.Errorf("reading the issuer's URL: %w", err)
	}
	discovery, err := json.Marshal(map[string]any{
		"issuer": c.Issuer, "jwks_uri": c.Issuer + "/certs",
		"authorization_endpoint": c.Issuer + "/auth", "token_endpoint": c.Issuer + "/token",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{RS256, ES256},
	})
	if err != nil {
		return fmt.Errorf("encoding the discovery document: %w", err)
	}
	for path, document := range map[string][]byte{"/.well-known/openid-configuration": discovery, "/certs": c.Keys} {
		mux.HandleFunc("GET "+issuer.Path+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(document)
		})
	}
	return nil
}

// forwarder passes requests on with the client certificate.
func (c BackendConfig) forwarder() (http.Handler, error) {
	target, err := url.Parse(c.Target)
	if err != nil {
		return nil, fmt.Errorf("reading the log's URL: %w", err)
	}
	certificate, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the submitter's certificate: %w", err)
	}
	text, err := os.ReadFile(c.Roots)
	if err != nil {
		return nil, fmt.Errorf("reading the log's roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", c.Roots)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: 256,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, err.Error())
		},
	}, nil
}
