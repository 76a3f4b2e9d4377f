package oidc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/ca"
)

const (
	maxKeys = 100
	// maxSameID bounds how many signatures one token can make us check.
	maxSameID  = 4
	minRSABits = 2048
	maxRSABits = 8192
	// minExponent is above 3, with which sloppy signatures can be forged.
	minExponent = 17
)

var jwkLimits = jsonLimits{depth: 4, members: 100}

// key is one usable verification key.
type key struct {
	id         string // empty when the JWK has no kid
	kind       string // that of one of algorithms
	alg        string // the only algorithm it may be used with; empty means any of its kind
	public     crypto.PublicKey
	thumbprint string // RFC 7638, SHA-256, base64url
	// issuer is whom Entra ID says the key signs for; empty means anybody.
	issuer string
	// raw is the JWK as it was read.
	raw json.RawMessage
}

// blocklist holds thumbprints of keys that verify nothing. It is not changed
// once it is in use.
type blocklist map[string]struct{}

func newBlocklist(thumbprints []string) blocklist {
	b := make(blocklist, len(thumbprints))
	for _, p := range thumbprints {
		b[p] = struct{}{}
	}
	return b
}

func (b blocklist) blocked(k *key) bool {
	_, ok := b[k.thumbprint]
	return ok
}

func (k *key) fits(alg string) bool {
	return algorithms[alg].kind == k.kind && (k.alg == "" || k.alg == alg)
}

// signsFor honours the issuer member of Entra ID's keys: one set holds keys for
// tenants of organizations and such that only sign for personal accounts, and a
// token is good only under a key of its own issuer. The tenants' keys have a
// template there. That tid is not verified at this time does no harm: it can
// complete the template to the configured issuer or fail to.
func (k *key) signsFor(t *token) bool {
	if k.issuer == "" || k.issuer == t.issuer {
		return true
	}
	tid, _ := t.claims["tid"].(string)
	return strings.ReplaceAll(k.issuer, "{tenantid}", tid) == t.issuer
}

// keySet is what an issuer's JWK set says. It is immutable.
type keySet struct {
	keys []*key
	byID map[string][]*key
	// forOtherUse holds the kids of keys that are not for signatures.
	forOtherUse map[string]bool
	// dropped says which keys are not used, and why, for the operator.
	dropped []string
	// leaked reports that the issuer publishes a private or symmetric key.
	leaked bool
}

// errLeaked marks a key whose secret part is public.
var errLeaked = errors.New("secret key material is published")

// errOtherUse marks a key that is sound but not for signatures.
var errOtherUse = errors.New("not for signatures")

// parseKeySet reads a JWK set (RFC 7517, Section 5). A key that is malformed,
// weak or unknown is dropped and never spoils its neighbours; a set without a
// usable key, or with too many, is an error.
func parseKeySet(body []byte) (*keySet, error) {
	raws, err := splitKeySet(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	s := &keySet{byID: make(map[string][]*key), forOtherUse: make(map[string]bool)}
	for i, raw := range raws {
		k, id, err := parseKey(raw)
		if err == nil {
			err = s.add(k)
		}
		if errors.Is(err, errOtherUse) && id != "" {
			s.forOtherUse[id] = true
		}
		s.leaked = s.leaked || errors.Is(err, errLeaked)
		if err != nil {
			s.dropped = append(s.dropped, fmt.Sprintf("key %d (kid %.80q): %v", i, id, err))
		}
	}
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("key set has no usable key among %d", len(raws))
	}
	return s, nil
}

// splitKeySet streams, so that ten thousand keys cost no more than a hundred.
func splitKeySet(body io.Reader) ([]json.RawMessage, error) {
	dec := json.NewDecoder(body)
	if err := expect(dec, json.Delim('{')); err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	seen := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("reading key set: %w", err)
		}
		if name != "keys" {
			var skip json.RawMessage
			if err := dec.Decode(&skip); err != nil {
				return nil, fmt.Errorf("reading key set: %w", err)
			}
			continue
		}
		if seen {
			return nil, errors.New("key set has keys twice")
		}
		seen = true
		if err := expect(dec, json.Delim('[')); err != nil {
			return nil, err
		}
		for dec.More() {
			if len(raws) == maxKeys {
				return nil, fmt.Errorf("key set has more than %d keys", maxKeys)
			}
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				return nil, fmt.Errorf("reading key set: %w", err)
			}
			raws = append(raws, raw)
		}
		if err := expect(dec, json.Delim(']')); err != nil {
			return nil, err
		}
	}
	if err := expect(dec, json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the key set")
	}
	return raws, nil
}

