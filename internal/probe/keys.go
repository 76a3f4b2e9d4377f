package probe

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/internal/login/endpoint"
)

const (
	maxKeys    = 100 // the service takes no more
	minRSABits = 2048
	maxRSABits = 8192
)

// algorithms are the ones that can be configured, with the kind of key they take.
var algorithms = []struct{ name, kind string }{
	{"RS256", "RSA"}, {"RS384", "RSA"}, {"RS512", "RSA"},
	{"PS256", "RSA"}, {"PS384", "RSA"}, {"PS512", "RSA"},
	{"ES256", "P-256"}, {"ES384", "P-384"}, {"ES512", "P-521"}, {"EdDSA", "Ed25519"},
}

// Key is one key of the provider's set.
type Key struct {
	ID, Kind, Alg, Use string
	Bits               int
	// Thumbprint is what audit records and blocked_keys name the key by: RFC
	// 7638, SHA-256, base64url.
	Thumbprint string
	// Why says why the key is not used; empty when it is.
	Why string
}

// keys reads the key set and derives the algorithms from it.
func (p *probe) keys(body []byte, doc map[string]any) {
	list, err := splitSet(body)
	switch {
	case err != nil:
		p.Fatal("check jwks_uri: another program may answer there", "the key set cannot be read: %v", err)
		return
	case len(list) > maxKeys:
		p.Fatal("remove the keys that are no longer used", "the key set has %d keys, more than the %d that the service takes", len(list), maxKeys)
		return
	}
	var leaked bool
	for _, v := range list {
		k, err := readKey(v)
		leaked = leaked || errors.Is(err, errLeaked)
		if err != nil {
			k.Why = endpoint.Plain(err.Error(), 200)
		}
		p.Keys = append(p.Keys, k)
	}
	if leaked {
		p.Fatal("replace the key at the provider now, wherever it is used: everybody can sign with it",
			"the key set publishes a private or symmetric key")
	}
	if p.Entry.Algorithms = usedAlgorithms(p.Keys, doc); len(p.Entry.Algorithms) == 0 {
		p.Fatal("give the provider a key of RSA (2048 bits or more), P-256, P-384, P-521 or Ed25519 for signatures",
			"none of the %d keys can be used", len(list))
	}
	if slices.ContainsFunc(p.Keys, func(k Key) bool { return k.Why == "" && k.ID == "" }) {
		p.Advise("let the provider add kids: tokens that name no key are refused", "a key has no kid")
	}
}

// splitSet leaves the keys as they are, so that one that cannot be read spoils
// none of the others.
func splitSet(body []byte) ([]json.RawMessage, error) {
	var (
		set  map[string]json.RawMessage
		list []json.RawMessage
	)
	if json.Unmarshal(body, &set) != nil {
		return nil, errors.New("not a JSON object")
	}
	if json.Unmarshal(set["keys"], &list) != nil || list == nil {
		return nil, errors.New("it has no list of keys")
	}
	return list, nil
}

var errLeaked = errors.New("its private part is published")

// readKey reads a JWK by the rules of the service: x5c is not looked at.
func readKey(text []byte) (Key, error) {
	jwk, err := endpoint.Object(text)
	if err != nil {
		return Key{}, err
	}
	k := Key{
		ID:   endpoint.Plain(endpoint.Text(jwk, "kid"), 80),
		Kind: endpoint.Plain(endpoint.Text(jwk, "kty"), 20),
		Alg:  endpoint.Plain(endpoint.Text(jwk, "alg"), 20),
		Use:  endpoint.Plain(endpoint.Text(jwk, "use"), 20),
	}
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, ok := jwk[member]; ok {
			return k, errLeaked
		}
	}
	if err := checkTexts(jwk); err != nil {
		return k, err
	}
	public, err := k.read(jwk)
	if err != nil {
		return k, err
	}
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return k, errors.New("it has no thumbprint")
	}
	k.Thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	if use, ok := jwk["use"]; ok && use != "sig" {
		return k, errors.New("not for signatures")
	}
	if _, ok := jwk["key_ops"]; ok && !endpoint.Offers(jwk, "key_ops", "verify") {
		return k, errors.New("not for signatures")
	}
	if k.Kind == "RSA" && (k.Bits < minRSABits || k.Bits > maxRSABits) {
		return k, fmt.Errorf("RSA keys have %d to %d bits", minRSABits, maxRSABits)
	}
	if k.Alg != "" && len(fitting(k)) == 0 {
		return k, errors.New("its algorithm is not one of ours")
	}
	return k, nil
}

