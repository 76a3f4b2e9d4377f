package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

type object = map[string]any

// idp is a provider that a test can spoil.
type idp struct {
	server    *httptest.Server
	keys      []any
	discovery func(object)
	header    http.Header
	serve     func(w http.ResponseWriter, r *http.Request) bool // true means answered
	asked     []string
}

func newIDP(t testing.TB) *idp {
	i := &idp{keys: []any{rsaJWK(2048, object{"kid": "1", "alg": "RS256", "use": "sig"})}, header: http.Header{}}
	i.server = httptest.NewUnstartedServer(i)
	i.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	return i
}

func (i *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.asked = append(i.asked, r.URL.Path)
	for name, v := range i.header {
		w.Header()[name] = v
	}
	if i.serve != nil && i.serve(w, r) {
		return
	}
	switch r.URL.Path {
	case "/realms/eng/.well-known/openid-configuration":
		doc := object{
			"issuer": i.url(), "jwks_uri": i.server.URL + "/certs", "authorization_endpoint": i.server.URL + "/auth",
			"device_authorization_endpoint": i.server.URL + "/device", "code_challenge_methods_supported": []string{"plain", "S256"},
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "HS256"}, "acr_values_supported": []string{"1", "mfa"},
		}
		if i.discovery != nil {
			i.discovery(doc)
		}
		_ = json.NewEncoder(w).Encode(doc)
	case "/certs":
		_ = json.NewEncoder(w).Encode(object{"keys": i.keys})
	default:
		http.NotFound(w, r)
	}
}

func (i *idp) url() string { return i.server.URL + "/realms/eng" }

func (i *idp) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.server.Certificate())
	return pool
}

func (i *idp) probe(t testing.TB, change func(*Config)) *Report {
	t.Helper()
	cfg := Config{URL: i.url(), RootCAs: i.roots(), CAFile: "ca.pem"}
	if change != nil {
		change(&cfg)
	}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(t testing.TB, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// rsaJWK makes a key whose modulus is odd and of this size, and no more: nothing
// is verified with it.
func rsaJWK(bits int, more object) object {
	n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	k := object{"kty": "RSA", "n": b64(n.Bytes()), "e": "AQAB"}
	maps.Copy(k, more)
	return k
}

func ecJWK(t testing.TB, curve elliptic.Curve, more object) object {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(point) / 2
	k := object{"kty": "EC", "crv": curve.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])}
	maps.Copy(k, more)
	return k
}

