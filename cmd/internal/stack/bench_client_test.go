package stack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// clientVariable makes a process of this test program a client of BenchmarkServer:
// in a process of its own, its CPU time is not taken for the server's.
const clientVariable = "MAYFLY_STACK_BENCH_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(clientVariable) == "" {
		m.Run()
		return
	}
	if err := beClient(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// The ways to the server. All are with TLS.
const (
	overHTTP1 = "http1"     // a connection for each client
	overHTTP2 = "http2"     // the same, with HTTP/2
	overGRPC  = "grpc"      // the same
	overNew   = "http1-new" // a connection for each request, as the jobs of a pipeline make them
)

// clientOrder is what a client process is told first.
type clientOrder struct {
	URL, Over string
	Root      []byte // DER
	Clients   int
	Calls     []clientCall
}

type clientCall struct {
	Path   string
	Header http.Header
	Body   []byte
}

// clientRequests asks for so many requests now; the answer tells how long each
// took, or what was wrong.
type (
	clientRequests struct{ N int }
	clientAnswer   struct {
		Took  []time.Duration
		Error string
	}
)

// beClient does what it is told on in, until that ends.
func beClient(in io.Reader, out io.Writer) error {
	d, e := json.NewDecoder(in), json.NewEncoder(out)
	var o clientOrder
	if err := d.Decode(&o); err != nil {
		return err
	}
	doors := make(chan func(clientCall) error, o.Clients)
	for range o.Clients {
		door, err := o.open()
		if err != nil {
			return err
		}
		doors <- door
	}
	for {
		var r clientRequests
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a clientAnswer
		failed := make(chan error, 1)
		a.Took = spread(r.N, o.Clients, func(i int) time.Duration {
			door := <-doors
			defer func() { doors <- door }()
			start := time.Now()
			if err := door(o.Calls[i%len(o.Calls)]); err != nil {
				select {
				case failed <- err:
				default: // the first one is enough
				}
			}
			return time.Since(start)
		})
		select {
		case err := <-failed:
			a.Error = err.Error()
		default:
		}
		if err := e.Encode(a); err != nil {
			return err
		}
	}
}

// open makes one client with connections of its own.
func (o clientOrder) open() (func(clientCall) error, error) {
	root, err := x509.ParseCertificate(o.Root)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	trust := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if o.Over == overGRPC {
		conn, err := grpc.NewClient(strings.TrimPrefix(o.URL, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(trust)))
		if err != nil {
			return nil, err
		}
		return func(c clientCall) error { return askGRPC(fulciov2.NewCAClient(conn), c) }, nil
	}
	t := &http.Transport{TLSClientConfig: trust, DisableKeepAlives: o.Over == overNew, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(o.Over != overHTTP2)
	t.Protocols.SetHTTP2(o.Over == overHTTP2)
	client := &http.Client{Transport: t, Timeout: 10 * time.Second}
	return func(c clientCall) error { return askREST(client, o.URL, c) }, nil
}

func askREST(client *http.Client, url string, c clientCall) (err error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+c.Path, bytes.NewReader(c.Body))
	if err != nil {
		return err
	}
	req.Header = c.Header.Clone()
	req.Header.Del("Accept-Encoding") // the transport's own
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("BEGIN CERTIFICATE"))) {
		err = statusError{resp.StatusCode, string(body)}
	}
	return err
}

// statusError is an answer without a certificate.
type statusError struct {
	status int
	body   string
}

func (e statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

func askGRPC(client fulciov2.CAClient, c clientCall) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.Header.Get("Authorization"))
	var req fulciov2.CreateSigningCertificateRequest
	if err := proto.Unmarshal(c.Body[5:], &req); err != nil {
		return err
	}
	answer, err := client.CreateSigningCertificate(ctx, &req)
	if err == nil && len(answer.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates()) == 0 {
		err = fmt.Errorf("no certificate: %v", answer)
	}
	return err
}

// client starts a client process, which ends with the benchmark, and returns what
// has it make requests.
func (o clientOrder) client(b *testing.B) func(n int) []time.Duration {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), program)
	cmd.Env, cmd.Stderr = append(os.Environ(), clientVariable+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // it has said on standard error what was wrong
	})
	d, e := json.NewDecoder(out), json.NewEncoder(in)
	if err := e.Encode(o); err != nil {
		b.Fatal(err)
	}
	return func(n int) []time.Duration {
		var a clientAnswer
		if err := errors.Join(e.Encode(clientRequests{n}), d.Decode(&a)); err != nil || a.Error != "" {
			b.Fatalf("client: %v, %s", err, a.Error)
		}
		return a.Took
	}
}