// keyID is what a kid may look like: visible, without what quotes and escapes.
var keyID = regexp.MustCompile(`^[!#-&(-:=?-\[\]-_a-~]{1,256}$`)

// checkTexts: both members are optional, but if they are there, they say
// something.
func checkTexts(jwk map[string]any) error {
	if v, ok := jwk["kid"]; ok {
		kid, _ := v.(string)
		if !keyID.MatchString(kid) || strings.Contains(kid, "../") {
			return errors.New("its kid is empty, too long or holds characters that no kid should")
		}
	}
	if v, ok := jwk["alg"]; ok {
		if alg, _ := v.(string); alg == "" {
			return errors.New("its alg is not text")
		}
	}
	return nil
}

// read decodes the public key and sets kind and size.
func (k *Key) read(jwk map[string]any) (any, error) {
	plain := make(map[string]any)
	for _, member := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if v, ok := jwk[member]; ok {
			plain[member] = v
		}
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return nil, errors.New("malformed")
	}
	var key jose.JSONWebKey
	if key.UnmarshalJSON(text) != nil || !key.Valid() {
		return nil, errors.New("malformed, or of a kind that is not one of ours")
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		k.Kind, k.Bits = "RSA", public.N.BitLen()
	case *ecdsa.PublicKey:
		k.Kind, k.Bits = public.Params().Name, public.Params().BitSize
	case ed25519.PublicKey:
		k.Kind, k.Bits = "Ed25519", 256
	default:
		return nil, errors.New("of a kind that is not one of ours")
	}
	return key.Key, nil
}

// fitting lists the algorithms that a key may be used with.
func fitting(k Key) (list []string) {
	for _, a := range algorithms {
		if a.kind == k.Kind && (k.Alg == "" || k.Alg == a.name) {
			list = append(list, a.name)
		}
	}
	return list
}

// usedAlgorithms are those that a usable key names, or fits and the provider
// advertises: no more is worth allowing. A key that says nothing at a provider
// that says nothing is for the first that fits, RS256 for RSA.
func usedAlgorithms(keys []Key, doc map[string]any) []string {
	found := make(map[string]bool)
	for _, k := range keys {
		if k.Why != "" {
			continue
		}
		list := fitting(k)
		if advertised := slices.DeleteFunc(slices.Clone(list), func(a string) bool {
			return !endpoint.Offers(doc, "id_token_signing_alg_values_supported", a)
		}); k.Alg == "" && len(advertised) > 0 {
			list = advertised
		} else if k.Alg == "" {
			list = list[:1]
		}
		for _, a := range list {
			found[a] = true
		}
	}
	var used []string
	for _, a := range algorithms {
		if found[a.name] {
			used = append(used, a.name)
		}
	}
	return used
}

// String is a line of the report.
func (k Key) String() string {
	kind := k.Kind
	if k.Kind == "RSA" && k.Bits > 0 {
		kind = fmt.Sprintf("RSA %d", k.Bits)
	}
	verdict := "used"
	if k.Why != "" {
		verdict = "not used: " + k.Why
	}
	words := []string{cmp.Or(k.ID, "(no kid)"), cmp.Or(kind, "(no kty)"), cmp.Or(k.Alg, "(any alg)"), cmp.Or(k.Use, "(any use)"), cmp.Or(k.Thumbprint, "(no thumbprint)")}
	return strings.Join(words, "  ") + "  " + verdict
}
