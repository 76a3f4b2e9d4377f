package site

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"time"
)

// Provider signs the tokens of an OpenID provider, whose documents Backend
// serves.
type Provider struct {
	// URL is the issuer.
	URL string
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
}

// The two algorithms that providers use.
const (
	RS256 = "RS256"
	ES256 = "ES256"
)

const audience = "sigstore"

// NewProvider makes a key for each algorithm.
func NewProvider(url string) (*Provider, error) {
	p := &Provider{URL: url}
	var err error
	if p.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, fmt.Errorf("making the provider's key: %w", err)
	}
	if p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making the provider's key: %w", err)
	}
	return p, nil
}

// keySet is the JSON Web Key Set.
func (p *Provider) keySet() (json.RawMessage, error) {
	point, err := p.ec.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding the provider's key: %w", err)
	}
	return json.Marshal(map[string]any{"keys": []any{
		map[string]any{"kty": "RSA", "use": "sig", "alg": RS256, "kid": RS256,
			"n": b64(p.rsa.N.Bytes()), "e": b64(big.NewInt(int64(p.rsa.E)).Bytes())},
		map[string]any{"kty": "EC", "use": "sig", "alg": ES256, "kid": ES256, "crv": "P-256",
			"x": b64(point[1:33]), "y": b64(point[33:])},
	}})
}

// tokenLife is well below what either server accepts. Requests are prepared anew
// for each round, which is shorter.
const tokenLife = 30 * time.Minute

// Token is what a person gets by logging in. Members of change replace the usual
// claims.
func (p *Provider) Token(algorithm, email string, change map[string]any) (string, error) {
	now := time.Now()
	claims := map[string]any{
		"iss": p.URL, "aud": audience, "azp": audience, "sub": "7c1f3f5e-" + email,
		"email": email, "email_verified": true, "typ": "ID", "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}
	maps.Copy(claims, change)
	return p.sign(algorithm, claims)
}

func (p *Provider) sign(algorithm string, claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]any{"alg": algorithm, "typ": "JWT", "kid": algorithm})
	if err != nil {
		return "", fmt.Errorf("encoding a token: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a token: %w", err)
	}
	content := b64(header) + "." + b64(body)
	digest := sha256.Sum256([]byte(content))
	var signature []byte
	switch algorithm {
	case RS256:
		signature, err = rsa.SignPKCS1v15(rand.Reader, p.rsa, crypto.SHA256, digest[:])
	case ES256:
		r, s, signErr := ecdsa.Sign(rand.Reader, p.ec, digest[:])
		if err = signErr; err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	default:
		err = fmt.Errorf("no algorithm is called %q", algorithm)
	}
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return content + "." + b64(signature), nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
