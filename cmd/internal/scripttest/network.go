package scripttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func get(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if len(args) == 2 {
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		transport.TLSClientConfig.RootCAs.AddCert(certificate(ts, args[1]))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	ts.Check(err)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\n%s\n", resp.StatusCode, body)
}

// certificate reads a PEM file with one certificate.
func certificate(ts *testscript.TestScript, file string) *x509.Certificate {
	block, _ := pem.Decode([]byte(ts.ReadFile(file)))
	if block == nil {
		ts.Fatalf("%s is not PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	ts.Check(err)
	return cert
}

// awaitCertificate connects anew until the server presents the certificate: the
// service looks at its files when someone connects, at most once a second.
func awaitCertificate(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 2, 2)
	expected := certificate(ts, args[1])
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		presented, err := presentedBy(ctx, args[0])
		if err == nil && presented.Equal(expected) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("%s does not present %s: serial %v, error %v", args[0], args[1], presented.SerialNumber, err)
		}
	}
}

// presentedBy returns the server's certificate, and never nil.
func presentedBy(ctx context.Context, address string) (*x509.Certificate, error) {
	none := &x509.Certificate{}
	// What is presented is compared, byte for byte, by the caller.
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address) //nolint:gosec // see above
	if err != nil {
		return none, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	secured, ok := conn.(*tls.Conn)
	if !ok {
		return none, errors.New("not a TLS connection")
	}
	return secured.ConnectionState().PeerCertificates[0], nil
}

// beginRequest announces a body of which only a part follows, and waits for the
// answer "100 Continue", by which the request is known to be under way.
func beginRequest(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, args, 1, 1)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	ts.Check(conn.SetDeadline(time.Now().Add(bound)))
	_, err = fmt.Fprintf(conn, "POST /api/v2/signingCert HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n{", args[0])
	ts.Check(err)
	answer := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	_, err = io.ReadFull(conn, answer)
	ts.Check(err)
	if got := string(answer); got != "HTTP/1.1 100 Continue\r\n\r\n" {
		ts.Fatalf("answer %q, want 100 Continue", got)
	}
}
