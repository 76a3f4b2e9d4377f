package rfc6962_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded/rfc6962"
)

// extra adds extensions in the order given.
func extra(extensions ...pkix.Extension) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, extensions...) }
}

// What is no proper entry is refused, with a text that says why, and nothing of it
// gets into the log.
func TestHostileChainsAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	other := newRoot(t, "other root", elliptic.P256())
	foreign := other.below(t, "foreign", newKey(t, elliptic.P256()), nil)
	// One that says it is the listed issuing certificate, with another key.
	impostor := other.below(t, "issuing", newKey(t, elliptic.P256()), nil)
	sister := w.root.below(t, "sister", newKey(t, elliptic.P256()), nil)
	child := w.issuing.below(t, "child", newKey(t, elliptic.P256()), nil)
	good := w.issuing.precertificate(t, nil)
	const pre, final = "add-pre-chain", "add-chain"
	for _, c := range []struct {
		name, route string
		chain       [][]byte
		want        string
	}{
		{"no poison", pre, w.issuing.chain(w.issuing.leaf(t, nil)), "without CT poison"},
		{"poison in a final certificate", final, w.issuing.chain(good), "pre-certificate submitted to add-chain"},
		{"poison that is not critical", pre, w.issuing.chain(w.issuing.leaf(t, extra(pkix.Extension{Id: oidPoison, Value: []byte{5, 0}}))), "malformed poison"},
		{"poison with content", pre, w.issuing.chain(w.issuing.leaf(t, extra(pkix.Extension{Id: oidPoison, Critical: true, Value: []byte{5, 1, 0}}))), "malformed poison"},
		{"poison that is not critical, final", final, w.issuing.chain(w.issuing.leaf(t, extra(pkix.Extension{Id: oidPoison, Value: []byte{5, 0}}))), "pre-certificate submitted to add-chain"},
		{"an SCT list beside poison", pre, w.issuing.chain(w.issuing.precertificate(t, extra(pkix.Extension{Id: oidSCTList, Value: []byte{4, 0}}))), "an SCT list in a precertificate"},
		{"a foreign issuer", pre, foreign.chain(foreign.precertificate(t, nil)), "none of the issuing certificates"},
		{"a foreign issuer, alone", pre, [][]byte{foreign.precertificate(t, nil)}, "none of the issuing certificates"},
		{"an issuer of the same root", pre, sister.chain(sister.precertificate(t, nil)), "none of the issuing certificates"},
		{"an issuer below the listed one", pre, child.chain(child.precertificate(t, nil)), "none of the issuing certificates"},
		{"the root itself as issuer", pre, w.root.chain(w.root.precertificate(t, nil)), "none of the issuing certificates"},
		{"an issuer of the same name", pre, impostor.chain(impostor.precertificate(t, nil)), "none of the issuing certificates"},
		{"an issuer of the same name, alone", pre, [][]byte{impostor.precertificate(t, nil)}, "signature"},
		{"its certificate under the listed chain", pre, w.issuing.chain(impostor.precertificate(t, nil)), "signature"},
		{"a broken signature", pre, w.issuing.chain(broken(good)), "signature"},
		{"SHA-1", pre, w.issuing.chain(w.issuing.precertificate(t, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })), "SHA1"},
		{"a foreign root on top", pre, append(w.issuing.chain(good)[:2], other.cert.Raw), "the next certificate is that of"},
		{"a gap", pre, [][]byte{good, w.root.cert.Raw}, "none of the issuing certificates"},
		{"upside down", pre, [][]byte{w.root.cert.Raw, w.issuing.cert.Raw, good}, "without CT poison"},
		{"expired", pre, w.issuing.chain(w.issuing.precertificate(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })), "expired"},
		{"of next week", pre, w.issuing.chain(w.issuing.precertificate(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(100*time.Hour), time.Now().Add(200*time.Hour)
		})), "not valid yet"},
		{"for TLS servers", pre, w.issuing.chain(w.issuing.precertificate(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), "codeSigning"},
		{"for nothing", pre, w.issuing.chain(w.issuing.precertificate(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil })), "codeSigning"},
		{"a certificate authority", final, w.root.chain(w.issuing.cert.Raw), "certificate authority"},
		{"garbage", pre, w.issuing.chain([]byte{0x30, 0x03, 1, 1, 1}), "certificate 0 of the chain"},
		{"garbage above", pre, [][]byte{good, {0x30, 0}}, "certificate 1 of the chain"},
		{"nothing behind it", pre, w.issuing.chain(append(bytes.Clone(good), 0)), "certificate 0 of the chain"},
		{"no chain", pre, [][]byte{}, "cert chain was empty"},
		{"an empty certificate", pre, [][]byte{{}}, "certificate 0 of the chain"},
		{"a long chain", pre, append(w.issuing.chain(good), make([][]byte, 8)...), "is not a string"}, // null
	} {
		got := w.add(t, c.route, c.chain)
		if got.status != http.StatusBadRequest || !strings.HasPrefix(got.body, "Bad Request\n") || !strings.Contains(got.body, c.want) {
			t.Errorf("%s: got %d %q, want 400 with %q", c.name, got.status, got.body, c.want)
		}
	}
	// What was refused has left no trace: the good one is the first entry.
	if got, want := w.add(t, pre, w.issuing.chain(good)).index(t), base64.StdEncoding.EncodeToString([]byte{0, 0, 5, 0, 0, 0, 0, 0}); got != want {
		t.Errorf("the first good entry has extensions %s, want %s", got, want)
	}
}

