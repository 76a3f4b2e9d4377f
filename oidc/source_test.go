package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

func TestStaticKeysNeedNoProvider(t *testing.T) {
	m := &memory{}
	is := memoryIssuer()
	is.StaticJWKS = standardKeys()
	inBubble(t, m, Config{Issuers: []Issuer{is}}, func(t *testing.T, v *Verifier) {
		for _, wait := range []time.Duration{0, 10 * time.Hour, 1000 * time.Hour} {
			time.Sleep(wait)
			id, err := v.Verify(t.Context(), tokenNow(t))
			if err != nil || id.Token.StaleKeys {
				t.Errorf("after %v: %+v, %v; want it verified, keys not stale", wait, id.Token, err)
			}
			_, err = v.Verify(t.Context(), forgedNow("new"))
			wantRefusal(t, "unknown kid", err, ca.KindInvalid, ca.ReasonKeyUnknown)
			if st := v.Ready()[0]; !st.Ready || st.Stale || st.Err != "" {
				t.Errorf("after %v: status %+v", wait, st)
			}
		}
		if m.requests != 0 {
			t.Errorf("%d requests, want none", m.requests)
		}
	})
}

func TestKeySetURLReplacesDiscovery(t *testing.T) {
	p := newProvider(t)
	var paths sync.Map
	p.setOverride(func(w http.ResponseWriter, r *http.Request) {
		paths.Store(r.URL.Path, true)
		_, _ = w.Write(standardKeys())
	})
	// A cluster's issuer is a name that nobody outside of it can resolve.
	is := p.issuer()
	is.URL, is.JWKSURL = "https://kubernetes.default.svc", p.srv.URL+"/openid/v1/jwks"
	is.AllowLoopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if _, err := v.Verify(t.Context(), rs256().token(t, goodHeader(), p.goodClaims().with("iss", is.URL))); err != nil {
		t.Errorf("Verify: %v (status %+v)", err, v.Ready()[0])
	}
	if _, ok := paths.Load("/openid/v1/jwks"); !ok || p.requests.Load() != 1 {
		t.Errorf("%d requests, key set asked for: %v; want that one request", p.requests.Load(), ok)
	}
	is.AllowLoopback = nil
	v, _ = newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "loopback") {
		t.Errorf("unlisted loopback address: status %+v, want it refused", st)
	}
}

func TestDiscoveryQueryIsSent(t *testing.T) {
	p := newProvider(t)
	var query atomic.Value
	p.setOverride(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			_, _ = w.Write(standardKeys())
			return
		}
		query.Store(r.URL.RawQuery)
		_, _ = w.Write([]byte(text(object{"issuer": p.srv.URL, "jwks_uri": p.srv.URL + "/keys?" + r.URL.RawQuery})))
	})
	is := p.issuer()
	is.DiscoveryQuery = "appid=00001111-aaaa-2222-bbbb-3333cccc4444"
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; !st.Ready || query.Load() != is.DiscoveryQuery {
		t.Errorf("status %+v, query %v; want %s", st, query.Load(), is.DiscoveryQuery)
	}
}

func TestBearerTokenIsReadEachTimeAndStaysHome(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	var seen sync.Map
	p := newProvider(t)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Store("other "+r.Header.Get("Authorization"), true)
	}))
	defer other.Close()
	p.setOverride(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.URL.Path+" "+r.Header.Get("Authorization"), true)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		_, _ = w.Write(standardKeys())
	})
	is := p.issuer()
	is.JWKSURL, is.BearerTokenFile = p.srv.URL+"/keys", file
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "bearer token") || p.requests.Load() != 0 {
		t.Errorf("file missing: status %+v after %d requests, want none and an error", st, p.requests.Load())
	}
	for _, token := range []string{"first", "second"} {
		succeed(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
		refreshAll(t, v)
		if _, ok := seen.Load("/keys Bearer " + token); !ok || !v.Ready()[0].Ready {
			t.Errorf("%s token was not sent (status %+v)", token, v.Ready()[0])
		}
	}
	for _, bad := range []string{"", "\n", "two words", "a\nb", "é", strings.Repeat("x", maxBearerBytes+1)} {
		succeed(t, os.WriteFile(file, []byte(bad), 0o600))
		before := p.requests.Load()
		refreshAll(t, v)
		if st := v.Ready()[0]; st.Err == "" || p.requests.Load() != before || bad != "" && len(bad) > 3 && strings.Contains(st.Err, bad) {
			t.Errorf("token %.20q: status %+v, want an error without it and no request", bad, st)
		}
	}
	succeed(t, os.WriteFile(file, []byte("third"), 0o600))
	is.JWKSURL = p.srv.URL + "/moved"
	v, _ = newVerifier(t, Config{Issuers: []Issuer{is}})
	seen.Range(func(k, _ any) bool {
		if strings.HasPrefix(k.(string), "other") {
			t.Errorf("a redirect was followed: %q", k)
		}
		return true
	})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "307") {
		t.Errorf("redirect: status %+v", st)
	}
}

