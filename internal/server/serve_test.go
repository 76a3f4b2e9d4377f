package server

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

func TestOnePortServesEverything(t *testing.T) {
	s := start(t, options{})
	for http2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
		resp, err := s.client(t, http2).Get("https://" + s.address + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.Proto != want || resp.StatusCode != http.StatusOK || resp.TLS.Version < tls.VersionTLS12 {
			t.Errorf("health over HTTP/2 %v: got %s status %d, want %s and 200", http2, resp.Proto, resp.StatusCode, want)
		}
	}
	if _, err := fulciov2.NewCAClient(s.dial(t)).GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{}); err != nil {
		t.Errorf("gRPC on the same port: %v", err)
	}
	conn, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: s.roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1: got a connection, want none")
	}
}

func TestPlaintextServesEverything(t *testing.T) {
	s := start(t, options{listen: func(c *ListenConfig) { c.Plaintext, c.CertificateFile, c.KeyFile = true, "", "" }})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2c := &http.Transport{Protocols: protocols}
	defer h2c.CloseIdleConnections()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for want, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "HTTP/2.0": {Transport: h2c}} {
		resp, err := client.Get("http://" + s.address + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.Proto != want || resp.StatusCode != http.StatusOK {
			t.Errorf("health in plaintext: got %s status %d, want %s and 200", resp.Proto, resp.StatusCode, want)
		}
	}
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer alice")
	if _, err := fulciov2.NewCAClient(conn).CreateSigningCertificate(ctx, s.request(t)); err != nil {
		t.Errorf("gRPC in plaintext: %v", err)
	}
}

func TestServeRefusesUnclearListenConfig(t *testing.T) {
	s := start(t, options{})
	for name, cfg := range map[string]ListenConfig{
		"neither TLS nor plaintext": {},
		"certificate without key":   {CertificateFile: s.certFile},
		"both":                      {CertificateFile: s.certFile, KeyFile: s.keyFile, Plaintext: true},
		"plaintext and a key":       {KeyFile: s.keyFile, Plaintext: true},
		"no such file":              {CertificateFile: s.certFile + "x", KeyFile: s.keyFile},
		"key for a certificate":     {CertificateFile: s.keyFile, KeyFile: s.keyFile},
		"address in use":            {CertificateFile: s.certFile, KeyFile: s.keyFile, Address: s.address},
	} {
		if err := s.Serve(t.Context(), cfg); err == nil {
			t.Errorf("%s: Serve returned nil", name)
		}
	}
}

func TestServeThatRefusesClosesItsListener(t *testing.T) {
	s := start(t, options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), ListenConfig{Listener: ln}); err == nil {
		t.Fatal("Serve without TLS or plaintext returned nil")
	}
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the listener is still open")
	}
}