func TestASoundProviderIsDescribed(t *testing.T) {
	i := newIDP(t)
	r := i.probe(t, nil)
	got := text(t, r)
	if !r.Usable() || len(r.Findings) != 0 {
		t.Fatalf("findings %v, want none", r.Findings)
	}
	for _, want := range []string{
		"address     127.0.0.1", "clock       the same as here", "TLS         TLS 1.3, certificate of O=Acme Co, signed by",
		"authorization code, PKCE (S256), device", "acr         1, mfa", "RS256, ES256, HS256 (advertised)",
		"  1  RSA 2048  RS256  sig  " + r.Keys[0].Thumbprint + "  used\n",
		"preset: keycloak\n", "url: '" + i.url() + "'", "algorithms: [RS256]\n", "ca_file: 'ca.pem'\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
	if want := []string{"/realms/eng/.well-known/openid-configuration", "/certs"}; !slices.Equal(i.asked, want) {
		t.Errorf("asked for %v, want %v", i.asked, want)
	}
}

func TestFindings(t *testing.T) {
	key := rsaJWK(2048, object{"kid": "1"})
	for name, test := range map[string]struct {
		change func(i *idp)
		config func(c *Config)
		fatal  bool
		what   string
		do     string
	}{
		"slash at the end":   {change: doc("issuer", "+/"), fatal: true, what: "calls itself", do: "write the URL as the provider does"},
		"other issuer":       {change: doc("issuer", "https://inside.example"), fatal: true, what: "https://inside.example", do: "--hostname"},
		"all tenants":        {change: doc("issuer", "https://login.microsoftonline.com/{tenantid}/v2.0"), fatal: true, what: "every tenant", do: "TENANT-ID"},
		"no issuer":          {change: doc("issuer", 7), fatal: true, what: "names no issuer", do: "browser"},
		"no key set":         {change: doc("jwks_uri", nil), fatal: true, what: "no jwks_uri", do: "jwks_file"},
		"keys in clear":      {change: doc("jwks_uri", "http://127.0.0.1/certs"), fatal: true, what: "plain http", do: "https address"},
		"keys by file":       {change: doc("jwks_uri", "file:///etc/passwd"), fatal: true, what: "not usable", do: "public URL"},
		"no PKCE":            {change: doc("code_challenge_methods_supported", nil), what: "PKCE", do: "mayfly login"},
		"redirect":           {change: status(302, "https://evil.example/\u00e9"), fatal: true, what: "redirected (302)", do: "follows no redirect"},
		"not found":          {change: status(404, ""), fatal: true, what: "404", do: "/realms/NAME"},
		"not public":         {change: status(401, ""), fatal: true, what: "401", do: "bearer_token_file"},
		"broken":             {change: status(500, ""), fatal: true, what: "500", do: "log"},
		"HTML":               {change: says("<html>"), fatal: true, what: "not JSON", do: "browser"},
		"duplicate members":  {change: says(`{"issuer":"a","issuer":"b"}`), fatal: true, what: "twice", do: "browser"},
		"endless":            {change: says(strings.Repeat(" ", 2<<20)), fatal: true, what: "longer than", do: "firewall"},
		"connection breaks":  {change: func(i *idp) { i.serve = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) } }, fatal: true, what: "cannot be fetched", do: "firewall"},
		"no keys":            {change: keys(), fatal: true, what: "none of the 0 keys", do: "RSA"},
		"short key":          {change: keys(rsaJWK(1024, nil)), fatal: true, what: "none of the 1 keys", do: "2048"},
		"too many keys":      {change: keys(slices.Repeat([]any{key}, maxKeys+1)...), fatal: true, what: "101 keys", do: "remove"},
		"private key":        {change: keys(key, rsaJWK(2048, object{"d": "AQAB"})), fatal: true, what: "private or symmetric", do: "replace"},
		"symmetric key":      {change: keys(key, object{"kty": "oct", "k": "AQAB"}), fatal: true, what: "private or symmetric", do: "replace"},
		"key without a kid":  {change: keys(rsaJWK(2048, nil)), what: "no kid", do: "add kids"},
		"clock a bit behind": {change: date(-time.Minute), what: "the clocks differ by", do: "clock_skew"},
		"clock far ahead":    {change: date(time.Hour), fatal: true, what: "clocks differ", do: "NTP"},
		"unknown root":       {config: func(c *Config) { c.RootCAs, c.CAFile = nil, "" }, fatal: true, what: "does not verify", do: "--ca-file"},
		"wrong root":         {config: func(c *Config) { c.RootCAs = x509.NewCertPool() }, fatal: true, what: "does not verify", do: "into the file"},
		"certificate ends":   {config: func(c *Config) { c.Clock = func() time.Time { return time.Date(2084, 1, 20, 0, 0, 0, 0, time.UTC) } }, what: "TLS certificate ends", do: "renew"},
		"no name":            {config: resolves(), fatal: true, what: "has no address", do: "DNS"},
		"metadata":           {config: resolves("169.254.169.254"), fatal: true, what: "link-local", do: "DNS"},
		"metadata by IPv6":   {config: resolves("10.0.0.1", "fd00:ec2::254"), fatal: true, what: "metadata", do: "DNS"},
		"mapped link-local":  {config: resolves("::ffff:169.254.1.1"), fatal: true, what: "link-local", do: "DNS"},
		"nowhere":            {config: resolves("0.0.0.0"), fatal: true, what: "no address to connect to", do: "DNS"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIDP(t)
			if test.change != nil {
				test.change(i)
			}
			r := i.probe(t, test.config)
			got := slices.ContainsFunc(r.Findings, func(f Finding) bool {
				return f.Fatal == test.fatal && strings.Contains(f.What, test.what) && strings.Contains(f.Do, test.do)
			})
			if !got {
				t.Errorf("findings %+v, want one (fatal %v) of %q, with %q", r.Findings, test.fatal, test.what, test.do)
			}
			if name != "certificate ends" && r.Usable() == test.fatal {
				t.Errorf("usable is %v, findings %+v", r.Usable(), r.Findings)
			}
			report := text(t, r)
			if strings.ContainsFunc(report, func(c rune) bool { return c != '\n' && c < ' ' || c > '~' }) {
				t.Errorf("the report holds control characters: %q", report)
			}
			if strings.Contains(report, "issuers:") != r.Usable() {
				t.Errorf("a configuration is proposed for an issuer that is usable: %v\n%s", r.Usable(), report)
			}
		})
	}
}

func doc(member string, value any) func(*idp) {
	return func(i *idp) {
		i.discovery = func(d object) {
			d[member] = value
			if value == "+/" {
				d[member] = i.url() + "/"
			}
		}
	}
}

func status(code int, location string) func(*idp) {
	return func(i *idp) {
		i.serve = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", location)
			w.WriteHeader(code)
			return true
		}
	}
}

func says(body string) func(*idp) {
	return func(i *idp) {
		i.serve = func(w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, body)
			return true
		}
	}
}

func keys(list ...any) func(*idp) { return func(i *idp) { i.keys = append([]any{}, list...) } }

func date(off time.Duration) func(*idp) {
	return func(i *idp) { i.header.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat)) }
}

func resolves(list ...string) func(*Config) {
	return func(c *Config) {
		c.Resolve = func(context.Context, string) ([]string, error) {
			if len(list) == 0 {
				return nil, errors.New("no such host")
			}
			return list, nil
		}
	}
}