// writePair writes a self-signed client certificate and its key.
func writePair(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	keyDER := must(x509.MarshalPKCS8PrivateKey(key))
	succeed(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	succeed(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

func TestClientCertificateIsReadForEachConnection(t *testing.T) {
	var shown atomic.Value
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		_, _ = w.Write(standardKeys())
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	dir := t.TempDir()
	is := Issuer{Name: "mtls", URL: srv.URL, Audiences: []string{"mayfly"}, RootCAs: pool, JWKSURL: srv.URL + "/keys",
		ClientCertFile: filepath.Join(dir, "c.pem"), ClientKeyFile: filepath.Join(dir, "k.pem")}
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if st := v.Ready()[0]; st.Ready || !strings.Contains(st.Err, "client certificate") {
		t.Errorf("files missing: status %+v", st)
	}
	for _, name := range []string{"old", "new"} {
		writePair(t, is.ClientCertFile, is.ClientKeyFile, name)
		v.issuers[0].fetcher.client.CloseIdleConnections()
		refreshAll(t, v)
		if got := shown.Load(); got != name || !v.Ready()[0].Ready {
			t.Errorf("showed %v, want %s (status %+v)", got, name, v.Ready()[0])
		}
	}
}

func TestProxyIsTheIssuersOwn(t *testing.T) {
	p := newProvider(t)
	var connects atomic.Value
	// A proxy that connects to nobody: that it is asked, and for whom, is enough.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connects.Store(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	is := p.issuer()
	is.URL, is.Proxy = "https://idp.corp.example/realms/x", proxy.URL
	v, _ := newVerifier(t, Config{Issuers: []Issuer{is}})
	if got := connects.Load(); got != "CONNECT idp.corp.example:443" {
		t.Errorf("the proxy was asked for %v (status %+v)", got, v.Ready()[0])
	}
}

func TestBlockedKeysVerifyNothing(t *testing.T) {
	p := newProvider(t)
	thumbprint := must(parseKeySet(standardKeys())).byID["rsa"][0].thumbprint
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}, BlockedKeys: []string{thumbprint}})
	token := rs256().token(t, goodHeader(), p.goodClaims())
	for _, when := range []string{"at first", "after a refresh"} {
		_, err := v.Verify(t.Context(), token)
		wantRefusal(t, when, err, ca.KindInvalid, ca.ReasonKeyBlocked)
		refreshAll(t, v)
	}
	es := signer{"ES256", p256Key()}.token(t, goodHeader().with("kid", "ec").with("alg", "ES256"), p.goodClaims())
	if _, err := v.Verify(t.Context(), es); err != nil {
		t.Errorf("another key: %v", err)
	}
	for _, bad := range []string{"", "rsa", thumbprint[1:], thumbprint + "=", strings.Repeat("!", 43)} {
		if _, err := New(Config{Issuers: []Issuer{p.issuer()}, BlockedKeys: []string{bad}}); err == nil {
			t.Errorf("blocking the key %q is no error", bad)
		}
	}
}

// Two keys under one kid, one of them blocked: the other goes on.
func TestBlockSparesTheNamesake(t *testing.T) {
	p := newProvider(t)
	p.setKeys(jwkSet(publicJWK(rsaKey1().Public()).with("kid", "same"), publicJWK(rsaKey2().Public()).with("kid", "same")))
	blocked := must(parseKeySet(standardKeys())).byID["rsa"][0].thumbprint
	v, _ := newVerifier(t, Config{Issuers: []Issuer{p.issuer()}, BlockedKeys: []string{blocked}})
	header := goodHeader().with("kid", "same")
	if _, err := v.Verify(t.Context(), signer{"RS256", rsaKey2()}.token(t, header, p.goodClaims())); err != nil {
		t.Errorf("the key that is not blocked: %v", err)
	}
	_, err := v.Verify(t.Context(), rs256().token(t, header, p.goodClaims()))
	wantRefusal(t, "the blocked key", err, ca.KindInvalid, ca.ReasonBadSignature)
}
