package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// issuer is an OpenID provider over TLS: discovery, key set and RS256 tokens
// such as a login at Keycloak gives. It issues what it is asked to, but never
// signs what a provider would not.
type issuer struct {
	url      string
	key      *rsa.PrivateKey
	requests atomic.Int64
}

const keyID = "2026-11"

func newIssuer(t testing.TB, p pki) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.file("tls.crt"), p.file("tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	is := &issuer{key: key}
	server := httptest.NewUnstartedServer(http.HandlerFunc(is.serve))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	is.url = server.URL + "/realms/eng"
	return is
}

func (is *issuer) serve(w http.ResponseWriter, r *http.Request) {
	is.requests.Add(1)
	var answer any
	switch r.URL.Path {
	case "/realms/eng/.well-known/openid-configuration":
		answer = map[string]any{
			"issuer": is.url, "jwks_uri": is.url + "/certs",
			"authorization_endpoint": is.url + "/auth", "token_endpoint": is.url + "/token",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
		}
	case "/realms/eng/certs":
		answer = map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": keyID,
			"n": b64(is.key.N.Bytes()), "e": b64(big.NewInt(int64(is.key.E)).Bytes()),
		}}}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// token returns an ID token for a person. Members of change replace the usual
// claims; a nil value removes one.
func (is *issuer) token(t testing.TB, email string, change map[string]any) string {
	t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": is.url, "aud": "sigstore", "azp": "sigstore", "sub": "7c1f3f5e-" + email,
		"email": email, "email_verified": true, "typ": "ID", "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return sign(t, is.key, map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyID}, claims)
}

func sign(t testing.TB, key *rsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	content := b64(h) + "." + b64(c)
	digest := sha256.Sum256([]byte(content))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return content + "." + b64(signature)
}