// broken changes the last byte of a signature.
func broken(der []byte) []byte {
	der = bytes.Clone(der)
	der[len(der)-1] ^= 1
	return der
}

func TestHostileBodiesAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	chain := base64.StdEncoding.EncodeToString(w.issuing.precertificate(t, nil))
	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"empty", "", 400, "failed to parse add-chain body"},
		{"not JSON", "chain=", 400, "failed to parse add-chain body"},
		{"an array", `["` + chain + `"]`, 400, "failed to parse add-chain body"},
		{"null", "null", 400, "failed to parse add-chain body"},
		{"another member", `{"chain":["` + chain + `"],"extra":1}`, 400, "unknown member"},
		{"another case", `{"Chain":["` + chain + `"]}`, 400, "unknown member"},
		{"twice", `{"chain":["` + chain + `"],"chain":["` + chain + `"]}`, 400, "given twice"},
		{"a second object", `{"chain":["` + chain + `"]}{}`, 400, "data after the object"},
		{"cut off", `{"chain":["` + chain + `"]`, 400, "failed to parse add-chain body"},
		{"a number", `{"chain":[1]}`, 400, "is not a string"},
		{"nested", `{"chain":[["` + chain + `"]]}`, 400, "is not a string"},
		{"a string", `{"chain":"` + chain + `"}`, 400, "failed to parse add-chain body"},
		{"not base64", `{"chain":["!"]}`, 400, "is not base64"},
		{"base64 with a line break", `{"chain":["` + chain[:8] + `\n` + chain[8:] + `"]}`, 400, "is not base64"},
		{"eleven", `{"chain":["` + strings.Repeat(chain[:4]+`","`, 10) + chain + `"]}`, 400, "more than 10 certificates"},
		{"deep", strings.Repeat("[", 100000), 400, "failed to parse add-chain body"},
		{"huge", `{"chain":["` + strings.Repeat("A", rfc6962.MaxBody) + `"]}`, 413, "524288-byte limit"},
	} {
		got := w.do(t, w.client, http.MethodPost, "/ct/v1/add-pre-chain", strings.NewReader(c.body))
		if got.status != c.status || !strings.Contains(got.body, c.want) {
			t.Errorf("%s: got %d %q, want %d with %q", c.name, got.status, got.body, c.status, c.want)
		}
	}
	// The same without saying beforehand how long it is.
	huge := struct{ *strings.Reader }{strings.NewReader(`{"chain":["` + strings.Repeat("A", 2*rfc6962.MaxBody))}
	if got := w.do(t, w.client, http.MethodPost, "/ct/v1/add-chain", huge); got.status != 413 {
		t.Errorf("huge, chunked: got %d %q, want 413", got.status, got.body)
	}
}

func TestOtherRequestsAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/ct/v1/add-chain", 405}, {"PUT", "/ct/v1/add-pre-chain", 405}, {"POST", "/ct/v1/get-roots", 405},
		{"GET", "/ct/v1/get-sth", 404}, {"GET", "/", 404}, {"POST", "/ct/v1/add-chain/", 404},
	} {
		got := w.do(t, w.client, c.method, c.path, nil)
		if got.status != c.status {
			t.Errorf("%s %s: got %d %q, want %d", c.method, c.path, got.status, got.body, c.status)
		}
		if (got.header.Get("Allow") != "") != (c.status == 405) {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, got.header.Get("Allow"))
		}
	}
}