func expect(dec *json.Decoder, want json.Delim) error {
	got, err := dec.Token()
	if err != nil {
		return fmt.Errorf("reading key set: %w", err)
	}
	if got != want {
		return fmt.Errorf("key set is not an object with an array of keys: no %q", want)
	}
	return nil
}

// add keeps two keys under one kid: some providers renew a key and keep its
// name, and for a while publish both.
func (s *keySet) add(k *key) error {
	same := s.byID[k.id]
	if slices.ContainsFunc(same, func(o *key) bool { return o.thumbprint == k.thumbprint && o.alg == k.alg && o.issuer == k.issuer }) {
		return errors.New("repeated")
	}
	if len(same) == maxSameID {
		return fmt.Errorf("more than %d keys of this kid", maxSameID)
	}
	s.byID[k.id] = append(same, k)
	s.keys = append(s.keys, k)
	return nil
}

// find returns the keys that may have signed t, or why there are none.
func (s *keySet) find(t *token, blocks blocklist) ([]*key, *ca.Refusal) {
	named := s.byID[t.keyID]
	if !t.hasKeyID {
		if len(s.keys) != 1 {
			return nil, invalid(ca.ReasonKeyUnknown, "token without kid, but the issuer has %d keys", len(s.keys))
		}
		named = s.keys
	}
	if len(named) == 0 {
		if s.forOtherUse[t.keyID] {
			return nil, invalid(ca.ReasonKeyUse, "kid %.80q is %w", t.keyID, errOtherUse)
		}
		return nil, invalid(ca.ReasonKeyUnknown, "no key with kid %.80q", t.keyID)
	}
	fitting := only(named, func(k *key) bool { return k.fits(t.alg) })
	if len(fitting) == 0 {
		return nil, invalid(ca.ReasonKeyAlgMismatch, "alg %s with a key for %s %s", t.alg, named[0].kind, named[0].alg)
	}
	fitting = only(fitting, func(k *key) bool { return k.signsFor(t) })
	if len(fitting) == 0 {
		return nil, invalid(ca.ReasonKeyIssuer, "kid %.80q does not sign for this issuer or tenant", t.keyID)
	}
	fitting = only(fitting, func(k *key) bool { return !blocks.blocked(k) })
	if len(fitting) == 0 {
		return nil, invalid(ca.ReasonKeyBlocked, "kid %.80q is blocked", t.keyID)
	}
	return fitting, nil
}

// only returns the keys that are good, in a list of its own if any are not.
func only(keys []*key, good func(*key) bool) []*key {
	for i, k := range keys {
		if good(k) {
			continue
		}
		some := slices.Clone(keys[:i])
		for _, k := range keys[i+1:] {
			if good(k) {
				some = append(some, k)
			}
		}
		return some
	}
	return keys
}

