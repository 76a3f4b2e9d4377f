package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// Keys are made once: an RSA key takes longer than all tests of a table.
var (
	rsaKey1    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaKey2    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	ed25519Key = sync.OnceValue(func() ed25519.PrivateKey {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		return must(priv, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// object is JSON under construction.
type object map[string]any

// with returns a copy with name set; a value of absent removes it.
func (o object) with(name string, value any) object {
	c := maps.Clone(o)
	if value == absent {
		delete(c, name)
	} else {
		c[name] = value
	}
	return c
}

type absence struct{}

var absent = absence{}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// publicJWK writes a public key as a JWK without kid, use and alg.
func publicJWK(pub crypto.PublicKey) object {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return object{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point := must(k.Bytes())
		size := len(point) / 2
		return object{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+size]), "y": b64(point[1+size:])}
	case ed25519.PublicKey:
		return object{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	}
	panic(fmt.Sprintf("no JWK for %T", pub))
}

func jwkSet(keys ...object) []byte {
	return must(json.Marshal(object{"keys": keys}))
}

// standardKeys is the set that a provider publishes unless a test says
// otherwise: two ordinary keys, an encryption key, one without use and alg.
func standardKeys() []byte {
	return jwkSet(
		publicJWK(rsaKey1().Public()).with("kid", "rsa").with("use", "sig").with("alg", "RS256"),
		publicJWK(rsaKey2().Public()).with("kid", "enc").with("use", "enc"),
		publicJWK(rsaKey2().Public()).with("kid", "enc-alg").with("use", "enc").with("alg", "RSA-OAEP"),
		publicJWK(p256Key().Public()).with("kid", "ec").with("use", "sig").with("alg", "ES256"),
		publicJWK(rsaKey2().Public()).with("kid", "plain"),
		publicJWK(ed25519Key().Public()).with("kid", "ed"),
	)
}

// provider is an identity provider on loopback that counts what it is asked.
type provider struct {
	srv      *httptest.Server
	requests atomic.Int64
	// mu guards the fields below.
	mu        sync.Mutex
	keys      []byte
	discovery object
	override  http.HandlerFunc
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	p := &provider{keys: standardKeys()}
	p.srv = httptest.NewTLSServer(p)
	t.Cleanup(p.srv.Close)
	p.discovery = object{"issuer": p.srv.URL, "jwks_uri": p.srv.URL + "/keys"}
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	p.mu.Lock()
	keys, discovery, override := p.keys, p.discovery, p.override
	p.mu.Unlock()
	switch {
	case override != nil:
		override(w, r)
	case r.URL.Path == "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(discovery)
	case r.URL.Path == "/keys":
		_, _ = w.Write(keys)
	default:
		http.NotFound(w, r)
	}
}

func (p *provider) setKeys(keys []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

func (p *provider) setDiscovery(d object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discovery = d
}

func (p *provider) setOverride(h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.override = h
}

func (p *provider) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.srv.Certificate())
	return pool
}

// issuer is the configuration entry of p.
func (p *provider) issuer() Issuer {
	return Issuer{
		Name: "test", URL: p.srv.URL, Audiences: []string{"mayfly"}, RootCAs: p.roots(),
		Algorithms: []string{"RS256", "PS256", "ES256", "EdDSA"},
	}
}

// noon is the time of all tests that do not say otherwise.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// clock is a clock that stands still until it is moved.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return noon.Add(time.Duration(c.offset.Load())) }

func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// newVerifier returns a verifier that has fetched keys once.
func newVerifier(t testing.TB, cfg Config) (*Verifier, *clock) {
	t.Helper()
	c := &clock{}
	cfg.Clock = c.now
	v, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	refreshAll(t, v)
	return v, c
}

// refreshAll lets every issuer fetch once, as its refresher would.
func refreshAll(t testing.TB, v *Verifier) {
	t.Helper()
	for _, is := range v.issuers {
		is.refresh(context.Background())
		t.Cleanup(is.fetcher.client.CloseIdleConnections)
	}
}

// signer signs tokens with one key under one alg.
type signer struct {
	alg string
	key crypto.Signer
}

func (s signer) sign(t testing.TB, input string) []byte {
	t.Helper()
	digest := crypto.SHA256.New()
	digest.Write([]byte(input))
	sum := digest.Sum(nil)
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		if strings.HasPrefix(s.alg, "PS") {
			return must(rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum, &rsa.PSSOptions{SaltLength: 32}))
		}
		return must(rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			t.Fatalf("signing: %v", err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	}
	t.Fatalf("no signature with %T", s.key)
	return nil
}

// compact signs header and payload given as text, so that tests can write what
// no encoder would.
func (s signer) compact(t testing.TB, header, payload string) string {
	t.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(s.sign(t, input))
}

func (s signer) token(t testing.TB, header, payload object) string {
	t.Helper()
	return s.compact(t, text(header), text(payload))
}

func text(o object) string { return string(must(json.Marshal(o))) }

func rs256() signer { return signer{"RS256", rsaKey1()} }

func goodHeader() object { return object{"alg": "RS256", "kid": "rsa", "typ": "JWT"} }

func (p *provider) goodClaims() object {
	return object{
		"iss": p.srv.URL, "aud": "mayfly", "sub": "alice",
		"iat": noon.Add(-time.Minute).Unix(), "exp": noon.Add(5 * time.Minute).Unix(),
		"email": "alice@example.com", "email_verified": true,
	}
}

// wantRefusal fails the test unless err is a refusal for reason.
func wantRefusal(t testing.TB, what string, err error, kind ca.Kind, reason ca.Reason) *ca.Refusal {
	t.Helper()
	r := ca.AsRefusal(err)
	if err == nil || r.Reason != reason || r.Kind != kind {
		t.Fatalf("%s: got %v (kind %v), want %s (kind %v)", what, err, r.Kind, reason, kind)
	}
	return r
}

// succeed stops the test if err is one.
func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