// TestKeysAreJudgedOneByOne: a key that is of no use spoils none of the others,
// and the algorithms are those of the keys that are.
func TestKeysAreJudgedOneByOne(t *testing.T) {
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	zero := rsaJWK(2048, object{"kid": "jenkins", "alg": "RS256"})
	n, _ := base64.RawURLEncoding.DecodeString(zero["n"].(string))
	zero["n"] = b64(append([]byte{0}, n...)) // as BigInteger.toByteArray writes it
	for _, test := range []struct {
		key        any
		why        string
		algorithms []string
	}{
		{rsaJWK(2048, object{"alg": "PS384"}), "", []string{"PS384"}},
		{rsaJWK(4096, nil), "", []string{"RS256"}}, // advertised
		{zero, "", []string{"RS256"}},
		{rsaJWK(2048, object{"x5c": "nonsense"}), "", []string{"RS256"}},
		{ecJWK(t, elliptic.P256(), nil), "", []string{"ES256"}},
		{ecJWK(t, elliptic.P384(), nil), "", []string{"ES384"}}, // not advertised; there is no other
		{ecJWK(t, elliptic.P521(), object{"alg": "ES512"}), "", []string{"ES512"}},
		{object{"kty": "OKP", "crv": "Ed25519", "x": b64(ed)}, "", []string{"EdDSA"}},
		{rsaJWK(2048, object{"key_ops": []string{"verify"}}), "", []string{"RS256"}},
		{rsaJWK(2048, object{"use": "enc"}), "not for signatures", nil},
		{rsaJWK(2048, object{"key_ops": []string{"encrypt"}}), "not for signatures", nil},
		{rsaJWK(2048, object{"alg": "RSA-OAEP"}), "not one of ours", nil},
		{rsaJWK(2048, object{"alg": "ES256"}), "not one of ours", nil},
		{rsaJWK(2040, nil), "2048", nil},
		{object{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, "not one of ours", nil},
		{object{"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}, "malformed", nil},
		{object{}, "malformed", nil},
		{"x", "not a JSON object", nil},
		{nil, "not a JSON object", nil},
		{rsaJWK(2048, object{"kid": "../../etc/passwd"}), "kid", nil},
		{rsaJWK(2048, object{"kid": "a b"}), "kid", nil},
		{rsaJWK(2048, object{"kid": "a<b>"}), "kid", nil},
	} {
		i := newIDP(t)
		i.keys = []any{test.key, "spoilt"}
		r := i.probe(t, nil)
		if got := r.Keys[0].Why; (got == "") != (test.why == "") || !strings.Contains(got, test.why) {
			t.Errorf("%v: not used because %q, want %q", test.key, got, test.why)
		}
		if !slices.Equal(r.Entry.Algorithms, test.algorithms) || r.Usable() != (test.why == "") {
			t.Errorf("%v: algorithms %v, usable %v; want %v", test.key, r.Entry.Algorithms, r.Usable(), test.algorithms)
		}
	}
}

// TestAdvertisedAlgorithmsCountForKeysThatNameNone, and those that do not fit
// count for nothing.
func TestAdvertisedAlgorithmsCountForKeysThatNameNone(t *testing.T) {
	i := newIDP(t)
	i.keys = []any{rsaJWK(3072, nil)}
	i.discovery = func(d object) {
		d["id_token_signing_alg_values_supported"] = []string{"none", "HS256", "PS256", "ES256", "RS512"}
	}
	if got, want := i.probe(t, nil).Entry.Algorithms, []string{"RS512", "PS256"}; !slices.Equal(got, want) {
		t.Errorf("algorithms %v, want %v", got, want)
	}
}

// TestThumbprint is the example of RFC 7638, Section 3.1.
func TestThumbprint(t *testing.T) {
	k, err := readKey([]byte(`{
		"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
		"n": "` + thumbprintModulus + `"
	}`))
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; err != nil || k.Thumbprint != want {
		t.Errorf("thumbprint %q, error %v; want %q", k.Thumbprint, err, want)
	}
}

func TestKeysElsewhere(t *testing.T) {
	other := newIDP(t)
	i := newIDP(t)
	i.discovery = func(d object) { d["jwks_uri"] = other.server.URL + "/certs" }
	r := i.probe(t, nil)
	host := strings.TrimPrefix(other.server.URL, "https://")
	if !r.Usable() || !slices.Equal(r.Entry.JWKSHosts, []string{host}) || !strings.Contains(text(t, r), "jwks_hosts: ['"+host+"']") {
		t.Errorf("keys at %s: entry %+v, want that host\n%s", host, r.Entry, text(t, r))
	}
}

func TestRunRefusesWhatIsNoIssuer(t *testing.T) {
	for _, bad := range []string{
		"", "keycloak.corp.example", "http://keycloak.corp.example", "https://k.example/?x", "https://k.example/#x", "https://u:p@k.example",
		"https://k.example/.well-known/openid-configuration",
	} {
		if r, err := Run(t.Context(), Config{URL: bad}); err == nil {
			t.Errorf("%q: report %+v, want an error", bad, r)
		}
	}
}

const thumbprintModulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64t" +
	"Z_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO" +
	"pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