// parseKey reads one JWK; id is its kid even when the key is refused. x5c and
// x5t are not read: the TLS connection vouches for the set, and a certificate
// that cannot be parsed says nothing about the key beside it.
func parseKey(raw []byte) (k *key, id string, err error) {
	jwk, err := decodeObject(string(raw), jwkLimits)
	if err != nil {
		return nil, "", err
	}
	k = &key{raw: raw}
	if v, present := jwk["kid"]; present {
		k.id, _ = v.(string)
		if err := checkKeyID(k.id); err != nil {
			return nil, "", fmt.Errorf("kid: %w", err)
		}
	}
	if v, present := jwk["alg"]; present {
		if k.alg, _ = v.(string); k.alg == "" {
			return nil, k.id, errors.New("alg is not a string")
		}
	}
	if v, present := jwk["issuer"]; present {
		if k.issuer, _ = v.(string); k.issuer == "" {
			return nil, k.id, errors.New("issuer is empty or not a string")
		}
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, ok := jwk[name]; ok {
			return nil, k.id, fmt.Errorf("%s: %w", name, errLeaked)
		}
	}
	if err := checkUse(jwk); err != nil {
		return nil, k.id, err
	}
	if k.kind, k.public, err = publicKey(jwk); err != nil {
		return nil, k.id, err
	}
	if k.alg != "" && algorithms[k.alg].kind != k.kind {
		if strings.HasPrefix(k.alg, "RSA") || strings.HasPrefix(k.alg, "ECDH") {
			return nil, k.id, fmt.Errorf("alg %.20q: %w", k.alg, errOtherUse)
		}
		return nil, k.id, fmt.Errorf("alg %.20q is not one for %s", k.alg, k.kind)
	}
	sum, err := (&jose.JSONWebKey{Key: k.public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, k.id, fmt.Errorf("thumbprint: %w", err)
	}
	k.thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return k, k.id, nil
}

// checkUse: RFC 7517, Section 4.2 and 4.3; both members are optional.
func checkUse(jwk map[string]any) error {
	if use, ok := jwk["use"]; ok && use != "sig" {
		return fmt.Errorf("use %.20q: %w", fmt.Sprint(use), errOtherUse)
	}
	if v, ok := jwk["key_ops"]; ok {
		if ops, isList := v.([]any); !isList || !slices.Contains(ops, any("verify")) {
			return fmt.Errorf("key_ops without verify: %w", errOtherUse)
		}
	}
	return nil
}

func publicKey(jwk map[string]any) (kind string, pub crypto.PublicKey, err error) {
	switch jwk["kty"] {
	case "RSA":
		pub, err = rsaKey(jwk)
		return "RSA", pub, err
	case "EC":
		return ecKey(jwk)
	case "OKP":
		x, err := octets(jwk, "x", ed25519.PublicKeySize)
		if jwk["crv"] != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
			return "", nil, errors.New("not an Ed25519 key")
		}
		return "Ed25519", ed25519.PublicKey(x), nil
	}
	return "", nil, fmt.Errorf("kty %.20q is not one of ours", fmt.Sprint(jwk["kty"]))
}

// rsaKey: RFC 7518, Section 3.3: "A key of size 2048 bits or larger MUST be
// used". The upper bound is for us: the cost of a check grows with the key.
func rsaKey(jwk map[string]any) (*rsa.PublicKey, error) {
	// One octet more than the maximum: some providers prefix a zero.
	n, err := octets(jwk, "n", maxRSABits/8+1)
	if err != nil {
		return nil, err
	}
	e, err := octets(jwk, "e", 8)
	if err != nil {
		return nil, err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	switch bits := modulus.BitLen(); {
	case bits < minRSABits || bits > maxRSABits:
		return nil, fmt.Errorf("RSA key of %d bits", bits)
	case modulus.Bit(0) == 0:
		return nil, errors.New("RSA modulus is even")
	case exponent.Bit(0) == 0 || exponent.BitLen() > 31 || exponent.Int64() < minExponent:
		return nil, fmt.Errorf("RSA exponent %v", exponent)
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func ecKey(jwk map[string]any) (string, *ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch jwk["crv"] {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return "", nil, fmt.Errorf("crv %.20q is not one of ours", fmt.Sprint(jwk["crv"]))
	}
	size := (curve.Params().BitSize + 7) / 8
	x, errX := octets(jwk, "x", size)
	y, errY := octets(jwk, "y", size)
	// RFC 7518, Section 6.2.1.2: "The length of this octet string MUST be the
	// full size of a coordinate for the curve".
	if errX != nil || errY != nil || len(x) != size || len(y) != size {
		return "", nil, errors.New("coordinates are malformed")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return "", nil, errors.New("point is not on the curve")
	}
	return curve.Params().Name, pub, nil
}

// octets decodes a base64url member of at most limit octets.
func octets(jwk map[string]any, name string, limit int) ([]byte, error) {
	s, ok := jwk[name].(string)
	if !ok || s == "" || base64.RawURLEncoding.DecodedLen(len(s)) > limit {
		return nil, fmt.Errorf("%s is missing or too long", name)
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%s is not base64url", name)
	}
	return b, nil
}