// No submitter without a certificate under the roots for clients, whatever it is
// for and however it is sent.
func TestClientsNeedACertificate(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(_ *world, c *rfc6962.Config) { c.Clock = func() time.Time { return now } })
	expired := now.Add(time.Minute)
	for _, c := range []struct {
		name  string
		certs []tls.Certificate
	}{
		{"none", nil},
		{"of another authority", []tls.Certificate{newRoot(t, "clients", elliptic.P256()).tlsCertificate(t, "replica", x509.ExtKeyUsageClientAuth, now.Add(time.Hour))}},
		{"of a server", []tls.Certificate{w.clients.tlsCertificate(t, "replica", x509.ExtKeyUsageServerAuth, now.Add(time.Hour))}},
		{"expired", []tls.Certificate{w.clients.tlsCertificate(t, "replica", x509.ExtKeyUsageClientAuth, now.Add(-time.Minute))}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL+"/ct/v1/get-roots", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.clientWith(t, c.certs...).Do(req)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: got %d, want no connection", c.name, resp.StatusCode)
		}
	}
	// A connection may outlive the certificate that it was made with.
	client := w.clientWith(t, w.clients.tlsCertificate(t, "replica", x509.ExtKeyUsageClientAuth, expired))
	if got := w.do(t, client, http.MethodGet, "/ct/v1/get-roots", nil); got.status != 200 {
		t.Fatalf("before it expires: got %d %q, want 200", got.status, got.body)
	}
	now = expired.Add(time.Second)
	if got := w.do(t, client, http.MethodGet, "/ct/v1/get-roots", nil); got.status != 403 {
		t.Errorf("after it has expired: got %d %q, want 403", got.status, got.body)
	}
}

// Each key has a quota of its own, which a renewed certificate does not renew.
func TestQuotaIsPerClientKey(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(_ *world, c *rfc6962.Config) {
		c.PerClient, c.Clock = rfc6962.Rate{Count: 3, Per: time.Minute}, func() time.Time { return now }
	})
	chain := w.issuing.chain(w.issuing.precertificate(t, nil))
	for i := range 3 {
		if got := w.add(t, "add-pre-chain", chain); got.status != 200 {
			t.Fatalf("request %d: got %d %q, want 200", i, got.status, got.body)
		}
	}
	got := w.add(t, "add-pre-chain", chain)
	if got.status != 429 || got.header.Get("Retry-After") != "20" || !strings.Contains(got.body, "rate-limited") {
		t.Errorf("over the quota: got %d %q, Retry-After %q, want 429 with 20", got.status, got.body, got.header.Get("Retry-After"))
	}
	if got := w.do(t, w.newClient(t, "another"), http.MethodGet, "/ct/v1/get-roots", nil); got.status != 200 {
		t.Errorf("another client: got %d %q, want 200", got.status, got.body)
	}
	now = now.Add(20 * time.Second)
	if got := w.add(t, "add-pre-chain", chain); got.status != 200 {
		t.Errorf("after the wait: got %d %q, want 200", got.status, got.body)
	}
}

// A body that does not come holds its connection no longer than the listener lets
// it, and a client cannot take all the places.
func TestSlowBodiesAreCutOff(t *testing.T) {
	w := newWorld(t, func(w *world, c *rfc6962.Config) {
		w.readTimeout, c.InFlight, c.PerClient.Count = 500*time.Millisecond, 2, 1<<30
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	status := make(chan string, 1)
	body := &slowBody{started: make(chan struct{}), ctx: ctx}
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.URL+"/ct/v1/add-pre-chain", body)
		if err != nil {
			status <- err.Error()
			return
		}
		resp, err := w.client.Do(req)
		if err != nil {
			status <- err.Error()
			return
		}
		resp.Body.Close()
		status <- fmt.Sprint(resp.StatusCode)
	}()
	<-body.started
	// Of two places one client has one.
	for busy := true; busy; {
		got := w.do(t, w.client, http.MethodGet, "/ct/v1/get-roots", nil)
		busy = got.status != 429
		if got.status != 429 && got.status != 200 {
			t.Fatalf("beside a slow body: got %d %q, want 429", got.status, got.body)
		}
		if got.status == 429 && got.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q, want 1", got.header.Get("Retry-After"))
		}
		select {
		case s := <-status:
			t.Fatalf("the slow body ended with %s before it was noticed", s)
		default:
		}
	}
	if got := w.do(t, w.newClient(t, "another"), http.MethodGet, "/ct/v1/get-roots", nil); got.status != 200 {
		t.Errorf("another client beside a slow body: got %d %q, want 200", got.status, got.body)
	}
	if got := <-status; got != "408" && !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") && !strings.Contains(got, "broken pipe") {
		t.Errorf("a slow body got %s, want 408", got)
	}
}

// slowBody begins and never ends.
type slowBody struct {
	started chan struct{}
	begun   bool
	ctx     context.Context //nolint:containedctx // ends the body with the test
}

func (b *slowBody) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		close(b.started)
		return copy(p, `{"chain":[`), nil
	}
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}
