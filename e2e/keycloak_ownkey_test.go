package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// ownKey is a signing key that the administrator made elsewhere and gave to the
// realm. With it, tokens may have any bytes at all; only the key stands for the
// realm.
type ownKey struct {
	key *rsa.PrivateKey
	kid string
}

func (r *hostileRealm) importKey(t testing.TB) ownKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r.k.admin(t, http.MethodPost, "contractors/components", component{
		Name: "imported", ProviderID: "rsa", ProviderType: keyProvider, ParentID: r.k.realmID(t, "contractors"),
		Config: map[string][]string{
			"priority": {"50"}, "algorithm": {"RS256"}, "enabled": {"true"}, "active": {"true"},
			"privateKey": {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))},
		},
	}, nil)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var published struct {
		Keys []struct{ Kid, PublicKey string }
	}
	r.k.admin(t, http.MethodGet, "contractors/keys", nil, &published)
	for _, p := range published.Keys {
		if p.PublicKey == base64.StdEncoding.EncodeToString(public) {
			return ownKey{key, p.Kid}
		}
	}
	t.Fatalf("the realm does not have the imported key: %v", published)
	return ownKey{}
}

// mint signs bytes that need not be JSON.
func (o ownKey) mint(t testing.TB, header map[string]any, payload string) string {
	t.Helper()
	all := map[string]any{"alg": "RS256", "typ": "JWT", "kid": o.kid}
	for name, value := range header {
		all[name] = value
	}
	head, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	content := b64(head) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(content))
	signature, err := rsa.SignPKCS1v15(rand.Reader, o.key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return content + "." + b64(signature)
}

// minted is an attack with a token that no Keycloak would make.
type minted struct {
	name   string
	header map[string]any
	issuer string
	// members follow those that every token has.
	members string
	end     string // after the payload's object
	want    string
}

const (
	own    = `"email":"mallory@contractors.example","email_verified":true`
	others = `"email":"alice@corp.example","email_verified":true`
)

// mintedTable has the attacks with the realm's own key against the realm of url,
// beside the realm eng whose signing key has the given kid.
func mintedTable(realm, eng, engKid string, jwk map[string]any) []minted {
	return []minted{
		{name: "nothing", members: own, want: issued},
		{name: "another's address", members: others, want: foreign},
		{name: "another issuer", issuer: eng, members: others, want: "key_unknown"},
		{name: "another issuer and its key's name", header: map[string]any{"kid": engKid}, issuer: eng, members: others, want: "bad_signature"},
		{name: "another issuer and the key itself", header: map[string]any{"jwk": jwk}, issuer: eng, members: others, want: "key_unknown"},
		{name: "another issuer and where the key is", header: map[string]any{"jku": realm + "/protocol/openid-connect/certs"}, issuer: eng, members: others, want: "key_unknown"},
		{name: "another issuer and no signature", header: map[string]any{"alg": "none"}, issuer: eng, members: others, want: "alg_not_allowed"},
		{name: "an issuer by way of another", issuer: realm + "/../eng", members: others, want: "issuer_unknown"},
		{name: "an issuer with a slash", issuer: eng + "/", members: others, want: "issuer_unknown"},
		{name: "an issuer with a fragment", issuer: realm + "#" + eng, members: others, want: "issuer_unknown"},
		{name: "two addresses", members: own + `,"email":"alice@corp.example"`, want: "token_malformed"},
		{name: "two addresses, one name escaped", members: own + `,"\u0065mail":"alice@corp.example"`, want: "token_malformed"},
		{name: "two issuers", members: own + `,"iss":"` + eng + `"`, want: "token_malformed"},
		{name: "a name that ends with NUL", members: own + `,"email\u0000":"alice@corp.example"`, want: "claim_chars"},
		{name: "a second object", members: own, end: `{"email":"alice@corp.example"}`, want: "token_malformed"},
		{name: "half a character", members: own + `,"name":"\ud800"`, want: "claim_chars"},
		{name: "bytes that are no text", members: own + ",\"name\":\"\xff\xfe\"", want: "claim_chars"},
		{name: "a life of a century", members: own + `,"exp":4102444800`, want: "token_malformed"},
		{name: "an unknown critical header", header: map[string]any{"crit": []string{"b64"}, "b64": true}, members: own, want: "token_malformed"},
		{name: "a key that names a file", header: map[string]any{"kid": "../../etc/passwd"}, members: own, want: "token_malformed"},
		{name: "an access token by its header", header: map[string]any{"typ": "at+jwt"}, members: own, want: "token_type"},
		{name: "a logout token by its header", header: map[string]any{"typ": "logout+jwt"}, members: own, want: "token_type"},
		{name: "a refresh token by its claim", members: own + `,"typ":"Refresh"`, want: "token_type"},
	}
}

// mintedAttacks goes through the table.
func mintedAttacks(t *testing.T, r *hostileRealm, w *world, engKid string) {
	key := r.importKey(t)
	realm, eng := r.k.realm("contractors"), r.k.realm("eng")
	jwk := map[string]any{"kty": "RSA", "n": b64(key.key.N.Bytes()), "e": "AQAB"}
	for _, m := range mintedTable(realm, eng, engKid, jwk) {
		t.Run(m.name, func(t *testing.T) {
			issuer, now := m.issuer, time.Now()
			if issuer == "" {
				issuer = realm
			}
			payload := fmt.Sprintf(`{"iss":%q,"aud":"sigstore","azp":"sigstore","sub":"mallory","iat":%d,"exp":%d,%s}%s`,
				issuer, now.Unix(), now.Add(5*time.Minute).Unix(), m.members, m.end)
			if got := r.outcome(t, w, key.mint(t, m.header, payload)); got != m.want {
				t.Errorf("outcome is %s, want %s", got, m.want)
			}
		})
	}
}