// served returns the name in the certificate that a new connection meets.
func (s *stack) served(t *testing.T) string {
	t.Helper()
	conn, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestTLSCertificateFollowsItsFiles(t *testing.T) {
	s := start(t, options{})
	dir := filepath.Dir(s.certFile)
	expect := func(what, want string) {
		t.Helper()
		if got := s.served(t); got != want {
			t.Errorf("%s: got certificate %q, want %q", what, got, want)
		}
	}
	expect("at the start", "first")
	writeTLS(t, dir, "second")
	expect("within the interval", "first")
	s.clock.advance(checkInterval)
	expect("after writing in place", "second")

	key, err := os.ReadFile(s.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	writeTLS(t, dir, "third")
	third, err := os.ReadFile(s.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.keyFile, key) // the new certificate with the old key
	for range 3 {
		s.clock.advance(checkInterval)
		expect("while the halves do not match", "second")
	}
	if got := strings.Count(s.log.String(), "not reloaded"); got != 1 {
		t.Errorf("lines about one bad pair: got %d, want 1", got)
	}
	writeFile(t, s.keyFile, third)
	s.clock.advance(checkInterval)
	expect("once they match", "third")
	if err := os.Remove(s.keyFile); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(checkInterval)
	expect("without a key file", "third")
}

// The kubelet writes a Secret into a new directory and renames a symbolic link;
// the files themselves never change.
func TestTLSCertificateFollowsSymlinkSwap(t *testing.T) {
	mount := t.TempDir()
	publish := func(name string) {
		t.Helper()
		version := filepath.Join(mount, "..v-"+name)
		if err := os.Mkdir(version, 0o700); err != nil {
			t.Fatal(err)
		}
		writeTLS(t, version, name)
		link := filepath.Join(mount, "..data_tmp")
		if err := os.Symlink(filepath.Base(version), link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("old")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, options{listen: func(c *ListenConfig) {
		c.CertificateFile, c.KeyFile = filepath.Join(mount, "tls.crt"), filepath.Join(mount, "tls.key")
	}})
	if got := s.served(t); got != "old" {
		t.Fatalf("at the start: got certificate %q, want old", got)
	}
	publish("new")
	s.clock.advance(checkInterval)
	if got := s.served(t); got != "new" {
		t.Errorf("after the swap: got certificate %q, want new", got)
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	s := start(t, options{})
	type result struct {
		code int
		err  error
	}
	rest, rpc := make(chan result, 1), make(chan result, 1)
	body := s.body(t)
	client, conn, request := s.client(t, false), s.dial(t), s.request(t)
	go func() {
		req, err := http.NewRequest(http.MethodPost, "https://"+s.address+"/api/v2/signingCert", strings.NewReader(body))
		if err != nil {
			rest <- result{err: err}
			return
		}
		req.Header.Set("Authorization", "Bearer hold")
		resp, err := client.Do(req)
		if err != nil {
			rest <- result{err: err}
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		rest <- result{resp.StatusCode, err}
	}()
	go func() {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer hold")
		_, err := fulciov2.NewCAClient(conn).CreateSigningCertificate(ctx, request)
		rpc <- result{err: err}
	}()
	<-s.entered
	<-s.entered
	s.stop()
	// No new connection is taken once the shutdown has begun.
	for {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(s.release)
	if r := <-rest; r.err != nil || r.code != http.StatusOK {
		t.Errorf("request under way at shutdown: got status %d and error %v, want 200", r.code, r.err)
	}
	if r := <-rpc; r.err != nil {
		t.Errorf("call under way at shutdown: got %v, want a certificate", r.err)
	}
	if err := s.wait(); err != nil {
		t.Errorf("Serve: got %v, want nil after an orderly end", err)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	s := start(t, options{
		config: func(c *Config) { c.Deadline = time.Minute },
		listen: func(c *ListenConfig) { c.Drain = 50 * time.Millisecond },
	})
	client, conn, request, body := s.client(t, false), s.dial(t), s.request(t), s.body(t)
	finished := make(chan struct{}, 2)
	go func() {
		defer func() { finished <- struct{}{} }()
		req, err := http.NewRequest(http.MethodPost, "https://"+s.address+"/api/v2/signingCert", strings.NewReader(body))
		if err != nil {
			return
		}
		req.Header.Set("Authorization", "Bearer linger")
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	go func() {
		defer func() { finished <- struct{}{} }()
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer linger")
		_, _ = fulciov2.NewCAClient(conn).CreateSigningCertificate(ctx, request)
	}()
	<-s.entered
	<-s.entered
	begun := time.Now()
	s.stop()
	<-s.left // both contexts have ended, and both handlers go on
	<-s.left
	time.AfterFunc(100*time.Millisecond, func() { close(s.release) })
	err := s.wait()
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("shutdown: took %s, want about the drain's bound", took)
	}
	if err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Serve: got %v, want an error that says requests were cut off", err)
	}
	// What the handlers use is closed next, so Serve has to outlast them.
	select {
	case <-s.release:
	default:
		t.Error("Serve returned while handlers were running")
	}
	<-finished
	<-finished
}

func TestHealthWatchEndsAtDrain(t *testing.T) {
	s := start(t, options{})
	watch := func(service string, want healthpb.HealthCheckResponse_ServingStatus) healthpb.Health_WatchClient {
		t.Helper()
		w, err := healthpb.NewHealthClient(s.dial(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := w.Recv(); err != nil || got.Status != want {
			t.Fatalf("watch of %q: got %v and error %v, want %s", service, got, err, want)
		}
		return w
	}
	whole := watch("", healthpb.HealthCheckResponse_SERVING)
	ca := watch("dev.sigstore.fulcio.v2.CA", healthpb.HealthCheckResponse_SERVING)
	unknown := watch("nobody", healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	if err := s.wait(); err != nil {
		t.Errorf("Serve with open watches: got %v, want nil", err)
	}
	for name, w := range map[string]healthpb.Health_WatchClient{"": whole, "ca": ca} {
		if got, err := w.Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("watch of %q at drain: got %v and error %v, want NOT_SERVING", name, got, err)
		}
	}
	for name, w := range map[string]healthpb.Health_WatchClient{"": whole, "ca": ca, "nobody": unknown} {
		if got, err := w.Recv(); err == nil {
			t.Errorf("watch of %q after drain: got %v, want its end", name, got)
		}
	}
}

// nullStream takes every message.
type nullStream struct{ grpc.ServerStream }

func (nullStream) SendMsg(any) error { return nil }

// Whether the drain is noticed before or after NOT_SERVING is sent, the client
// gets that word and the watch ends.
func TestWatchEndsAfterItsLastWord(t *testing.T) {
	reply := func(s healthpb.HealthCheckResponse_ServingStatus) *healthpb.HealthCheckResponse {
		return &healthpb.HealthCheckResponse{Status: s}
	}
	for _, drainFirst := range []bool{true, false} {
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		w := &watchStream{ServerStream: nullStream{}, ctx: ctx, cancel: cancel, ended: ended}
		steps := []func(){func() { close(ended); w.end() }, func() { _ = w.SendMsg(reply(healthpb.HealthCheckResponse_NOT_SERVING)) }}
		if !drainFirst {
			steps[0], steps[1] = steps[1], steps[0]
		}
		_ = w.SendMsg(reply(healthpb.HealthCheckResponse_SERVING))
		steps[0]()
		if w.Context().Err() != nil {
			t.Errorf("drain first %v: the watch ended half-way, want its last word and its end", drainFirst)
		}
		steps[1]()
		if w.Context().Err() == nil {
			t.Errorf("drain first %v: the watch goes on, want its end", drainFirst)
		}
		cancel()
	}
}

func TestHealthWatchesAreBounded(t *testing.T) {
	s := start(t, options{})
	for range maxWatches / 4 { // the share of one address
		if _, ok := s.watches.take(netip.MustParseAddr("127.0.0.1")); !ok {
			t.Fatal("no watch left for a balancer")
		}
	}
	if _, ok := s.watches.take(netip.MustParseAddr("192.0.2.1")); !ok {
		t.Error("one address leaves no watch to others")
	}
	w, err := healthpb.NewHealthClient(s.dial(t)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("one watch too many: got %v, want Unavailable", err)
	}
}

func TestSetServingShowsInHealth(t *testing.T) {
	s := start(t, options{})
	for _, tc := range []struct {
		serving bool
		code    int
		body    string
	}{{false, 503, `{"status":"NOT_SERVING"}`}, {true, 200, `{"status":"SERVING"}`}} {
		s.SetServing(tc.serving)
		if resp, body := s.get(t, "/healthz"); resp.StatusCode != tc.code || string(body) != tc.body {
			t.Errorf("/healthz when serving is %v: got %d %s, want %d %s", tc.serving, resp.StatusCode, body, tc.code, tc.body)
		}
		if resp, _ := s.get(t, "/readyz"); resp.StatusCode != tc.code {
			t.Errorf("/readyz when serving is %v: got %d, want %d", tc.serving, resp.StatusCode, tc.code)
		}
		got, err := healthpb.NewHealthClient(s.dial(t)).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || (got.Status == healthpb.HealthCheckResponse_SERVING) != tc.serving {
			t.Errorf("gRPC health when serving is %v: got %v and error %v", tc.serving, got, err)
		}
	}
}

// A client that sends its header or its body a byte at a time is cut off when
// the whole request's time is up.
func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: func(c *Config) { c.Deadline = time.Second }})
	for name, sent := range map[string]string{
		"header": "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nX-",
		"body":   "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"unread": "POST /api/v2/trustBundle HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: s.roots, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn) // until the server closes
		if err != nil {
			t.Errorf("slow %s: got %q and error %v, want the end of the connection", name, got, err)
		}
		if name == "body" && !strings.Contains(string(got), "deadline_exceeded") {
			t.Errorf("slow body: got %q, want the reason deadline_exceeded", got)
		}
		_ = conn.Close()
	}
}

func TestSlowGRPCMessageIsCutOff(t *testing.T) {
	t.Parallel()
	s := start(t, options{config: func(c *Config) { c.Deadline = time.Second }})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := s.dial(t).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, fulciov2.CA_CreateSigningCertificate_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	// No message is ever sent.
	err = stream.RecvMsg(new(fulciov2.SigningCertificate))
	if err == nil || ctx.Err() != nil {
		t.Errorf("call without a message: got %v (%v), want an error from the server", err, ctx.Err())
	}
}
